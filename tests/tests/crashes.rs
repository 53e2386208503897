//! The operator ends right before and right after each write of a whole history of rollouts, and another
//! takes over: every run ends in the same state, with the same log and each event once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    collections::BTreeMap, fmt::Debug, fs, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration,
};

use clap::Parser;
use futures::{StreamExt, stream};
use k8s_openapi::{
    api::{
        core::v1::{Pod, Secret, ServiceAccount},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
    runtime::wait::{await_condition, conditions::is_deleted},
};
use quorate_crds::{ConfigReplica, DistributedConfig, names};
use quorate_tests::{
    Cluster,
    crash::{self, Moment, Plan, Write},
    scene::Scene,
    wait::DEADLINE,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{OnceCell, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Histories at a time: most of a run is waiting.
const AT_A_TIME: usize = 6;
/// So many statuses are written in every run, since the history waits for what they say.
const STATUSES: usize = 3;

async fn cluster() -> &'static Cluster {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    let start = async || {
        let cluster = Cluster::start().await.unwrap();
        cluster.install_crds().await.unwrap();
        cluster
    };
    CLUSTER.get_or_init(start).await
}

/// What a history ends in.
#[derive(Debug, PartialEq)]
struct End {
    /// The head's annotations that say so.
    revision: String,
    refused: Value,
    rollout: Value,
    /// What each pod has.
    files: Vec<String>,
    log: Vec<String>,
    /// How often each event was written.
    events: BTreeMap<String, usize>,
    status: Value,
}

/// A history's own place: its namespace, as a client of this process sees it.
struct Place<'a> {
    scene: Scene<'a>,
    kubeconfig: PathBuf,
    configs: Api<DistributedConfig>,
    replicas: Api<ConfigReplica>,
    secrets: Api<Secret>,
    client: Client,
}

impl<'a> Place<'a> {
    async fn new(cluster: &'a Cluster) -> Self {
        let scene = Scene::new(cluster);
        let (client, namespace) = (cluster.client().await.unwrap(), scene.namespace.clone());
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
        // Admission wants it.
        accounts.create(&PostParams::default(), &object(json!({"metadata": {"name": "default"}}))).await.unwrap();
        Self {
            scene,
            kubeconfig: cluster.kubeconfig(0),
            configs: Api::namespaced(client.clone(), &namespace),
            replicas: Api::namespaced(client.clone(), &namespace),
            secrets: Api::namespaced(client.clone(), &namespace),
            client,
        }
    }

