//! Sidecars in virtual time, and an API server in memory that keeps what they need: Secrets that can
//! be listed, watched and read, and ConfigReplicas with resourceVersions. Its answers can be replaced.
#![allow(dead_code)]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use clap::Parser;
use futures::{StreamExt, stream};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Time};
use kube::{ResourceExt, client::Body};
use quorate_coordination::Virtual;
use quorate_crds::{
    Ask, ConfigReplica, DistributedConfig, Instruction, Proposal,
    head::{Bundle, BundleFile, Head},
    names,
};
use quorate_sidecar::{Shared, disk::RealDisk, options::Options, start};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

type Answer = UnsyncBoxBody<Bytes, Infallible>;

/// What is asked of the API server: `list secrets`, `get web.quorate-next`, `put web.web-1.1234abcd`.
pub type Call = String;

/// Replaces the answer of a call by a status, or lets none come.
pub type Fault = Box<dyn Fn(&str) -> Option<Trouble> + Send>;

#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    /// Refused with this status; nothing is done.
    Status(u16),
    /// Done, but no answer comes.
    Lost,
    /// Neither.
    Ignored,
}

#[derive(Default)]
struct State {
    version: u64,
    second: i64,
    secrets: BTreeMap<String, Secret>,
    replicas: BTreeMap<String, ConfigReplica>,
    watches: Vec<mpsc::UnboundedSender<Value>>,
    fault: Option<Fault>,
    calls: Vec<Call>,
}

/// See the module.
#[derive(Clone, Default)]
pub struct Server(Arc<Mutex<State>>);

impl Server {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        kube::Client::new(service, "shop")
    }

    /// From now on, until another one.
    pub fn fails(&self, fault: impl Fn(&str) -> Option<Trouble> + Send + 'static) {
        self.state().fault = Some(Box::new(fault));
    }

    pub fn works(&self) {
        self.state().fault = None;
    }

    /// The calls so far that begin so.
    pub fn calls(&self, start: &str) -> usize {
        self.state().calls.iter().filter(|call| call.starts_with(start)).count()
    }

    /// The writes of ConfigReplicas so far.
    pub fn writes(&self) -> usize {
        self.calls("post ") + self.calls("put ")
    }

    pub fn replicas(&self) -> Vec<ConfigReplica> {
        self.state().replicas.values().cloned().collect()
    }

    /// The only ConfigReplica.
    pub fn replica(&self) -> Option<ConfigReplica> {
        let replicas = self.replicas();
        assert!(replicas.len() <= 1);
        replicas.into_iter().next()
    }

    pub fn change_replica(&self, change: impl FnOnce(&mut ConfigReplica)) {
        let mut state = self.state();
        let version = state.next_version();
        let replica = state.replicas.values_mut().next().unwrap();
        change(replica);
        replica.metadata.resource_version = Some(version);
    }

    pub fn put_replica(&self, mut replica: ConfigReplica) {
        let mut state = self.state();
        let version = state.next_version();
        replica.metadata.uid.get_or_insert_with(|| format!("uid-{version}"));
        replica.metadata.resource_version = Some(version);
        replica.metadata.creation_timestamp.get_or_insert(Time(Timestamp::UNIX_EPOCH));
        state.replicas.insert(replica.name_any(), replica);
    }

    /// By the clock of the API server, in seconds.
    pub fn is_at(&self, second: i64) {
        self.state().second = second;
    }

    pub fn put_secret(&self, mut secret: Secret) -> Secret {
        let mut state = self.state();
        let version = state.next_version();
        let name = secret.name_any();
        let old = state.secrets.get(&name).and_then(ResourceExt::uid);
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        secret.metadata.uid = secret.metadata.uid.or(old).or_else(|| Some(format!("uid-{version}")));
        secret.metadata.resource_version = Some(version);
        if name == names::head_name("web") {
            state.tell(kind, &secret);
        }
        state.secrets.insert(name, secret.clone());
        secret
    }

    pub fn delete_secret(&self, name: &str) {
        let mut state = self.state();
        let version = state.next_version();
        if let Some(mut secret) = state.secrets.remove(name) {
            secret.metadata.resource_version = Some(version);
            if name == names::head_name("web") {
                state.tell("DELETED", &secret);
            }
        }
    }

    /// What a watch shows without there being a change.
    pub fn replay(&self, secret: &Secret) {
        self.state().tell("MODIFIED", secret);
    }

    async fn answer(&self, request: Request<Body>) -> Response<Answer> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default();
        let is_watch = query.contains("watch=true");
        let (kind, name) = path.split("/namespaces/shop/").nth(1).unwrap().split_once('/').unwrap_or_default();
        let kind = if kind.is_empty() { path.rsplit('/').next().unwrap() } else { kind };
        let call = match (&parts.method, name) {
            (&Method::GET, "") if is_watch => format!("watch {kind}"),
            (&Method::GET, "") => format!("list {kind}"),
            (&Method::POST, _) => format!("post {kind}"),
            (method, name) => format!("{} {name}", method.as_str().to_lowercase()),
        };
        let trouble = {
            let mut state = self.state();
            state.calls.push(call.clone());
            state.fault.as_ref().and_then(|fault| fault(&call))
        };
        match trouble {
            Some(Trouble::Status(code)) => return status(code),
            Some(Trouble::Ignored) => return std::future::pending().await,
            _ => {}
        }
        let answer = self.state().act(&parts.method, kind, name, is_watch, &body);
        if trouble.is_some() { std::future::pending().await } else { answer }
    }
}

