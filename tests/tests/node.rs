//! What users rely on, on a real node: the chart is installed by Helm, and operator, sidecars and applications are pods.
//! One cluster for all; each test has it to itself, since most of them break something.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering},
};

use quorate_tests::{
    Cluster,
    helm::Helm,
    installation::{self, SYSTEM, helm, pod},
    names, node,
    scene::condition,
    wait::{DEADLINE, wait_for},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::{Mutex, MutexGuard, OnceCell, mpsc},
};

const OPERATOR: &str = "app.kubernetes.io/component=operator";
const REPLICAS: usize = 3;

/// The cluster; none where there can be no node.
async fn cluster() -> Option<MutexGuard<'static, Cluster>> {
    static SHARED: OnceCell<Mutex<Cluster>> = OnceCell::const_new();
    if !node::available() {
        return None;
    }
    let shared = SHARED.get_or_init(|| async { Mutex::new(installation::cluster().await.unwrap()) }).await;
    Some(shared.lock().await)
}

/// A namespace with config web.
struct Shop {
    namespace: String,
}

/// A pod of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pod {
    name: String,
    uid: String,
    /// The sidecar's, if it has one.
    container: String,
    restarts: u64,
    /// The application's container.
    app: String,
    app_restarts: u64,
    ready: bool,
}

impl Pod {
    /// What its application would read, by the node's own paths: it needs no API server.
    fn on_disk(&self, cluster: &Cluster) -> String {
        let volume = cluster.node.as_ref().unwrap().volume(&self.uid, "empty-dir", "quorate");
        fs::read_to_string(volume.join("web/f.yaml")).unwrap()
    }
}

impl Shop {
    fn new(cluster: &Cluster) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let namespace = format!("shop-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        cluster.kubectl(&["create", "namespace", &namespace]).unwrap();
        Self { namespace }
    }

    /// One with three pods that show revision 1.
    async fn with_pods(cluster: &Cluster, rollout: &str) -> Self {
        let shop = Self::new(cluster);
        shop.apply(cluster, &config("one", rollout));
        shop.deploy(cluster, &json!({"quorate.io/config": "web"}));
        shop.all_show(cluster, "one").await;
        shop
    }