    async fn apply(&self, x: &str, strategy: &str) {
        let mut rollout = json!({"strategy": strategy});
        if strategy == "Canary" {
            rollout["steps"] = json!([{"pods": 1}, {"pods": 2}]);
        }
        let config = json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig", "metadata": {"name": "web"},
            "spec": {
                "layers": [{"name": "a", "inline": {"x": x}}], "files": [{"path": "f.yaml"}],
                "selector": {"matchLabels": {"app": "web"}}, "rollout": rollout,
            },
        });
        self.configs.patch("web", &PatchParams::apply("somebody"), &Patch::Apply(&config)).await.unwrap();
    }

    /// A ready pod; its uid.
    async fn pod(&self, name: &str) -> String {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.scene.namespace);
        let pod = object(json!({
            "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "app", "image": "none"}]},
        }));
        let uid = pods.create(&PostParams::default(), &pod).await.unwrap().uid().unwrap();
        let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&ready)).await.unwrap();
        uid
    }

    /// A pod with a sidecar that refuses what is bad, and runs the first revision. The name of its word.
    async fn sidecar(&self, pod: &str, check: &str, tasks: &mut JoinSet<anyhow::Result<()>>) -> String {
        let (uid, directory) = (self.pod(pod).await, self.scene.path(pod).display().to_string());
        let fixed = ["sidecar", "--config", "web", "--namespace", &self.scene.namespace, "--directory", &directory];
        let own = ["--pod-name", pod, "--pod-uid", &uid, "--check-exec", check];
        let options = quorate_sidecar::options::Options::parse_from(fixed.iter().chain(&own));
        let client = quorate_tests::cluster::client(&self.kubeconfig).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        tasks.spawn(quorate_sidecar::run(client, options, listener, std::future::pending()));
        ConfigReplica::name_for("web", pod, &uid)
    }

    async fn operator(&self, plan: &Arc<Plan>) -> impl Future<Output = anyhow::Result<()>> + use<> {
        let client = crash::client(&self.kubeconfig, plan).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        quorate_operator::run(client, vec![self.scene.namespace.clone()], listener, std::future::pending())
    }

    async fn all_run(&self, words: &[String], revision: i64) {
        for word in words {
            let what = format!("{word} to run revision {revision}");
            until(&self.replicas, word, &what, |replica| replica.spec.runs == Some(revision)).await;
        }
    }

    /// What is published, refused, proposed and had by the pods, in the status.
    async fn rests(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let view = |config: &DistributedConfig| {
            let status = config.status.clone().unwrap_or_default();
            let reason = |condition: &Condition| {
                (condition.type_.clone(), json!(format!("{} {}", condition.status, condition.reason)))
            };
            let by = |who: &Option<String>| who.as_ref().map(|who| who.replace(&self.scene.namespace, "here"));
            let (is_current, pods) = (status.observed_generation == config.metadata.generation, &status.pods);
            json!({
                "isCurrent": is_current, "revision": status.revision, "phase": status.phase, "refused": status.refused,
                "superseded": status.superseded, "candidate": status.candidate, "pods": pods,
                "conditions": status.conditions.iter().map(reason).collect::<serde_json::Map<_, _>>(),
                "history": status.history.iter().map(|entry| json!([entry.revision, entry.restored, by(&entry.changed_by)]))
                    .collect::<Vec<_>>(),
            })
        };
        let rests = |config: &DistributedConfig| {
            let status = view(config);
            status["isCurrent"] == true && status["pods"]["summary"] == "2/2" && is_so(&status)
        };
        view(&until(&self.configs, "web", what, rests).await)
    }

    async fn events(&self) -> BTreeMap<String, usize> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.scene.namespace);
        let mut events = BTreeMap::new();
        for event in api.list(&ListParams::default()).await.unwrap() {
            let (reason, note) = (event.reason.unwrap_or_default(), event.note.unwrap_or_default());
            // Which pod refused is chance; which revision it was is not.
            let revision: Vec<&str> = note.split([' ', ':']).take(2).collect();
            let step = note.split("step ").nth(1).map(|rest| &rest[..1]).unwrap_or_default();
            *events.entry(format!("{reason} {} {step}", revision.join(" "))).or_default() += 1;
        }
        events
    }

    async fn log(&self) -> Vec<String> {
        let of_log = ListParams::default().labels("quorate.io/kind=revision");
        self.secrets.list(&of_log).await.unwrap().iter().map(ResourceExt::name_any).collect()
    }
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// Waits until an object is so; the object.
async fn until<K>(api: &Api<K>, name: &str, what: &str, is_so: impl Fn(&K) -> bool) -> K
where
    K: Resource + Clone + Debug + DeserializeOwned + Serialize + Send + 'static,
{
    let found = async {
        loop {
            // An API server that is busy says so (429), and is asked again.
            if let Ok(found) = await_condition(api.clone(), name, |found: Option<&K>| found.is_some_and(&is_so)).await {
                return found;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    match timeout(DEADLINE, found).await {
        Ok(found) => found.unwrap(),
        Err(late) => panic!("{what}: {late}; {}", json!(api.get_opt(name).await.unwrap())),
    }
}

/// One history: a first revision, one that is accepted, one that is refused. The operator ends at the
/// moment, and another one takes over.
async fn history(cluster: &Cluster, strategy: &str, moment: Moment) -> (End, Arc<Plan>) {
    let place = Place::new(cluster).await;
    let plan = Plan::new(moment);
    // They end with the history.
    let mut tasks = JoinSet::new();
    let (first, second) = (place.operator(&plan).await, place.operator(&Plan::new(Moment::Never)).await);
    let end = Arc::clone(&plan);
    tasks.spawn(async move {
        tokio::select! {
            ended = first => return ended,
            () = end.ended() => {}
        }
        second.await
    });
    place.apply("one", strategy).await;
    let check = place.scene.path("check.sh");
    fs::write(&check, "#!/bin/sh\n! grep -q bad \"$QUORATE_STAGED/f.yaml\"\n").unwrap();
    fs::set_permissions(&check, fs::Permissions::from_mode(0o755)).unwrap();
    let mut words = Vec::new();
    for pod in ["a", "b"] {
        words.push(place.sidecar(pod, &check.display().to_string(), &mut tasks).await);
    }
    place.all_run(&words, 1).await;
    place.rests("revision 1", |status| status["revision"] == 1).await;
    place.apply("two", strategy).await;
    place.all_run(&words, 2).await;
    place.rests("revision 2", |status| status["revision"] == 2 && status["phase"] == "Published").await;
    place.apply("bad", strategy).await;
    let status = place.rests("the refusal", |status| status["refused"] == 3 && status["candidate"].is_null()).await;
    place.all_run(&words, if strategy == "Immediate" { 4 } else { 2 }).await;
    let candidate = names::candidate_name("web");
    if let Some(last) = place.secrets.get_opt(&candidate).await.unwrap() {
        let uid = last.uid().unwrap();
        let gone = await_condition(place.secrets.clone(), &candidate, is_deleted(&uid));
        timeout(DEADLINE, gone).await.expect("the candidate to be gone").unwrap();
    }
    assert!(tasks.try_join_next().is_none(), "an operator or a sidecar ended by itself");

    let head = place.secrets.get(&names::head_name("web")).await.unwrap();
    let annotation = |name: &str| head.annotations()[name].as_str();
    let standing: Value = serde_json::from_str(annotation(names::ROLLOUT)).unwrap();
    let end = End {
        revision: annotation(names::REVISION).to_owned(),
        refused: standing["refused"]["revision"].clone(),
        rollout: standing["rollout"].clone(),
        files: ["a", "b"].map(|pod| fs::read_to_string(place.scene.path(pod).join("web/f.yaml")).unwrap()).into(),
        log: place.log().await,
        events: place.events().await,
        status,
    };
    (end, plan)
}

async fn every_moment(strategy: &str) {
    // Of all strategies together.
    static TURN: Semaphore = Semaphore::const_new(AT_A_TIME);
    let cluster = cluster().await;
    let run = async |moment: Moment| {
        let _turn = TURN.acquire().await.unwrap();
        Box::pin(history(cluster, strategy, moment)).await
    };
    let (expected, plan) = run(Moment::Never).await;
    assert!(expected.events.values().all(|count| *count == 1), "{expected:?}");
    assert_eq!(expected.files, ["x: two\n", "x: two\n"]);
    let writes = plan.writes();
    let moments = writes.iter().flat_map(|write| [Moment::Before(write.clone()), Moment::After(write.clone())]);
    let run = &run;
    let mut runs = stream::iter(moments)
        .map(|moment| async move { (moment.clone(), run(moment).await) })
        .buffer_unordered(AT_A_TIME);
    let mut missed = Vec::new();
    while let Some((moment, (end, plan))) = runs.next().await {
        assert_eq!(end, expected, "{strategy}, {moment:?}");
        if !plan.is_over() {
            missed.push(moment);
        }
    }
    println!("{strategy}: {} of {} moments never came: {missed:?}", missed.len(), 2 * writes.len());
    // Statuses are written by the clock: the later ones are not there in every run. All else is.
    let may_be_missed = |write: &Write| write.is_status() && write.number >= STATUSES;
    for moment in &missed {
        let (Moment::Before(write) | Moment::After(write)) = moment else { continue };
        assert!(may_be_missed(write), "{strategy}: {moment:?} never came");
    }
    let certain = writes.iter().filter(|write| !may_be_missed(write)).count();
    assert!(certain >= 12 && 2 * certain >= writes.len(), "too few moments are certain to come: {writes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immediate_return_survives_its_operator_at_every_write() {
    every_moment("Immediate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_survives_its_operator_at_every_write() {
    every_moment("Canary").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_survives_its_operator_at_every_write() {
    every_moment("Quorum").await;
}