impl State {
    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    fn tell(&mut self, kind: &str, secret: &Secret) {
        let event = json!({"type": kind, "object": secret});
        self.watches.retain(|watch| watch.send(event.clone()).is_ok());
    }

    fn act(&mut self, method: &Method, kind: &str, name: &str, is_watch: bool, body: &[u8]) -> Response<Answer> {
        match (method.as_str(), kind, name) {
            ("GET", "secrets", "") if is_watch => {
                let (sender, receiver) = mpsc::unbounded_channel();
                self.watches.push(sender);
                let frames = stream::unfold(receiver, |mut receiver| async {
                    let event: Value = receiver.recv().await?;
                    Some((Ok::<_, Infallible>(Frame::data(Bytes::from(format!("{event}\n")))), receiver))
                });
                Response::new(StreamBody::new(frames.boxed()).boxed_unsync())
            }
            ("GET", "secrets", "") => {
                let items: Vec<&Secret> = self.secrets.get(&names::head_name("web")).into_iter().collect();
                let version = self.version.to_string();
                whole(&json!({"apiVersion": "v1", "kind": "SecretList", "metadata": {"resourceVersion": version},
                    "items": items}))
            }
            ("GET", "secrets", name) => {
                self.secrets.get(name).map_or_else(|| status(404), |secret| whole(&json!(secret)))
            }
            ("GET", _, name) => self.replicas.get(name).map_or_else(|| status(404), |replica| whole(&json!(replica))),
            (_, "configreplicas", _) => {
                let mut replica: ConfigReplica = serde_json::from_slice(body).unwrap();
                let old = self.replicas.get(&replica.name_any());
                match (method, old) {
                    (&Method::POST, Some(_)) => return status(409),
                    (&Method::POST, None) => {
                        let second = Timestamp::from_second(self.second).unwrap();
                        replica.metadata.uid = Some(format!("uid-{}", self.version));
                        replica.metadata.creation_timestamp = Some(Time(second));
                    }
                    (_, None) => return status(404),
                    (_, Some(old)) => {
                        let seen = |replica: &ConfigReplica| (replica.resource_version(), replica.uid());
                        assert!(seen(&replica).0.is_some() && seen(&replica).1.is_some(), "PUT with version and uid");
                        if seen(&replica) != seen(old) {
                            return status(409);
                        }
                    }
                }
                replica.metadata.resource_version = Some(self.next_version());
                self.replicas.insert(replica.name_any(), replica.clone());
                whole(&json!(replica))
            }
            other => panic!("nobody asks for {other:?}"),
        }
    }
}

fn whole(json: &Value) -> Response<Answer> {
    Response::new(Full::new(Bytes::from(json.to_string())).boxed_unsync())
}

fn status(code: u16) -> Response<Answer> {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        _ => "InternalError",
    };
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "scripted", "reason": reason, "code": code});
    let mut response = whole(&status);
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
    response
}

/// The content of a revision: one file that holds its number.
pub fn content(revision: i64) -> Head {
    of_text(revision, &revision.to_string())
}

