//! The follow loop against a scripted API server, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    collections::VecDeque,
    convert::Infallible,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::Parser;
use futures::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::client::Body;
use quorate_coordination::Virtual;
use quorate_crds::{
    DistributedConfig,
    head::{Bundle, BundleFile, Head},
};
use quorate_sidecar::{
    Shared,
    disk::{Disk, RealDisk},
    options::Options,
    start,
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

/// What the API server answers: lists in their order (the last again and again), and watches in
/// theirs, which are silent when the script is out.
#[derive(Default)]
struct Script {
    lists: VecDeque<Result<Option<i64>, u16>>,
    watches: VecDeque<Vec<Value>>,
    listed: usize,
}

fn secret(revision: i64) -> Secret {
    let config: DistributedConfig = serde_json::from_value(json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig",
        "metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "spec": {"layers": [], "files": []}
    }))
    .unwrap();
    let file = BundleFile { mode: 0o444, secret: false, bytes: revision.to_string().into_bytes() };
    let bundle = Bundle { files: [("f".to_owned(), file)].into(), provenance: b"{}".to_vec() };
    let mut secret = Head::next(None, revision, bundle, Timestamp::UNIX_EPOCH).to_head_secret(&config);
    secret.metadata.resource_version = Some(revision.to_string());
    secret
}

fn event(kind: &str, revision: i64) -> Value {
    json!({"type": kind, "object": secret(revision)})
}

fn gone() -> Value {
    json!({"type": "ERROR", "object": {"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"}})
}

type Answer = UnsyncBoxBody<Bytes, Infallible>;

fn whole(json: &Value) -> Answer {
    Full::new(Bytes::from(json.to_string())).boxed_unsync()
}

fn answer(script: &Mutex<Script>, request: &Request<Body>) -> Response<Answer> {
    let mut script = script.lock().unwrap();
    if request.uri().query().unwrap_or_default().contains("watch=true") {
        let events = script.watches.pop_front();
        let silent = events.is_none();
        let lines = events.unwrap_or_default().into_iter().map(|event| Bytes::from(format!("{event}\n")));
        let frames = stream::iter(lines.map(|line| Ok::<_, Infallible>(Frame::data(line))).collect::<Vec<_>>());
        return Response::new(if silent {
            StreamBody::new(frames.chain(stream::pending())).boxed_unsync()
        } else {
            StreamBody::new(frames).boxed_unsync()
        });
    }
    script.listed += 1;
    let next = if script.lists.len() > 1 { script.lists.pop_front() } else { script.lists.front().copied() };
    match next.unwrap() {
        Ok(revision) => {
            let items: Vec<Secret> = revision.map(secret).into_iter().collect();
            let list =
                json!({"apiVersion": "v1", "kind": "SecretList", "metadata": {"resourceVersion": "5"}, "items": items});
            Response::new(whole(&list))
        }
        Err(code) => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "scripted", "reason": "Scripted", "code": code});
            Response::builder().status(code).body(whole(&status)).unwrap()
        }
    }
}

struct Scene {
    shared: Arc<Shared>,
    script: Arc<Mutex<Script>>,
    directory: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

impl Scene {
    fn start(lists: &[Result<Option<i64>, u16>], watches: Vec<Vec<Value>>) -> Self {
        Self::on(RealDisk, lists, watches)
    }

    fn on(
        disk: impl Disk + Send + Sync + 'static,
        lists: &[Result<Option<i64>, u16>],
        watches: Vec<Vec<Value>>,
    ) -> Self {
        let script = Script { lists: lists.iter().copied().collect(), watches: watches.into(), listed: 0 };
        let script = Arc::new(Mutex::new(script));
        let scripted = Arc::clone(&script);
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = answer(&scripted, &request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display().to_string();
        let words = ["quorate-sidecar", "--config", "web", "--namespace", "shop", "--directory", &path];
        let options = Options::parse_from(words);
        let shared = Arc::new(Shared::new(options, Arc::new(Virtual::default())));
        let mut tasks = JoinSet::new();
        start(&shared, kube::Client::new(service, "shop"), "web", disk, &mut tasks);
        Self { shared, script, directory, _tasks: tasks }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("web/f")
    }

    /// Waits, in virtual time, at most ten minutes; the loop must count as alive all along.
    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        for _ in 0..60_000 {
            if is_so() {
                return;
            }
            assert!(self.shared.health.stuck().is_empty());
            sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}: never");
    }

