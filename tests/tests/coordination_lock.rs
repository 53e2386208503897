//! Locks on a real API server: contenders in processes of their own, whose way to it is a bad one, which are stopped and
//! killed, and some of which have a wrong clock; the API server killed and started again; the Lease deleted. Then the
//! history is held against what a lock must be, by the same checks as in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, dead_code)]

#[path = "../../coordination/tests/support/history.rs"]
mod history;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{
    Api,
    api::{DeleteParams, ObjectMeta, PostParams},
};
use quorate_coordination::{Boottime, Clock, Lock, LockState, Mode, Queue, QueueError, Random, Session, Stored};
use quorate_crds::{DistributedQueue, DistributedQueueSpec, names::FENCING_TOKEN};
use quorate_tests::{
    Cluster,
    cluster::{self, Options},
    crowd::{Crowd, Job, faketime},
    helm,
    process::Process,
    recorder::{Recorder, Version},
    wait::wait_for,
};
use tokio::time::{Instant, sleep};

use history::{Event, Grant, Seen};

const TTL: Duration = Duration::from_secs(4);
const CONTENDERS: usize = 10;
/// Of a hundred requests, so many go wrong.
const FAULTS: usize = 15;

/// For how long: longer with `QUORATE_SOAK`, in seconds.
fn time() -> Duration {
    let soak = std::env::var("QUORATE_SOAK").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(soak.unwrap_or(60))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_keeps_its_word_whatever_happens_to_its_contenders_and_to_the_api_server() {
    // One is killed and stopped; the other one tells what there was, since no API server tells what was before it started.
    let mut cluster = Cluster::with(Options { api_servers: 2, ..Options::default() }).await.unwrap();
    fence(&cluster).await;
    let client = cluster::client(&cluster.kubeconfig(1)).await.unwrap();
    let (leases, secrets): (Api<Lease>, Api<Secret>) =
        (Api::default_namespaced(client.clone()), Api::default_namespaced(client.clone()));
    secrets.create(&PostParams::default(), &secret("protected")).await.unwrap();
    let lease_versions = Recorder::start(leases.clone(), "contended").await.unwrap();
    let secret_versions = Recorder::start(secrets.clone(), "protected").await.unwrap();
    let library = faketime().unwrap();
    let mut crowd = contenders(&cluster, library.as_deref());
    let random = Random::from_system().unwrap();
    let until = Instant::now() + time();
    let mut round = 0_usize;
    while Instant::now() < until {
        sleep(TTL / 2 + random.up_to(TTL)).await;
        // Most often it befalls the one that holds it.
        let whom = holder(&crowd).unwrap_or(round % CONTENDERS);
        crowd.trouble(round, &mut cluster, whom, TTL, &random).await.unwrap();
        round += 1;
        goes_on(&crowd).await;
    }
    // Who deletes a Lease takes the lock from its holder, which cannot know at once. So a policy of the chart, which is not in
    // force here, refuses it. Tokens hold all the same.
    let deleting = now();
    for _ in 0..4 {
        // It may just not be there.
        let _ = leases.delete("contended", &DeleteParams::default()).await;
        goes_on(&crowd).await;
    }
    crowd.kill_all();
    let events = events(&crowd);
    caught_up(&lease_versions, &leases, "contended").await;
    let versions = lock_versions(&lease_versions.versions());
    let (grants, accepted) = (history::grants(&events), tokens(&secret_versions.versions()));
    let refused = events.iter().filter(|event| matches!(event, Event::Wrote { accepted: false, .. })).count();
    println!(
        "{} grants, {} versions, {} writes accepted, {refused} refused",
        grants.len(),
        versions.len(),
        accepted.len()
    );
    let future = jiff::Timestamp::now() + Duration::from_secs(1800);
    let wrong_clocks = versions.iter().any(|seen| seen.state.renewed.is_some_and(|renewed| renewed > future));
    assert_eq!(wrong_clocks, library.is_some(), "wrong clocks had no part in it");
    assert!(grants.len() > 20 && accepted.len() > 10);
    let undisturbed: Vec<Grant> = grants.iter().filter(|grant| grant.from < deleting).cloned().collect();
    history::beliefs(&undisturbed).unwrap();
    history::tokens(&grants).unwrap();
    history::versions(&versions).unwrap();
    history::shown(&grants, &versions).unwrap();
    history::fenced(&accepted).unwrap();
    // The fence is there: who comes with what an earlier holder had is refused.
    let mut late = secrets.get("protected").await.unwrap();
    late.metadata.annotations.get_or_insert_default().insert(FENCING_TOKEN.to_owned(), accepted[0].to_string());
    let refused = secrets.replace("protected", &PostParams::default(), &late).await.unwrap_err();
    assert!(refused.to_string().contains("must not fall"), "{refused}");
}

/// By the contenders' clock.
fn now() -> Duration {
    Boottime.now()
}

/// Those who contend for it.
fn contenders(cluster: &Cluster, library: Option<&Path>) -> Crowd {
    let mut words: Vec<String> = ["--object=contended", "--protects=protected"].map(str::to_owned).into();
    words.extend([
        format!("--ttl-millis={}", TTL.as_millis()),
        format!("--faults={FAULTS}"),
        format!("--pause-millis={}", TTL.as_millis() / 8),
    ]);
    let job = Job { what: "lock", arguments: words };
    Crowd::start(cluster, library, &vec![job; CONTENDERS]).unwrap()
}

fn events(crowd: &Crowd) -> Vec<Event> {
    crowd.said().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Who was granted it last, by what they say.
fn holder(crowd: &Crowd) -> Option<usize> {
    let granted = |index: &usize| {
        let grants = crowd.said_by(*index).into_iter().filter_map(|line| match serde_json::from_str(&line) {
            Ok(Event::Granted(grant)) => Some(grant.from),
            _ => None,
        });
        grants.max()
    };
    (0..CONTENDERS).max_by_key(granted)
}

/// Whatever was done to it, it comes free, and goes from one to the next.
async fn goes_on(crowd: &Crowd) {
    let granted = || events(crowd).iter().filter(|event| matches!(event, Event::Granted(_))).count();
    let before = granted();
    wait_for("others to be granted it", || async {
        if granted() >= before + 3 { Ok(()) } else { Err(crowd.complaints()) }
    })
    .await
    .unwrap();
}

fn lock_versions(versions: &[Version<Lease>]) -> Vec<Seen> {
    let state =
        |lease: &Option<Lease>| lease.as_ref().map_or_else(LockState::default, |l| LockState::of_object(l).unwrap());
    versions.iter().map(|(token, lease)| Seen { token: *token, state: state(lease) }).collect()
}

/// The tokens of each version of a Secret.
fn tokens(versions: &[Version<Secret>]) -> Vec<u64> {
    let annotation = |secret: &Secret| secret.metadata.annotations.as_ref()?.get(FENCING_TOKEN)?.parse().ok();
    versions.iter().filter_map(|(_, secret)| annotation(secret.as_ref()?)).collect()
}

/// Waits until the recorder has seen the present version.
async fn caught_up(recorder: &Recorder<Lease>, leases: &Api<Lease>, name: &str) {
    wait_for("all versions to be recorded", || async {
        let now = leases.get_opt(name).await.map_err(|error| error.to_string())?;
        let now = now.and_then(|lease| lease.metadata.resource_version?.parse().ok()).unwrap_or(0_u64);
        let last = recorder.versions().last().map_or(0, |(token, _)| *token);
        if last >= now { Ok(()) } else { Err(format!("{last} of {now}")) }
    })
    .await
    .unwrap();
}

/// Puts the chart's fencing policy into force.
async fn fence(cluster: &Cluster) {
    helm::apply(cluster, &["policy-fencing"], &[]).unwrap();
    let secrets: Api<Secret> = Api::default_namespaced(cluster.client().await.unwrap());
    wait_for("the policy to be in force", || async {
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        match secrets.create(&dry, &fenced("probe", "x")).await {
            Err(kube::Error::Api(status)) if status.message.contains("fencing") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
}

fn secret(name: &str) -> Secret {
    Secret { metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }, ..Secret::default() }
}

fn fenced(name: &str, token: &str) -> Secret {
    let mut secret = secret(name);
    secret.metadata.annotations = Some([(FENCING_TOKEN.to_owned(), token.to_owned())].into());
    secret
}

/// A resource outside of the cluster: it accepts no token that is lower than the highest it has seen.
#[derive(Default)]
struct Outside(u64);

impl Outside {
    fn accepts(&mut self, token: u64) -> bool {
        self.0 = self.0.max(token);
        self.0 == token
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_of_an_older_etcd_nobody_gets_past_a_fence() {
    let mut cluster = Cluster::start().await.unwrap();
    cluster.install_crds().await.unwrap();
    let client = cluster.client().await.unwrap();
    let lock = |who: &str| {
        let session = Session::new(who).unwrap();
        Lock::on_lease(client.clone(), "default", "restored", session, TTL).unwrap()
    };
    let mut outside = Outside::default();
    let first = lock("first").acquire(Mode::Exclusive, None).await.unwrap();
    assert!(outside.accepts(first.token()));
    first.release().await.unwrap();
    // An item of a queue has the same kind of fence.
    let queues: Api<DistributedQueue> = Api::default_namespaced(client.clone());
    queues
        .create(&PostParams::default(), &DistributedQueue::new("restored", DistributedQueueSpec::default()))
        .await
        .unwrap();
    let queue = |who: &str| {
        let session = Session::new(who).unwrap();
        Queue::on_object(client.clone(), "default", "restored", session, Duration::from_secs(60)).unwrap()
    };
    queue("sender").send("x", None).await.unwrap();
    let mut behind = Outside::default();

    // A copy, as of a snapshot.
    let etcd = Etcd::of(&cluster);
    cluster.etcd[0].kill();
    etcd.copy();
    cluster.etcd[0] = etcd.start();
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    wait_for("etcd to be back", || async { secrets.get_opt("x").await.map_err(|error| error.to_string()) })
        .await
        .unwrap();
    for number in 0..20 {
        secrets.create(&PostParams::default(), &secret(&format!("later-{number}"))).await.unwrap();
    }
    let survivor = lock("survivor").acquire(Mode::Exclusive, None).await.unwrap();
    assert!(outside.accepts(survivor.token()));
    let delivered = queue("survivor").receive(None, TTL).await.unwrap().unwrap();
    assert!(behind.accepts(delivered.token()));

    // All that came after the copy never was: so versions rise from where they were then, once more.
    cluster.kill_api_server(0);
    cluster.etcd[0].kill();
    etcd.restore();
    cluster.etcd[0] = etcd.start();
    cluster.restart_api_server(0).await.unwrap();
    let reason = survivor.lost().await;
    assert!(survivor.valid_for().is_zero(), "{reason}");
    let next = lock("next").acquire(Mode::Exclusive, None).await.unwrap();
    assert!(next.token() < survivor.token(), "{} after {}", next.token(), survivor.token());
    assert!(!outside.accepts(next.token()), "it got past the fence");
    next.release().await.unwrap();
    let stale = delivered.acknowledge().await.unwrap_err();
    assert!(matches!(stale, QueueError::Stale { .. }), "{stale}");
    let again = queue("next").receive(None, TTL).await.unwrap().unwrap();
    assert!(!behind.accepts(again.token()), "{} after {}", again.token(), delivered.token());
    again.release(None).await.unwrap();

    // It goes on when versions have risen above all that there were before.
    for number in 0..60 {
        secrets.create(&PostParams::default(), &secret(&format!("again-{number}"))).await.unwrap();
    }
    let risen = lock("risen").acquire(Mode::Exclusive, None).await.unwrap();
    assert!(risen.token() > survivor.token() && outside.accepts(risen.token()));
    let risen = queue("risen").receive(None, TTL).await.unwrap().unwrap();
    assert!(risen.token() > delivered.token() && behind.accepts(risen.token()));
    risen.acknowledge().await.unwrap();
}

/// etcd's command line and data.
struct Etcd {
    program: PathBuf,
    arguments: Vec<String>,
    data: PathBuf,
    copy: PathBuf,
    log: PathBuf,
}

impl Etcd {
    fn of(cluster: &Cluster) -> Self {
        let process = &cluster.etcd[0];
        let line = fs::read_to_string(format!("/proc/{}/cmdline", process.pid())).unwrap();
        let words: Vec<String> = line.split('\0').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        let data = words.iter().find_map(|word| word.strip_prefix("--data-dir=")).unwrap();
        Self {
            program: words[0].clone().into(),
            data: data.into(),
            copy: cluster.folder().join("copy"),
            log: process.log.clone(),
            arguments: words[1..].to_vec(),
        }
    }

    fn start(&self) -> Process {
        Process::start(&self.program, &self.arguments, &[], &self.log).unwrap()
    }

    fn copy(&self) {
        copied(&self.data, &self.copy);
    }

    fn restore(&self) {
        fs::remove_dir_all(&self.data).unwrap();
        copied(&self.copy, &self.data);
    }
}

fn copied(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}