pub fn of_text(revision: i64, text: &str) -> Head {
    let file = BundleFile { mode: 0o444, secret: false, bytes: text.into() };
    let bundle = Bundle { files: [("f".to_owned(), file)].into(), provenance: b"{}".to_vec() };
    Head { lamport: 10 * revision, ..Head::next(None, revision, bundle, Timestamp::UNIX_EPOCH) }
}

pub fn config() -> DistributedConfig {
    serde_json::from_value(json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig",
        "metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "spec": {"layers": [], "files": []}
    }))
    .unwrap()
}

impl Server {
    pub fn publish(&self, head: &Head) -> Secret {
        self.put_secret(head.to_head_secret(&config()))
    }

    /// Makes a candidate, which the head does not speak of yet.
    pub fn propose(&self, head: &Head) -> Proposal {
        self.delete_secret(&names::candidate_name("web"));
        let uid = self.put_secret(head.to_candidate_secret(&config(), "")).uid().unwrap();
        Proposal { uid, revision: head.revision, hash: head.hash.clone() }
    }
}

/// A head with a rollout under way.
pub fn asking(head: Head, proposal: &Proposal, ask: Ask) -> Head {
    let mut head = head;
    let since = Timestamp::UNIX_EPOCH;
    head.standing.rollout =
        Some(Instruction { proposal: proposal.clone(), ask, plan: String::new(), since, paused: false });
    head
}

/// A sidecar that runs, and its directory, which outlives it.
pub struct Pod {
    pub shared: Arc<Shared>,
    pub server: Server,
    pub directory: Arc<tempfile::TempDir>,
    words: Vec<String>,
    tasks: JoinSet<()>,
}

impl Pod {
    pub fn start(server: &Server, words: &[&str]) -> Self {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Self::begin(server, Arc::new(tempfile::tempdir().unwrap()), words)
    }

    fn begin(server: &Server, directory: Arc<tempfile::TempDir>, words: Vec<String>) -> Self {
        let path = directory.path().display().to_string();
        let fixed = ["quorate-sidecar", "--config", "web", "--namespace", "shop", "--directory", &path];
        let options = Options::parse_from(fixed.into_iter().map(str::to_owned).chain(words.iter().cloned()));
        let shared = Arc::new(Shared::new(options, Arc::new(Virtual::default())));
        let mut tasks = JoinSet::new();
        start(&shared, server.client(), "web", RealDisk, &mut tasks);
        Self { shared, server: server.clone(), directory, words, tasks }
    }

    /// The pod web-1, which reports.
    pub fn web(server: &Server, words: &[&str]) -> Self {
        Self::start(server, &[&["--pod-name", "web-1", "--pod-uid", "p", "--node-name", "n"], words].concat())
    }

    /// Its container is started again.
    pub fn restart(mut self) -> Self {
        self.tasks.abort_all();
        Self::begin(&self.server, Arc::clone(&self.directory), self.words)
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("web/f")
    }

    pub fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap_or_default()
    }

    /// Waits, in virtual time, at most ten minutes; the loop must count as alive all along.
    pub async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        for _ in 0..60_000 {
            if is_so() {
                return;
            }
            assert!(self.shared.health.stuck().is_empty());
            sleep(Duration::from_millis(10)).await;
        }
        let (missing, calls) = (self.shared.health.missing(), self.server.state().calls.clone());
        panic!("{what}: never; {missing:?} {:?} {calls:?}", self.server.replicas());
    }

    pub async fn shows(&self, revision: i64) {
        self.until(&format!("revision {revision}"), || self.text() == revision.to_string()).await;
    }

    /// Its ConfigReplica says so: `Applied 4`.
    pub async fn says(&self, what: &str) {
        self.until(what, || self.word() == what).await;
    }

    pub fn word(&self) -> String {
        let Some(replica) = self.server.replica() else { return String::new() };
        format!("{:?} {}", replica.spec.state, replica.spec.revision.unwrap_or_default())
    }

    /// Long enough for all that is under way, and for some readings.
    pub async fn settles(&self) {
        let calls = self.server.calls("list");
        self.until("more readings", || self.server.calls("list") >= calls + 2).await;
        sleep(Duration::from_secs(1)).await;
    }

    pub fn metric(&self, line: &str) -> bool {
        self.shared.metrics().lines().any(|found| found == line)
    }
}
