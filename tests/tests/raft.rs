//! etcd of three members below one API server, as in production: its leader is killed, and members are cut off, while locks, counters
//! and rollouts run. Nothing that was acknowledged is lost; for how long nothing could be done is measured and printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, dead_code)]

#[path = "../../coordination/tests/counter/history.rs"]
mod counting;
#[path = "../../coordination/tests/support/history.rs"]
mod locking;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use quorate_coordination::{Counter, LockState, Random, Session, Stored, counter::Operation};
use quorate_crds::{DistributedConfig, DistributedCounter, DistributedCounterSpec, head::Head, names};
use quorate_tests::{
    Cluster,
    cluster::Options,
    crowd::{Crowd, Job},
    programs,
    recorder::{Recorder, Version},
    wait::wait_for,
};
use serde_json::json;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

const TTL: Duration = Duration::from_secs(6);
const CONTENDERS: usize = 4;
const CALLERS: usize = 4;
/// An operation may take so long: longer than etcd needs to elect a leader, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
/// A cut-off member is brought back when this has passed, and others have gone on.
const CUT: Duration = Duration::from_secs(5);

/// For how long: longer with `QUORATE_SOAK`, in seconds.
fn time() -> Duration {
    let soak = std::env::var("QUORATE_SOAK").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(soak.unwrap_or(45))
}

/// When increments were acknowledged.
#[derive(Default)]
struct Acknowledged(Mutex<Vec<Instant>>);

impl Acknowledged {
    fn note(&self) {
        self.0.lock().unwrap().push(Instant::now());
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// The longest time without one between these moments.
    fn longest_pause(&self, from: Instant, until: Instant) -> Duration {
        let times = self.0.lock().unwrap();
        let within = times.iter().copied().filter(|time| (from..until).contains(time));
        let all: Vec<Instant> = std::iter::once(from).chain(within).chain([until]).collect();
        all.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

fn config(value: i64) -> serde_json::Value {
    json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig", "metadata": {"name": "web"},
        "spec": {
            "layers": [{"name": "a", "inline": {"value": value}}], "files": [{"path": "a.yaml"}],
            "revisionHistoryLimit": 100,
        },
    })
}

/// Until it ends, all count.
fn count(
    client: &Client,
    counted: &Arc<counting::History>,
    acknowledged: &Arc<Acknowledged>,
    ends: &Arc<AtomicBool>,
) -> Vec<JoinHandle<()>> {
    let caller = |caller: usize| {
        let session = Session::new(&format!("caller-{caller}")).unwrap();
        let counter = Counter::on_object(client.clone(), "default", "counted", session, LIMIT).unwrap();
        let (counted, acknowledged, ends) = (Arc::clone(counted), Arc::clone(acknowledged), Arc::clone(ends));
        tokio::spawn(async move {
            while !ends.load(Ordering::SeqCst) {
                let call = async {
                    let answer = counter.add(1).await;
                    acknowledged.note();
                    answer
                };
                counted.record(Operation::Add(1), call).await;
                sleep(Duration::from_millis(20)).await;
            }
        })
    };
    (0..CALLERS).map(caller).collect()
}

/// Until it ends, a config is changed; the last change that was acknowledged.
fn configure(client: &Client, ends: &Arc<AtomicBool>) -> JoinHandle<i64> {
    let (api, ends) = (Api::<DistributedConfig>::default_namespaced(client.clone()), Arc::clone(ends));
    tokio::spawn(async move {
        let (mut value, mut applied) = (0, 0);
        while !ends.load(Ordering::SeqCst) {
            value += 1;
            let params = PatchParams::apply("test").force();
            if api.patch("web", &params, &Patch::Apply(&config(value))).await.is_ok() {
                applied = value;
            }
            sleep(Duration::from_millis(500)).await;
        }
        applied
    })
}

/// One member after another is lost and comes back; in what way.
async fn trouble(cluster: &mut Cluster, round: usize, acknowledged: &Acknowledged) -> &'static str {
    let before = acknowledged.count();
    let goes_on = || async {
        let now = acknowledged.count();
        if now >= before + 20 { Ok(()) } else { Err(format!("{} increments since", now - before)) }
    };
    let leader = cluster.etcd_leader().await.unwrap();
    if round.is_multiple_of(3) {
        cluster.kill_etcd_leader().await.unwrap();
        wait_for("it to go on without the leader that was killed", goes_on).await.unwrap();
        cluster.restart_etcd(leader).unwrap();
        return "leader killed";
    }
    let (member, what) =
        if round % 3 == 1 { (leader, "leader cut off") } else { ((leader + 1) % 3, "another cut off") };
    cluster.cut_off_etcd(member, true);
    sleep(CUT).await;
    wait_for("it to go on without the member that is cut off", goes_on).await.unwrap();
    cluster.cut_off_etcd(member, false);
    what
}