    /// Makes the Deployment web.
    fn deploy(&self, cluster: &Cluster, annotations: &Value) {
        self.kubectl(cluster, &["create", "serviceaccount", "web"]).unwrap();
        let labels = json!({"app": "web", "quorate.io/inject": "true"});
        let mut template = pod(&json!({"labels": labels, "annotations": annotations}));
        template["spec"]["serviceAccountName"] = json!("web");
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"replicas": REPLICAS, "selector": {"matchLabels": {"app": "web"}},
                     "template": {"metadata": template["metadata"], "spec": template["spec"]}},
        });
        self.apply(cluster, &deployment.to_string());
    }

    fn kubectl(&self, cluster: &Cluster, words: &[&str]) -> anyhow::Result<String> {
        cluster.kubectl(&[&["-n", &self.namespace], words].concat())
    }

    fn get(&self, cluster: &Cluster, words: &[&str]) -> Result<Value, String> {
        let text = self.kubectl(cluster, &[&["get", "-o", "json"], words].concat()).map_err(|e| e.to_string())?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    fn apply(&self, cluster: &Cluster, manifest: &str) {
        let file = cluster.folder().join("applied");
        fs::write(&file, manifest).unwrap();
        self.kubectl(cluster, &["apply", "-f", &file.display().to_string()]).unwrap();
    }

    /// The pods of the Deployment that are not ending.
    fn pods(&self, cluster: &Cluster) -> Result<Vec<Pod>, String> {
        let list = self.get(cluster, &["pods", "-l", "app=web"])?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let items = list["items"].as_array().into_iter().flatten();
        let pods = items.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).map(|pod| {
            let (sidecar, app) = (&pod["status"]["initContainerStatuses"][0], &pod["status"]["containerStatuses"][0]);
            Pod {
                name: text(&pod["metadata"]["name"]),
                uid: text(&pod["metadata"]["uid"]),
                container: text(&sidecar["containerID"]),
                restarts: sidecar["restartCount"].as_u64().unwrap_or_default(),
                app: text(&app["containerID"]),
                app_restarts: app["restartCount"].as_u64().unwrap_or_default(),
                ready: condition(pod, "Ready")["status"] == "True",
            }
        });
        Ok(pods.collect())
    }

    /// Waits until the pods are as many as they should be, ready, and otherwise so.
    async fn until(&self, cluster: &Cluster, what: &str, are_so: impl Fn(&[Pod]) -> bool) -> Vec<Pod> {
        wait_for(what, || async {
            let pods = self.pods(cluster)?;
            let ready = pods.len() == REPLICAS && pods.iter().all(|pod| pod.ready);
            if ready && are_so(&pods) { Ok(pods) } else { Err(format!("{pods:?}")) }
        })
        .await
        .unwrap()
    }

    /// The pods, once they are ready.
    async fn ready(&self, cluster: &Cluster) -> Vec<Pod> {
        self.until(cluster, "the pods to be ready", |_| true).await
    }

    /// The pods are the same, with the same sidecars, once they are ready (which kubelet asks anew when it starts).
    async fn is_still(&self, cluster: &Cluster, before: &[Pod]) {
        self.until(cluster, "the same pods to be ready", |pods| pods == before).await;
    }

    /// Waits until every pod's application reads this.
    async fn all_show(&self, cluster: &Cluster, x: &str) {
        for pod in self.ready(cluster).await {
            self.shows(cluster, &pod.name, "/etc/quorate/web/f.yaml", x).await;
        }
    }

    async fn shows(&self, cluster: &Cluster, pod: &str, path: &str, x: &str) {
        wait_for(&format!("{pod} to read {x}"), || async {
            let read = self.kubectl(cluster, &["exec", pod, "-c", "app", "--", "cat", path]);
            let read = read.map_err(|error| error.to_string())?;
            if read == format!("x: {x}\n") { Ok(()) } else { Err(read) }
        })
        .await
        .unwrap();
    }

    /// Waits until something of the config's status is so.
    async fn status(&self, cluster: &Cluster, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, || async {
            let config = self.get(cluster, &["dcfg", "web"])?;
            if is_so(&config["status"]) { Ok(config) } else { Err(config["status"].to_string()) }
        })
        .await
        .unwrap()
    }

    /// Leaves nothing running for the next test. (Not in Drop: a failed test's pods are there to be looked at.)
    fn close(self, cluster: &Cluster) {
        cluster.kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]).unwrap();
    }
}

