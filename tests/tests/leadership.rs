//! Two operators, one leader, on a real API server: crashed, ended, and stopped for longer than its time.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{Api, api::PostParams};
use quorate_crds::names::FENCING_TOKEN;
use quorate_tests::{
    Cluster,
    helm::Helm,
    programs::{self, Program},
    scene::Scene,
    wait::wait_for,
};
use rustix::process::Signal;

async fn operator(scene: &Scene<'_>, name: &str) -> Program {
    let arguments = [
        "--namespace",
        &scene.namespace,
        "--leader-elect",
        "--leader-elect-namespace",
        &scene.namespace,
        "--leader-elect-seconds=2",
        "--pod-name",
        name,
    ];
    let log = scene.path(&format!("{name}.log"));
    programs::operator(&scene.cluster.kubeconfig(0), &arguments, &log).await.unwrap()
}

async fn leads(operator: &Program) -> bool {
    let metrics = operator.get("/metrics").await.map(|(_, body)| body).unwrap_or_default();
    metrics.lines().any(|line| line == "quorate_operator_leads 1")
}

/// The head, once it shows this value: its term.
async fn published(scene: &Scene<'_>, value: &str) -> u64 {
    let secrets: Api<Secret> = Api::namespaced(scene.cluster.client().await.unwrap(), &scene.namespace);
    wait_for(&format!("the head to say {value}"), || async {
        let head = secrets.get_opt("web.quorate").await.unwrap().unwrap_or_default();
        let text = head.data.and_then(|data| data.get("a.yaml").map(|text| text.0.clone())).unwrap_or_default();
        let token = head.metadata.annotations.and_then(|all| all.get(FENCING_TOKEN)?.parse().ok());
        if text == format!("a: {value}\n").as_bytes() {
            token.ok_or("no term".to_owned())
        } else {
            Err("another".into())
        }
    })
    .await
    .unwrap()
}

fn apply(scene: &Scene<'_>, value: &str) {
    let spec = format!("{{layers: [{{name: a, inline: {{a: {value}}}}}], files: [{{path: a.yaml}}]}}");
    scene.apply(&scene.config("web", &spec));
}

async fn holder(scene: &Scene<'_>) -> String {
    let leases: Api<Lease> = Api::namespaced(scene.cluster.client().await.unwrap(), &scene.namespace);
    let lease = leases.get_opt("quorate-operator").await.unwrap();
    lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default()
}

/// The claims of those who lead and who wait.
async fn claims(scene: &Scene<'_>) -> String {
    let leases: Api<Lease> = Api::namespaced(scene.cluster.client().await.unwrap(), &scene.namespace);
    let lease = leases.get("quorate-operator").await.unwrap();
    lease.metadata.annotations.unwrap_or_default().remove("quorate.io/lock").unwrap_or_default()
}

async fn until_led_by(scene: &Scene<'_>, operator: &Program, name: &str) {
    wait_for(&format!("{name} to lead"), || async {
        let holder = holder(scene).await;
        if holder.starts_with(name) && leads(operator).await { Ok(()) } else { Err(holder) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_operator_leads_and_another_follows_it_however_it_ends() {
    let cluster = Cluster::start().await.unwrap();
    cluster.install_crds().await.unwrap();
    let scene = Scene::new(&cluster);
    let mut a = operator(&scene, "op-a").await;
    until_led_by(&scene, &a, "op-a").await;
    let mut b = operator(&scene, "op-b").await;
    // Who waits is ready, as it knows all that the leader knows; and it writes nothing.
    b.ready().await.unwrap();
    assert!(!leads(&b).await);
    apply(&scene, "one");
    let first = published(&scene, "one").await;

    // Crashed.
    a.process.kill();
    apply(&scene, "two");
    let second = published(&scene, "two").await;
    assert!(second > first, "{second} after {first}");
    until_led_by(&scene, &b, "op-b").await;

    // Ended: it hands over, and says so.
    a = operator(&scene, "op-a").await;
    a.ready().await.unwrap();
    b.process.signal(Signal::TERM);
    until_led_by(&scene, &a, "op-a").await;
    b.process.wait();
    apply(&scene, "three");
    let third = published(&scene, "three").await;
    assert!(third > second, "{third} after {second}");

    // Ended while it waits: it leaves no claim behind, whose turn would come, and whose time would have to pass then.
    b = operator(&scene, "op-b").await;
    wait_for("op-b to be a candidate", || async {
        let claims = claims(&scene).await;
        if claims.contains("op-b") { Ok(()) } else { Err(claims) }
    })
    .await
    .unwrap();
    b.process.signal(Signal::TERM);
    b.process.wait();
    let left = claims(&scene).await;
    assert!(left.contains("op-a") && !left.contains("op-b"), "{left}");

    // Stopped for longer than its time: when it goes on it writes nothing, and ends.
    b = operator(&scene, "op-b").await;
    b.ready().await.unwrap();
    a.process.signal(Signal::STOP);
    apply(&scene, "four");
    let fourth = published(&scene, "four").await;
    a.process.signal(Signal::CONT);
    a.process.wait();
    let told = a.process.output();
    assert!(told.contains("does not lead any more"), "{told}");
    assert_eq!(published(&scene, "four").await, fourth);
    until_led_by(&scene, &b, "op-b").await;

    // What a deposed one wrote that does not know it, the API server would refuse, though nobody wrote in between.
    let policy = Helm::new(None).unwrap().template(&["-s", "templates/policy-fencing.yaml"]).unwrap();
    let file = scene.path("policy.yaml");
    fs::write(&file, policy).unwrap();
    scene.cluster.kubectl(&["apply", "-f", &file.display().to_string()]).unwrap();
    let secrets: Api<Secret> = Api::namespaced(scene.cluster.client().await.unwrap(), &scene.namespace);
    let write = |term: u64| {
        let secrets = secrets.clone();
        async move {
            let mut head = secrets.get("web.quorate").await.unwrap();
            let annotations = head.metadata.annotations.get_or_insert_default();
            annotations.insert(FENCING_TOKEN.to_owned(), term.to_string());
            annotations.insert("written-in-term".to_owned(), format!("{term} {}", rand()));
            secrets.replace("web.quorate", &PostParams::default(), &head).await.map(drop)
        }
    };
    let refused = wait_for("the deposed to be refused", || async {
        // A policy is in force a moment after it was created; until then the token is put right again.
        match write(third).await {
            Err(kube::Error::Api(status)) if status.code != 409 => Ok(status.message.clone()),
            Err(other) => Err(other.to_string()),
            Ok(()) => write(fourth).await.map_or_else(|error| Err(error.to_string()), |()| Err("written".to_owned())),
        }
    })
    .await
    .unwrap();
    assert!(refused.contains("deposed"), "{refused}");
    write(fourth).await.unwrap();
}

fn rand() -> String {
    quorate_coordination::Random::from_system().unwrap().id()
}