/// The last change is published, or one that came after it, unacknowledged; and whatever pods could have read is in the log.
async fn published(secrets: &Api<Secret>, heads: &Recorder<Secret>, last: i64) {
    // How many there are between depends on the API server, whose own watch may hang on a member that is cut off.
    let head = wait_for("the last content to be published", || async {
        let head = secrets.get(&names::head_name("web")).await.map_err(|error| error.to_string())?;
        let head = Head::from_secret(&head).map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&head.bundle.files["a.yaml"].bytes).into_owned();
        let value: i64 = text.trim_start_matches("value: ").trim_end().parse().unwrap();
        if value >= last { Ok(head) } else { Err(text) }
    })
    .await
    .unwrap();
    wait_for("the log to be complete", || async {
        let label = format!("{}={}", names::LABEL_KIND, names::KIND_REVISION);
        let listed = secrets.list(&ListParams::default().labels(&label)).await.map_err(|error| error.to_string())?;
        let log: BTreeMap<i64, Head> =
            listed.items.iter().map(|secret| Head::from_secret(secret).unwrap()).map(|h| (h.revision, h)).collect();
        for pair in log.values().collect::<Vec<_>>().windows(2) {
            assert_eq!(pair[1].previous_hash.as_ref(), Some(&pair[0].hash), "the chain is broken");
        }
        let mut revisions = Vec::new();
        for (_, secret) in heads.versions() {
            let seen = Head::from_secret(&secret.expect("the head is never deleted")).unwrap();
            if log.get(&seen.revision).is_none_or(|logged| logged.hash != seen.hash) {
                return Err(format!("revision {} is not in the log", seen.revision));
            }
            revisions.push(seen.revision);
        }
        assert!(revisions.is_sorted() && revisions.len() > 1, "{revisions:?}");
        if revisions.last() == Some(&head.revision) { Ok(()) } else { Err("not all is recorded".to_owned()) }
    })
    .await
    .unwrap();
}

fn lock_is_right(crowd: &Crowd, versions: &[Version<Lease>]) -> usize {
    let events: Vec<locking::Event> = crowd.said().iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let grants = locking::grants(&events);
    let state = |lease: &Option<Lease>| {
        lease.as_ref().map_or_else(LockState::default, |lease| LockState::of_object(lease).unwrap())
    };
    let versions: Vec<locking::Seen> =
        versions.iter().map(|(token, lease)| locking::Seen { token: *token, state: state(lease) }).collect();
    locking::beliefs(&grants).unwrap();
    locking::tokens(&grants).unwrap();
    locking::versions(&versions).unwrap();
    grants.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_while_etcds_leader_is_killed_and_members_are_cut_off() {
    let mut cluster = Cluster::with(Options { etcd_members: 3, ..Options::default() }).await.unwrap();
    cluster.install_crds().await.unwrap();
    let client = cluster.client().await.unwrap();
    let log = cluster.folder().join("operator.log");
    let operator = programs::operator(&cluster.kubeconfig(0), &[], &log).await.unwrap();
    operator.ready().await.unwrap();
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    let leases = Recorder::start(Api::<Lease>::default_namespaced(client.clone()), "contended").await.unwrap();
    let heads = Recorder::start(secrets.clone(), &names::head_name("web")).await.unwrap();
    let counters: Api<DistributedCounter> = Api::default_namespaced(client.clone());
    let counter = DistributedCounter::new("counted", DistributedCounterSpec::default());
    counters.create(&PostParams::default(), &counter).await.unwrap();

    let arguments = vec![
        "--object=contended".to_owned(),
        format!("--ttl-millis={}", TTL.as_millis()),
        format!("--pause-millis={}", TTL.as_millis() / 8),
    ];
    let mut crowd = Crowd::start(&cluster, None, &vec![Job { what: "lock", arguments }; CONTENDERS]).unwrap();
    let (counted, acknowledged, ends) = (Arc::default(), Arc::default(), Arc::default());
    let (callers, changes) = (count(&client, &counted, &acknowledged, &ends), configure(&client, &ends));
    let (until, random) = (Instant::now() + time(), Random::from_system().unwrap());
    let mut pauses: BTreeMap<&str, Duration> = BTreeMap::new();
    for round in 0.. {
        sleep(random.up_to(TTL / 2)).await;
        let began = Instant::now();
        let what = trouble(&mut cluster, round, &acknowledged).await;
        let pause = pauses.entry(what).or_default();
        *pause = (*pause).max(acknowledged.longest_pause(began, Instant::now()));
        if Instant::now() > until {
            break;
        }
    }
    ends.store(true, Ordering::SeqCst);
    join_all(callers).await.into_iter().for_each(Result::unwrap);
    let changed = changes.await.unwrap();
    crowd.kill_all();
    for (what, pause) in &pauses {
        println!("{what}: no increment for {} ms at most", pause.as_millis());
    }

    let value = counters.get("counted").await.unwrap().status.unwrap().value;
    assert_eq!(counted.check_increments(0, value), Ok(()));
    let grants = lock_is_right(&crowd, &leases.versions());
    println!("{value} increments, {grants} grants, {changed} changes of a config");
    assert!(grants > 10 && value > 100);
    published(&secrets, &heads, changed).await;
}