fn config(x: &str, rollout: &str) -> String {
    format!(
        "apiVersion: quorate.io/v1alpha1\nkind: DistributedConfig\nmetadata: {{name: web}}\nspec:\n  \
         layers: [{{name: a, inline: {{x: {x}}}}}]\n  files: [{{path: f.yaml}}]\n  access: {{serviceAccounts: [web]}}\n  \
         selector: {{matchLabels: {{app: web}}}}\n  rollout: {{{rollout}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn three_pods_wait_for_their_files_and_each_change_arrives_in_all() {
    let Some(cluster) = cluster().await else { return };
    let shop = Shop::new(&cluster);
    shop.deploy(&cluster, &json!({"quorate.io/config": "web"}));
    // No application starts without its files.
    wait_for("the sidecars to wait", || async {
        let pods = shop.get(&cluster, &["pods", "-l", "app=web"])?;
        let waits = |pod: &&Value| {
            let (sidecar, app) = (&pod["status"]["initContainerStatuses"][0], &pod["status"]["containerStatuses"][0]);
            sidecar["state"]["running"].is_object()
                && sidecar["started"] == false
                && app["state"]["waiting"].is_object()
        };
        let waiting = pods["items"].as_array().into_iter().flatten().filter(waits).count();
        if waiting == REPLICAS { Ok(()) } else { Err(pods["items"].to_string()) }
    })
    .await
    .unwrap();
    shop.apply(&cluster, &config("one", "strategy: Immediate"));
    shop.all_show(&cluster, "one").await;
    for x in ["two", "three"] {
        shop.apply(&cluster, &config(x, "strategy: Immediate"));
        shop.all_show(&cluster, x).await;
    }
    shop.status(&cluster, "3/3 to be told", |status| status["pods"]["summary"] == "3/3").await;

    // The sidecar has no more of the node than it needs.
    for pod in shop.ready(&cluster).await {
        let status = cluster.node.as_ref().unwrap().process(&pod.container).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")).unwrap();
            line.to_owned()
        };
        assert_eq!(field("Uid"), "65532\t65532\t65532\t65532");
        assert_eq!((field("CapEff"), field("CapBnd")), ("0".repeat(16), "0".repeat(16)));
        assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"));
    }
    shop.close(&cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_volume_of_the_head_works_without_a_sidecar() {
    let Some(cluster) = cluster().await else { return };
    let shop = Shop::new(&cluster);
    let mut plain = pod(&json!({"name": "plain", "labels": {"app": "web"}}));
    plain["spec"]["volumes"] = json!([{"name": "head", "secret": {"secretName": "web.quorate"}}]);
    plain["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "head", "mountPath": "/files"}]);
    // It waits for the head, as kubelet does for any Secret.
    wait_for("the default service account", || async {
        shop.kubectl(&cluster, &["get", "serviceaccount", "default"]).map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    shop.apply(&cluster, &plain.to_string());
    shop.apply(&cluster, &config("one", "strategy: Immediate"));
    shop.shows(&cluster, "plain", "/files/f.yaml", "one").await;
    // kubelet would look after a minute; the operator's nudge makes it look at once.
    shop.apply(&cluster, &config("two", "strategy: Immediate"));
    shop.shows(&cluster, "plain", "/files/f.yaml", "two").await;
    let told = |status: &Value| status["pods"]["delivered"] == 1 && status["pods"]["applied"] == 0;
    shop.status(&cluster, "a delivery without acknowledgement to be told", told).await;
    shop.close(&cluster);
}

/// The programs are static, so they resolve names without the C library's usual help.
#[tokio::test(flavor = "multi_thread")]
async fn hooks_and_gates_are_found_by_their_names() {
    let Some(cluster) = cluster().await else { return };
    let here: Ipv4Addr = cluster.node.as_ref().unwrap().machine().host_address().parse().unwrap();
    let names = names::serve(here).await.unwrap();
    let (hook, mut told) = endpoint(here).await;
    let (gate, mut asked) = endpoint(here).await;
    let rollout = format!(
        "strategy: Canary, steps: [{{pods: 1}}], \
         gates: [{{name: smoke, http: {{url: 'http://smoke.quorate.test:{gate}/healthz'}}}}]"
    );
    let shop = Shop::new(&cluster);
    shop.apply(&cluster, &config("one", &rollout));
    let hook = format!("http://hook.quorate.test:{hook}/changed");
    shop.deploy(&cluster, &json!({"quorate.io/config": "web", "quorate.io/notify-http": hook}));
    shop.ready(&cluster).await;
    shop.apply(&cluster, &config("two", &rollout));
    shop.all_show(&cluster, "two").await;
    assert!(asked.recv().await.unwrap().starts_with("GET /healthz"));
    let all_told = async {
        let mut of_two = 0;
        while of_two < REPLICAS {
            let request = told.recv().await.unwrap();
            assert!(request.starts_with("POST /changed"), "{request}");
            of_two += usize::from(request.contains("\"revision\":2"));
        }
    };
    tokio::time::timeout(DEADLINE, all_told).await.expect("each pod's sidecar tells the hook");
    names.abort();
    shop.close(&cluster);
}

/// A server that answers 200; its port, and what it is sent.
async fn endpoint(address: Ipv4Addr) -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = mpsc::channel(1024);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = String::new();
            // The body of a POST is a JSON object here; a GET has none.
            while !(request.ends_with('}') || request.starts_with("GET") && request.ends_with("\r\n\r\n")) {
                let mut part = [0; 1024];
                match stream.read(&mut part).await {
                    Ok(size @ 1..) => request += &String::from_utf8_lossy(&part[..size]),
                    _ => break,
                }
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            sender.send(request).await.unwrap();
        }
    });
    (port, receiver)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_killed_comes_back_to_its_files_and_so_does_a_deleted_pods_successor() {
    let Some(cluster) = cluster().await else { return };
    let shop = Shop::with_pods(&cluster, "strategy: Immediate").await;
    let pods = shop.ready(&cluster).await;
    let (killed, deleted) = (&pods[0], &pods[1]);
    cluster.node.as_ref().unwrap().kill_container(&killed.container).unwrap();
    assert_eq!(killed.on_disk(&cluster), "x: one\n");
    let after = shop.until(&cluster, "the sidecar to be restarted", |pods| {
        pods.iter().any(|pod| pod.uid == killed.uid && pod.restarts == 1)
    });
    after.await;
    assert_eq!(killed.on_disk(&cluster), "x: one\n");
    shop.apply(&cluster, &config("two", "strategy: Immediate"));
    shop.all_show(&cluster, "two").await;

    // The application alone, beside a sidecar that goes on.
    let began = &pods[2];
    cluster.node.as_ref().unwrap().kill_container(&began.app).unwrap();
    let restarted = |pod: &Pod| pod.uid == began.uid && pod.app_restarts == 1 && pod.container == began.container;
    shop.until(&cluster, "the application to be restarted", |pods| pods.iter().any(restarted)).await;
    shop.shows(&cluster, &began.name, "/etc/quorate/web/f.yaml", "two").await;

    shop.kubectl(&cluster, &["delete", "pod", &deleted.name]).unwrap();
    shop.until(&cluster, "another pod", |pods| pods.iter().all(|pod| pod.uid != deleted.uid)).await;
    shop.all_show(&cluster, "two").await;
    // What the deleted pod said went with it.
    wait_for("the ConfigReplicas to be those of the pods", || async {
        let list = shop.get(&cluster, &["configreplicas"])?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let replicas = list["items"].as_array().into_iter().flatten();
        let mut told: Vec<(String, bool)> =
            replicas.map(|replica| (text(&replica["spec"]["podUid"]), replica["spec"]["runs"] == 2)).collect();
        let mut all: Vec<(String, bool)> = shop.pods(&cluster)?.into_iter().map(|pod| (pod.uid, true)).collect();
        told.sort();
        all.sort();
        if told == all { Ok(()) } else { Err(format!("{told:?}, but {all:?}")) }
    })
    .await
    .unwrap();
    shop.close(&cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_ends_though_the_operator_is_killed_and_then_its_pod_deleted() {
    let Some(cluster) = cluster().await else { return };
    let canary = "strategy: Canary, steps: [{pods: 1, bake: 3s}, {pods: 2, bake: 3s}]";
    let shop = Shop::with_pods(&cluster, canary).await;
    let container = |operator: &str| {
        let status = "jsonpath={.status.containerStatuses[0]}";
        let status = cluster.kubectl(&["-n", SYSTEM, "get", "pod", operator, "-o", status]).unwrap();
        serde_json::from_str::<Value>(&status).unwrap()
    };
    let at_step = |step: i64| move |status: &Value| status["candidate"]["step"] == step;
    let killed = led_by(&cluster, |_| true).await;
    let before = container(&killed);

    shop.apply(&cluster, &config("two", canary));
    shop.status(&cluster, "the first step", at_step(1)).await;
    cluster.node.as_ref().unwrap().kill_container(before["containerID"].as_str().unwrap()).unwrap();
    shop.status(&cluster, "the second step", at_step(2)).await;
    // At once: the rollout is to be under way still.
    let deleted = led_by(&cluster, |name| name != killed).await;
    cluster.kubectl(&["-n", SYSTEM, "delete", "pod", &deleted, "--grace-period=0", "--force"]).unwrap();
    let ended = |status: &Value| status["revision"] == 2 && status["phase"] == "Published";
    shop.status(&cluster, "the rollout to end", ended).await;
    led_by(&cluster, |name| name != deleted).await;
    wait_for("the killed operator to be restarted", || async {
        let now = container(&killed);
        if now["restartCount"].as_u64() > before["restartCount"].as_u64() { Ok(()) } else { Err(now.to_string()) }
    })
    .await
    .unwrap();
    shop.all_show(&cluster, "two").await;
    shop.close(&cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_outlive_the_api_server_and_changes_go_on_after_it() {
    let Some(mut cluster) = cluster().await else { return };
    let shop = Shop::with_pods(&cluster, "strategy: Immediate").await;
    let pods = shop.ready(&cluster).await;
    cluster.kill_api_server(0);
    for pod in &pods {
        assert_eq!(pod.on_disk(&cluster), "x: one\n");
    }
    cluster.restart_api_server(0).await.unwrap();
    shop.apply(&cluster, &config("two", "strategy: Immediate"));
    shop.all_show(&cluster, "two").await;
    // It was no reason for anything to be restarted.
    shop.is_still(&cluster, &pods).await;
    shop.close(&cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_outlive_containerd_kubelet_and_the_pods_sandbox() {
    let Some(mut cluster) = cluster().await else { return };
    let shop = Shop::with_pods(&cluster, "strategy: Immediate").await;
    let before = shop.ready(&cluster).await;
    let node = cluster.node.as_mut().unwrap();
    node.restart_containerd().await.unwrap();
    node.kill_kubelet();
    for pod in &before {
        assert_eq!(pod.on_disk(&cluster), "x: one\n");
    }
    // Neither is needed for a change.
    shop.apply(&cluster, &config("two", "strategy: Immediate"));
    for pod in &before {
        wait_for("the change", || async {
            let read = pod.on_disk(&cluster);
            if read == "x: two\n" { Ok(()) } else { Err(read) }
        })
        .await
        .unwrap();
    }
    cluster.node.as_mut().unwrap().start_kubelet().unwrap();
    shop.all_show(&cluster, "two").await;
    shop.is_still(&cluster, &before).await;

    let node = cluster.node.as_ref().unwrap();
    let begun_anew = &before[0];
    node.kill_sandbox(&begun_anew.uid).unwrap();
    assert_eq!(begun_anew.on_disk(&cluster), "x: two\n");
    let restarted = |pods: &[Pod]| pods.iter().any(|pod| pod.uid == begun_anew.uid && pod.restarts == 1);
    shop.until(&cluster, "the pod to begin anew", restarted).await;
    shop.apply(&cluster, &config("three", "strategy: Immediate"));
    shop.all_show(&cluster, "three").await;
    shop.close(&cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_restarts_no_pod_and_an_uninstall_keeps_what_is_the_users() {
    let Some(cluster) = cluster().await else { return };
    let shop = Shop::with_pods(&cluster, "strategy: Immediate").await;
    let before = shop.ready(&cluster).await;
    helm(&cluster, &["upgrade", "--wait", "--set", "operator.log.format=json"]).unwrap();
    shop.apply(&cluster, &config("two", "strategy: Immediate"));
    shop.all_show(&cluster, "two").await;
    shop.is_still(&cluster, &before).await;

    Helm::new(Some(&cluster.kubeconfig(0))).unwrap().run(&["uninstall", "quorate", "-n", SYSTEM, "--wait"]).unwrap();
    assert!(shop.get(&cluster, &["secret", "web.quorate"]).is_ok());
    shop.all_show(&cluster, "two").await;
    shop.is_still(&cluster, &before).await;
    helm(&cluster, &["install", "--wait"]).unwrap();
    shop.apply(&cluster, &config("three", "strategy: Immediate"));
    shop.all_show(&cluster, "three").await;
    shop.is_still(&cluster, &before).await;
    shop.close(&cluster);
}

/// The operators' own lock, held for an hour at a time: nobody waits that long here.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_passes_on_when_kubelet_says_that_its_holder_ended_and_not_when_its_pod_vanished() {
    let Some(mut cluster) = cluster().await else { return };
    let hour = "operator.leaderElection.leaseSeconds=3600";
    helm(&cluster, &["upgrade", "--wait", "--set", hour]).unwrap();
    let leader = led_by(&cluster, |_| true).await;
    let container = |name: &str| {
        let id = "jsonpath={.status.containerStatuses[0].containerID}";
        cluster.kubectl(&["-n", SYSTEM, "get", "pod", name, "-o", id]).unwrap()
    };
    // Another one knows the claim, and waits.
    wait_for("two operators", || async {
        let ready = operators(&cluster);
        if ready.len() == 2 { Ok(()) } else { Err(format!("{ready:?}")) }
    })
    .await
    .unwrap();
    cluster.node.as_ref().unwrap().kill_container(&container(&leader)).unwrap();
    let next = led_by(&cluster, |name| name != leader).await;
    // It works: a config is published.
    let shop = Shop::new(&cluster);
    shop.apply(&cluster, &config("one", "strategy: Immediate"));
    shop.status(&cluster, "the next leader to publish", |status| status["revision"] == 1).await;

    // Its pod vanishes, and it lives on: nobody takes its lock, though everybody knows that the pod is gone.
    cluster.node.as_mut().unwrap().kill_kubelet();
    cluster.kubectl(&["-n", SYSTEM, "delete", "pod", &next, "--force", "--grace-period=0"]).unwrap();
    wait_for("the pod to be gone", || async {
        let gone = cluster.kubectl(&["-n", SYSTEM, "get", "pod", &next]).is_err();
        if gone { Ok(()) } else { Err("it is there".to_owned()) }
    })
    .await
    .unwrap();
    // What has proof passes on within a second, above. That this does not, only time can tell.
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert_eq!(holder(&cluster), next);

    // The chart as it was, for the tests to come: they do not wait for an hour either.
    cluster.node.as_mut().unwrap().start_kubelet().unwrap();
    let release = ["-n", SYSTEM, "patch", "lease", LEASE, "--type=merge", "-p"];
    cluster.kubectl(&[&release[..], &[r#"{"spec":{"holderIdentity":""}}"#]].concat()).unwrap();
    helm(&cluster, &["upgrade", "--wait"]).unwrap();
    led_by(&cluster, |name| name != next).await;
    wait_for("the claims for an hour to be gone", || async {
        let claims = cluster.kubectl(&["-n", SYSTEM, "get", "lease", LEASE, "-o", "jsonpath={.metadata.annotations}"]);
        let claims = claims.map_err(|error| error.to_string())?;
        if claims.contains("3600000") { Err(claims) } else { Ok(()) }
    })
    .await
    .unwrap();
    shop.close(&cluster);
}

const LEASE: &str = "quorate-operator";

/// The name of the pod that the operators' Lease names.
fn holder(cluster: &Cluster) -> String {
    let identity = ["-n", SYSTEM, "get", "lease", LEASE, "-o", "jsonpath={.spec.holderIdentity}"];
    let identity = cluster.kubectl(&identity).unwrap_or_default();
    identity.rsplit_once('_').map(|(pod, _)| pod.to_owned()).unwrap_or_default()
}

/// The operators that are ready, by name.
fn operators(cluster: &Cluster) -> Vec<String> {
    let ready = r#"jsonpath={range .items[?(@.status.containerStatuses[0].ready==true)]}{.metadata.name}{"\n"}{end}"#;
    let names = cluster.kubectl(&["-n", SYSTEM, "get", "pods", "-l", OPERATOR, "-o", ready]).unwrap_or_default();
    names.lines().map(str::to_owned).collect()
}

/// Waits until such an operator leads, and is there; its name.
async fn led_by(cluster: &Cluster, is_so: impl Fn(&str) -> bool) -> String {
    wait_for("another leader", || async {
        let name = holder(cluster);
        if is_so(&name) && operators(cluster).contains(&name) { Ok(name) } else { Err(name) }
    })
    .await
    .unwrap()
}