    async fn shows(&self, revision: i64) {
        let is_so = || fs::read_to_string(self.path()).is_ok_and(|text| text == revision.to_string());
        self.until(&format!("revision {revision}"), is_so).await;
    }

    async fn listed(&self, times: usize) {
        self.until(&format!("{times} lists"), || self.script.lock().unwrap().listed >= times).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_reconnected() {
    let scene = Scene::start(&[Ok(Some(1)), Ok(Some(2))], vec![]);
    scene.shows(1).await;
    scene.shows(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_or_is_too_old_is_reconnected() {
    let scene = Scene::start(&[Ok(Some(1)), Ok(Some(2)), Ok(Some(3))], vec![vec![gone()], vec![]]);
    scene.shows(3).await;
    assert!(scene.script.lock().unwrap().listed >= 3);
}

#[tokio::test(start_paused = true)]
async fn forbidden_says_what_is_needed_and_goes_on() {
    let scene = Scene::start(&[Err(403), Err(403), Err(500), Ok(Some(1))], vec![]);
    scene.until("the reason", || scene.shared.health.missing().join("").contains("needs list and watch")).await;
    scene.shows(1).await;
    assert!(scene.shared.health.missing().is_empty());
}

#[tokio::test(start_paused = true)]
async fn files_stay_when_the_head_is_deleted_or_forbidden() {
    let lists = [Ok(Some(1)), Ok(None), Err(403), Err(404), Err(403)];
    let scene = Scene::start(&lists, vec![vec![event("DELETED", 1)], vec![], vec![]]);
    scene.shows(1).await;
    scene.listed(8).await;
    assert_eq!(fs::read_to_string(scene.path()).unwrap(), "1");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_not_there_yet_is_waited_for() {
    let scene = Scene::start(&[Ok(None)], vec![vec![event("ADDED", 1)]]);
    scene.shows(1).await;
}

#[tokio::test(start_paused = true)]
async fn an_older_revision_is_believed_only_after_a_quorum_read() {
    // A stale API server replays revision 1; the quorum read knows better.
    let scene = Scene::start(&[Ok(Some(2))], vec![vec![event("MODIFIED", 1)]]);
    scene.shows(2).await;
    scene.listed(3).await;
    assert_eq!(fs::read_to_string(scene.path()).unwrap(), "2");
    // An etcd that was restored is another matter: the quorum read says so itself.
    scene.script.lock().unwrap().lists = [Ok(Some(1))].into();
    scene.shows(1).await;
}

/// A disk that is full until there is room.
#[derive(Clone, Default)]
struct FullDisk(Arc<AtomicBool>);

impl FullDisk {
    fn has_room(&self) -> io::Result<()> {
        let full = io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        if self.0.load(Ordering::Relaxed) { Ok(()) } else { Err(full) }
    }
}

impl Disk for FullDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        self.has_room()?;
        RealDisk.create(path)
    }
    fn link(&self, target: &Path, path: &Path) -> io::Result<()> {
        self.has_room()?;
        RealDisk.link(target, path)
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_told_of_and_tried_again() {
    let disk = FullDisk::default();
    let scene = Scene::on(disk.clone(), &[Ok(Some(1))], vec![]);
    scene.until("the reason", || scene.shared.health.missing().join("").contains("No space left")).await;
    scene.listed(5).await;
    disk.0.store(true, Ordering::Relaxed);
    scene.shows(1).await;
    assert!(scene.shared.health.missing().is_empty());
}

/// Links fail until there is room; the rename that shows the set does not.
#[derive(Clone, Default)]
struct Unlinkable(FullDisk);

impl Disk for Unlinkable {
    fn link(&self, target: &Path, path: &Path) -> io::Result<()> {
        let is_switch = path.ends_with("..data_tmp");
        if !is_switch {
            self.0.has_room()?;
        }
        RealDisk.link(target, path)
    }
}

#[tokio::test(start_paused = true)]
async fn a_set_without_its_links_is_not_ready() {
    let disk = Unlinkable::default();
    let scene = Scene::on(disk.clone(), &[Ok(Some(1))], vec![]);
    scene.until("the reason", || scene.shared.health.missing().join("").contains("symlink")).await;
    assert!(scene.directory.path().join("web/..data/f").exists() && !scene.path().exists());
    scene.listed(4).await;
    assert_eq!(scene.shared.health.missing().len(), 1);
    disk.0.0.store(true, Ordering::Relaxed);
    scene.shows(1).await;
    assert!(scene.shared.health.missing().is_empty());
}
