//! The queue: the pure machine, then handles over a store in memory, in virtual time, with faults.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "queue/broken.rs"]
mod broken;
#[path = "queue/history.rs"]
#[allow(dead_code)]
mod history;
#[path = "queue/machine.rs"]
mod machine;
#[path = "queue/worker.rs"]
mod worker;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use proptest::prelude::*;
use quorate_coordination::{
    Fault, Payload, Queue, QueueError, Random, Session, Virtual,
    queue::{Item, QueueState, SimStore, Store, Which, Written},
};
use quorate_crds::{DistributedQueueSpec, MAX_QUEUE_PAYLOAD, QueueItemState, Span};
use tokio::time::{Instant, sleep, timeout};

use history::{Change, History, Violation};
use worker::{Habits, Shared, Skewed, consume, produce};

/// Long beside all faults, so that every operation is settled.
const LIMIT: Duration = Duration::from_secs(600);
const NOW: Duration = Duration::ZERO;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn queue_state(uid: &str, spec: DistributedQueueSpec) -> QueueState {
    QueueState { uid: uid.into(), spec, ..QueueState::default() }
}

fn store() -> SimStore {
    SimStore::new(queue_state("u", DistributedQueueSpec::default()))
}

fn session(name: &str, rate: f64) -> Session {
    Session::with(name, Arc::new(Skewed(Virtual::default(), rate)), Arc::new(Random::from_seed(name)))
}

fn handle<S: Store>(store: S, name: &str) -> Queue<S> {
    Queue::new(store, "q", session(name, 1.0), LIMIT).unwrap()
}

fn item(store: &SimStore, name: &str) -> Item {
    store.items().remove(name).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_is_received_and_done_with_when_it_is_acknowledged() {
    let store = store();
    let queue = handle(store.clone(), "a");
    let sent = queue.send("hello", Some("order-7")).await.unwrap();
    assert_eq!((sent.item.as_str(), sent.sequence, sent.duplicate), ("q.order-7", 1, false));
    let got = queue.receive(None, NOW).await.unwrap().unwrap();
    assert_eq!(
        (got.name(), got.payload(), got.attempts(), got.sequence()),
        (Some("order-7"), Payload::from("hello"), 1, 1)
    );
    assert_eq!((got.sent_by(), got.receipt().starts_with("1-")), ("a", true));
    assert!(got.token() > sent.token && got.valid_for() > seconds(28) && got.valid_for() < seconds(30));
    assert!(queue.receive(None, NOW).await.unwrap().is_none(), "it is kept from others");
    got.acknowledge().await.unwrap();
    got.acknowledge().await.unwrap();
    assert_eq!(item(&store, "q.order-7").state(), QueueItemState::Acknowledged);
    assert!(queue.receive(None, seconds(60)).await.unwrap().is_none());
    // The name is kept.
    let again = queue.send("hello again", Some("order-7")).await.unwrap();
    assert_eq!((again.duplicate, again.sequence, again.state), (true, 1, QueueItemState::Acknowledged));
    assert_eq!(item(&store, "q.order-7").spec.payload.as_deref(), Some("hello"));
}

#[tokio::test(start_paused = true)]
async fn a_lone_consumer_receives_in_order_and_each_step_is_one_write() {
    let store = store();
    let (producer, consumer) = (handle(store.clone(), "a"), handle(store.clone(), "b"));
    for number in 0..50 {
        producer.send(format!("{number}"), None).await.unwrap();
    }
    for number in 0..50 {
        let got = consumer.receive(None, seconds(1)).await.unwrap().unwrap();
        assert_eq!(got.payload().as_text(), Some(format!("{number}").as_str()));
        got.acknowledge().await.unwrap();
    }
    assert_eq!(store.log().len(), 150, "made, claimed, acknowledged");
}

#[tokio::test(start_paused = true)]
async fn sends_at_the_same_time_take_their_numbers_in_one_write() {
    let store = store();
    let queue = handle(store.clone(), "a");
    let sent = join_all((0..100).map(|_| queue.send("x", None))).await;
    let mut sequences: Vec<i64> = sent.into_iter().map(|sent| sent.unwrap().sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=100).collect::<Vec<_>>());
    let last = store.log().iter().map(|written| written.revision).max().unwrap();
    assert!(last <= 1 + 100 + 2, "{last}: the items, and two writes of the queue at most");
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_given_what_comes() {
    let store = store();
    let (producer, consumer) = (handle(store.clone(), "a"), handle(store.clone(), "b"));
    let began = Instant::now();
    let (got, ()) = tokio::join!(consumer.receive(None, seconds(60)), async {
        sleep(seconds(7)).await;
        producer.send("x", None).await.unwrap();
    });
    assert!(got.unwrap().is_some() && began.elapsed() < seconds(8));
    let began = Instant::now();
    assert!(consumer.receive(None, seconds(5)).await.unwrap().is_none());
    assert_eq!(began.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_acknowledged_comes_again_when_its_time_is_up_and_the_old_receipt_is_no_good() {
    let store = store();
    let (first, second) = (handle(store.clone(), "a"), handle(store.clone(), "b"));
    first.send("x", None).await.unwrap();
    let got = first.receive(Some(seconds(10)), NOW).await.unwrap().unwrap();
    let began = Instant::now();
    let again = second.receive(None, seconds(60)).await.unwrap().unwrap();
    assert!(began.elapsed() >= Duration::from_millis(10_500) && began.elapsed() < seconds(11), "{:?}", began.elapsed());
    assert_eq!((again.attempts(), got.valid_for()), (2, Duration::ZERO));
    assert!(again.token() > got.token());
    let stale = got.acknowledge().await.unwrap_err();
    let told = stale.to_string();
    assert!(matches!(stale, QueueError::Stale { .. }) && told.contains("b has it now (attempt 2)"), "{told}");
    assert!(stale.is_final() && !stale.is_unknown());
    again.acknowledge().await.unwrap();
    let told = got.release(None).await.unwrap_err().to_string();
    assert!(told.contains("b has acknowledged it"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_sign_of_life_keeps_an_item_and_another_time_can_be_asked_for() {
    let store = store();
    let (first, second) = (handle(store.clone(), "a"), handle(store.clone(), "b"));
    first.send("x", None).await.unwrap();
    let mut got = first.receive(Some(seconds(10)), NOW).await.unwrap().unwrap();
    for _ in 0..5 {
        assert!(second.receive(None, seconds(8)).await.unwrap().is_none());
        got.extend(Some(seconds(10))).await.unwrap();
    }
    got.extend(Some(seconds(100))).await.unwrap();
    assert!(got.valid_for() > seconds(90));
    assert!(second.receive(None, seconds(90)).await.unwrap().is_none());
    got.extend(Some(seconds(1))).await.unwrap();
    assert!(second.receive(None, seconds(2)).await.unwrap().is_some());
    assert!(matches!(got.extend(None).await, Err(QueueError::Stale { .. })));
}

#[tokio::test(start_paused = true)]
async fn what_another_process_did_with_the_same_receipt_is_not_taken_for_ones_own() {
    let store = store();
    let (first, second) = (handle(store.clone(), "a"), handle(store.clone(), "b"));
    first.send("x", Some("n")).await.unwrap();
    let mut got = first.receive(Some(seconds(10)), NOW).await.unwrap().unwrap();
    // The first is told nothing of what the second does.
    store.stall_watches(seconds(1000));
    second.extend(got.item(), got.receipt(), Some(seconds(10))).await.unwrap();
    sleep(seconds(8)).await;
    got.extend(Some(seconds(10))).await.unwrap();
    assert_eq!(item(&store, "q.n").status.extensions, 2, "its time begins now, so others must see a sign of life now");
    second.acknowledge(got.item(), got.receipt()).await.unwrap();
    let told = got.release(None).await.unwrap_err().to_string();
    assert!(told.contains("a has acknowledged it"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_comes_at_once_and_after_the_last_attempt_it_is_dead() {
    let store =
        SimStore::new(queue_state("u", DistributedQueueSpec { max_attempts: 3, ..DistributedQueueSpec::default() }));
    let queue = handle(store.clone(), "a");
    queue.send("x", Some("n")).await.unwrap();
    for attempt in 1..=3 {
        let got = queue.receive(None, seconds(1)).await.unwrap().unwrap();
        assert_eq!(got.attempts(), attempt);
        got.release(Some("no such order")).await.unwrap();
    }
    assert!(queue.receive(None, seconds(100)).await.unwrap().is_none());
    let dead = queue.peek(Which::Dead, 10).await.unwrap();
    assert_eq!((dead.len(), dead[0].attempts, dead[0].item.as_str()), (1, 3, "q.n"));
    assert_eq!(dead[0].message.as_deref(), Some("handed out 3 times, which is the most: no such order"));
    assert_eq!(queue.length().await.unwrap().dead, 1);
    assert_eq!(queue.send("y", Some("n")).await.unwrap().state, QueueItemState::Dead, "its name is taken");
    assert_eq!(queue.redrive(None).await.unwrap(), 1);
    let again = queue.receive(None, seconds(1)).await.unwrap().unwrap();
    assert_eq!((again.attempts(), again.receipt().starts_with("4-")), (1, true));
    let told = queue.redrive(Some("q.n")).await.unwrap_err().to_string();
    assert!(told.contains("no dead letter: somebody works on it"), "{told}");
    // One that dies without a word.
    for _ in 0..2 {
        assert!(queue.receive(None, seconds(40)).await.unwrap().is_some());
    }
    assert!(queue.receive(None, seconds(40)).await.unwrap().is_none());
    assert_eq!(queue.length().await.unwrap().dead, 1);
    assert_eq!((queue.purge_dead(None).await.unwrap(), store.items().len()), (1, 0));
    assert!(queue.redrive(Some("q.n")).await.unwrap_err().to_string().contains("there is no such item"));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_takes_nothing_until_there_is_room() {
    let store =
        SimStore::new(queue_state("u", DistributedQueueSpec { max_length: 3, ..DistributedQueueSpec::default() }));
    let queue = handle(store.clone(), "a");
    let sent = join_all((0..5).map(|_| queue.send("x", None))).await;
    assert_eq!(sent.iter().filter(|sent| sent.is_ok()).count(), 3);
    let full = queue.send("x", None).await.unwrap_err();
    let told = full.to_string();
    assert!(matches!(full, QueueError::Full { length: 3, max: 3, .. }) && told.contains("nothing was sent"), "{told}");
    let got = queue.receive(None, NOW).await.unwrap().unwrap();
    assert!(queue.send("x", None).await.is_err(), "what is worked on counts");
    got.acknowledge().await.unwrap();
    queue.send("x", None).await.unwrap();
    // What was sent, acknowledged and never counted does not fill it for who has seen nothing of it.
    let other = handle(store.clone(), "b");
    other.receive(None, NOW).await.unwrap().unwrap().acknowledge().await.unwrap();
    handle(store.clone(), "c").send("x", None).await.unwrap();
    assert!(handle(store.clone(), "d").send("x", None).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_to_answers_an_item_is_sent_once_and_received_once() {
    for fault in [Fault::LostReply, Fault::LostRequest, Fault::Delayed, Fault::FalseConflict] {
        for before in 0..4 {
            let store = store();
            let queue = handle(store.clone(), "a");
            store.befall((0..before).map(|_| Fault::None).chain([fault, fault]));
            store.lose_reads([true, false, true]);
            let sent = queue.send("x", Some("n")).await.unwrap();
            assert!(!sent.duplicate, "{fault:?} {before}");
            let got = queue.receive(None, seconds(5)).await.unwrap().unwrap();
            assert_eq!(got.attempts(), 1, "{fault:?} {before}");
            got.acknowledge().await.unwrap();
            assert_eq!((store.items().len(), store.log().len()), (1, 3), "{fault:?} {before}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_it_is_said_whether_anything_may_have_happened() {
    let store = store();
    let queue = Queue::new(store.clone(), "q", session("a", 1.0), seconds(2)).unwrap();
    queue.send("x", None).await.unwrap();
    let got = queue.receive(None, NOW).await.unwrap().unwrap();
    store.lose_reads([true; 10_000]);
    store.befall([Fault::LostReply]);
    let told = got.acknowledge().await.unwrap_err();
    assert!(told.is_unknown() && told.to_string().contains("may have been done"), "{told}");
    let fresh = Queue::new(store.clone(), "q", session("b", 1.0), seconds(2)).unwrap();
    let told = fresh.receive(None, NOW).await.unwrap_err();
    assert!(!told.is_unknown() && !told.is_final(), "{told}");
    assert!(fresh.length().await.is_err());
    while fresh.length().await.is_err() {}
    got.acknowledge().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_silent_or_broken_delays_and_loses_nothing() {
    let store = store();
    let (producer, consumer) = (handle(store.clone(), "a"), handle(store.clone(), "b"));
    producer.send("x", None).await.unwrap();
    consumer.receive(None, NOW).await.unwrap().unwrap().acknowledge().await.unwrap();
    store.stall_watches(seconds(100_000));
    producer.send("y", None).await.unwrap();
    // The queue says that there is an item, and the watch tells of none.
    let began = Instant::now();
    assert!(consumer.receive(None, seconds(300)).await.unwrap().is_some());
    assert!(began.elapsed() < seconds(31), "{:?}", began.elapsed());
    for _ in 0..3 {
        store.stall_watches(NOW);
        store.break_watches();
        producer.send("z", None).await.unwrap();
        assert!(consumer.receive(None, seconds(60)).await.unwrap().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_deleted_is_told_and_one_made_again_is_another() {
    let store = store();
    let (producer, consumer) = (handle(store.clone(), "a"), handle(store.clone(), "b"));
    producer.send("x", None).await.unwrap();
    let got = consumer.receive(None, NOW).await.unwrap().unwrap();
    store.replace_queue(None);
    let told = got.acknowledge().await.unwrap_err().to_string();
    assert!(told.contains("there is no such item"), "{told}");
    for told in [
        producer.send("y", None).await.unwrap_err(),
        producer.length().await.unwrap_err(),
        consumer.receive(None, seconds(60)).await.err().unwrap(),
    ] {
        assert!(told.is_final() && told.to_string().contains("does not exist: create it first"), "{told}");
    }
    store.replace_queue(Some(queue_state("v", DistributedQueueSpec::default())));
    assert_eq!(producer.send("z", None).await.unwrap().sequence, 1);
    assert_eq!(consumer.receive(None, seconds(60)).await.unwrap().unwrap().payload().as_text(), Some("z"));
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_refused_with_what_to_do() {
    let queue = handle(store(), "a");
    let name = |name: &str| Queue::new(store(), name, session("a", 1.0), LIMIT).err().unwrap().to_string();
    for bad in ["", "No", "a.b", "a/b", &"x".repeat(64)] {
        assert!(name(bad).contains("is no name of a queue"), "{bad}");
    }
    let told = queue.send("x".repeat(MAX_QUEUE_PAYLOAD + 1), None).await.unwrap_err().to_string();
    assert!(told.contains("65537 bytes is too large") && told.contains("store it elsewhere"), "{told}");
    assert!(queue.send("x", Some("")).await.is_err());
    let odd = queue.send(vec![0_u8, 255], Some("Order 7/ä")).await.unwrap();
    assert!(odd.item.starts_with("q.sha256-"), "{odd:?}");
    let got = queue.receive(None, NOW).await.unwrap().unwrap();
    assert_eq!((got.name(), got.payload()), (Some("Order 7/ä"), Payload::Binary(vec![0, 255])));
    for bad in [Duration::ZERO, Duration::from_secs(365 * 86_400)] {
        let told = queue.receive(Some(bad), NOW).await.err().unwrap().to_string();
        assert!(told.contains("from 1 s to 12 h"), "{told}");
        assert!(queue.extend(got.item(), got.receipt(), Some(bad)).await.is_err());
    }
    let told = queue.acknowledge("other.x", "1-r").await.unwrap_err().to_string();
    assert!(told.contains("is no item of queue q"), "{told}");
    let told = queue.acknowledge(got.item(), "1-forged").await.unwrap_err().to_string();
    assert!(told.contains("receipt 1-forged is not valid any more"), "{told}");
    // A wait without end is none that overflows.
    assert!(timeout(seconds(1), queue.receive(None, Duration::MAX)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn more_payload_than_is_remembered_is_received_all_the_same() {
    let store =
        SimStore::new(queue_state("u", DistributedQueueSpec { max_length: 1000, ..DistributedQueueSpec::default() }));
    let (producer, consumer) = (handle(store.clone(), "a"), handle(store.clone(), "b"));
    let payload = "x".repeat(MAX_QUEUE_PAYLOAD);
    let sends = (0..300).map(|_| producer.send(payload.clone(), None));
    assert!(join_all(sends).await.iter().all(Result::is_ok));
    for _ in 0..300 {
        let got = consumer.receive(None, NOW).await.unwrap().unwrap();
        assert_eq!(got.payload().as_bytes().len(), MAX_QUEUE_PAYLOAD);
    }
}

#[tokio::test(start_paused = true)]
async fn consumers_that_contend_leave_the_first_items_to_each_other() {
    let store = store();
    let producer = handle(store.clone(), "p");
    for _ in 0..200 {
        producer.send("x", None).await.unwrap();
    }
    let done = AtomicUsize::new(0);
    let consumers = (0..8).map(|number| {
        let name = format!("c{number}");
        let random = Arc::new(Random::from_seed(&name));
        let queue = handle(store.clone().far(random, Duration::from_millis(4)), &name);
        let done = &done;
        async move {
            let mut own = 0;
            while done.load(Ordering::SeqCst) < 200 {
                if let Some(got) = queue.receive(None, seconds(1)).await.unwrap() {
                    got.acknowledge().await.unwrap();
                    done.fetch_add(1, Ordering::SeqCst);
                    own += 1;
                }
            }
            own
        }
    });
    let own: Vec<usize> = join_all(consumers).await;
    assert!(own.iter().all(|own| *own >= 10), "each gets some: {own:?}");
    assert_eq!(store.log().len(), 600, "no item was handed out twice");
}

#[tokio::test(start_paused = true)]
async fn senders_in_many_processes_get_on_alike() {
    for senders in [2, 4, 16] {
        let spec = DistributedQueueSpec { max_length: 10_000, ..DistributedQueueSpec::default() };
        let store = SimStore::new(queue_state("u", spec));
        let until = Instant::now() + seconds(60);
        let sent: Vec<usize> = join_all((0..senders).map(|number| {
            let name = format!("p{number}");
            let random = Arc::new(Random::from_seed(&name));
            let queue = handle(store.clone().far(random, Duration::from_millis(10)), &name);
            async move {
                let mut sent = 0;
                while Instant::now() < until {
                    queue.send("x", None).await.unwrap();
                    sent += 1;
                }
                sent
            }
        }))
        .await;
        let (least, most) = (*sent.iter().min().unwrap(), *sent.iter().max().unwrap());
        assert!(2 * least >= most, "{sent:?}");
        // They do not get in each other's way much: alone, one would send 3000.
        assert!(sent.iter().sum::<usize>() > 2000, "{sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn consumers_that_wait_do_not_all_run_for_the_same_item() {
    let store = store();
    let began = Instant::now();
    let consumers = (0..16).map(|number| {
        let name = format!("c{number}");
        let random = Arc::new(Random::from_seed(&name));
        let queue = handle(store.clone().far(random, Duration::from_millis(5)), &name);
        async move {
            let mut own = 0;
            while began.elapsed() < seconds(60) {
                if let Some(got) = queue.receive(None, seconds(1)).await.unwrap() {
                    got.acknowledge().await.unwrap();
                    own += 1;
                }
            }
            own
        }
    });
    let producer = handle(store.clone(), "p");
    let produce = async {
        let mut sent = 0;
        while began.elapsed() < seconds(55) {
            producer.send("x", None).await.unwrap();
            sleep(Duration::from_millis(50)).await;
            sent += 1;
        }
        sent
    };
    let (own, sent): (Vec<usize>, usize) = tokio::join!(join_all(consumers), produce);
    assert_eq!(own.iter().sum::<usize>(), sent);
    assert!(store.conflicts() < sent, "{} claims came too late for {sent} items", store.conflicts());
}

/// Producers and consumers over stores with faults.
#[derive(Clone, Debug)]
struct Plan {
    producers: usize,
    consumers: usize,
    items: usize,
    habits: Habits,
    faults: Vec<Fault>,
    lost: Vec<bool>,
    lag: Duration,
    /// Clocks are off by up to this.
    drift: f64,
    /// Watches stand still, and break, now and then.
    stalls: bool,
    broken: broken::Fault,
}

impl Plan {
    /// Nothing goes wrong.
    fn calm(consumers: usize) -> Self {
        let habits = Habits { visibility: seconds(10), work: seconds(1), abandons: 0, releases: 0, extends: 0 };
        Self {
            producers: 2,
            consumers,
            items: 8,
            habits,
            faults: Vec::new(),
            lost: Vec::new(),
            lag: Duration::from_millis(5),
            drift: 0.0,
            stalls: false,
            broken: broken::Fault::None,
        }
    }
}

/// Plays it to its end; what was seen, and what the store did.
async fn play(plan: &Plan) -> (Arc<History>, Vec<Change>) {
    let spec = DistributedQueueSpec { visibility_timeout: Span::of_seconds(10), ..DistributedQueueSpec::default() };
    let store = SimStore::new(queue_state("u", spec));
    store.befall(plan.faults.clone());
    store.lose_reads(plan.lost.clone());
    let (history, began, producing) = (Arc::new(History::default()), Instant::now(), AtomicUsize::new(plan.producers));
    let notes = history.notes();
    let now: Shared = Arc::new(move || began.elapsed());
    let far = |name: &str| store.clone().far(Arc::new(Random::from_seed(name)), plan.lag);
    let producers = join_all((0..plan.producers).map(|number| {
        let name = format!("p{number}");
        let queue = handle(broken::Broken(far(&name), plan.broken), &name);
        let (notes, producing) = (&notes, &producing);
        async move {
            produce(&queue, &name, plan.items, Duration::ZERO, notes).await;
            producing.fetch_sub(1, Ordering::SeqCst);
        }
    }));
    let done = || producing.load(Ordering::SeqCst) == 0 && !store.items().values().any(Item::is_live);
    let consumers = join_all((0..plan.consumers).map(|number| {
        let name = format!("c{number}");
        // The first is the slowest, and the last the fastest.
        #[expect(clippy::cast_precision_loss, reason = "they are few")]
        let place = number as f64 / (plan.consumers.max(2) - 1) as f64;
        let rate = 1.0 + plan.drift * (2.0 * place - 1.0);
        let queue = Queue::new(broken::Broken(far(&name), plan.broken), "q", session(&name, rate), LIMIT).unwrap();
        let random = Random::from_seed(&format!("habits {name}"));
        let (notes, now) = (&notes, now.clone());
        async move { consume(&queue, plan.habits, &random, rate, &now, notes, done).await }
    }));
    let weather = async {
        while plan.stalls && !done() {
            sleep(seconds(11)).await;
            store.stall_watches(seconds(7));
            sleep(seconds(13)).await;
            store.break_watches();
        }
    };
    tokio::join!(producers, consumers, weather);
    let changes = store.log().into_iter().map(|Written { at, name, before, after, .. }| {
        let at = Some(at.duration_since(began));
        Change { name, before, after, at }
    });
    (history, changes.collect())
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// Plays it, unless it never ends.
fn checked(plan: &Plan) -> Result<(), Violation> {
    paused().block_on(async {
        let played = timeout(seconds(24 * 3600), play(plan)).await;
        let Ok((history, changes)) = played else { panic!("it does not end: {plan:?}") };
        history.check(&changes, 5)
    })
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => Just(Fault::None),
        2 => Just(Fault::LostReply),
        1 => Just(Fault::LostRequest),
        1 => Just(Fault::Delayed),
        1 => Just(Fault::FalseConflict),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let habits = (0..40_u64, 0..30_u64, 0..30_u64, 1..20_u64).prop_map(|(abandons, releases, extends, work)| Habits {
        visibility: seconds(10),
        work: seconds(work),
        abandons,
        releases,
        extends,
    });
    let faults = (
        prop::collection::vec(fault(), 0..60),
        prop::collection::vec(prop::bool::weighted(0.3), 0..60),
        0..40_u64,
        0.0..0.05,
        any::<bool>(),
    );
    (1..4_usize, 1..5_usize, 1..8_usize, habits, faults).prop_map(|(producers, consumers, items, habits, faults)| {
        let (faults, lost, lag, drift, stalls) = faults;
        let lag = Duration::from_millis(lag);
        let broken = broken::Fault::None;
        Plan { producers, consumers, items, habits, faults, lost, lag, drift, stalls, broken }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(150), ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_handed_out_too_soon_or_too_often_whatever_happens(plan in plan()) {
        prop_assert_eq!(checked(&plan), Ok(()));
    }

    #[test]
    fn when_nothing_goes_wrong_items_are_handed_out_in_order_and_once(producers in 1..5_usize, items in 1..12_usize, lag in 0..30_u64) {
        let lag = Duration::from_millis(lag);
        let plan = Plan { producers, items, lag, ..Plan::calm(1) };
        let (history, changes) = paused().block_on(play(&plan));
        prop_assert_eq!(history.check(&changes, 5), Ok(()));
        prop_assert_eq!(history.deliveries().len(), producers * items);
        // Of producers that send at the same time, one item may become visible after the next.
        if producers == 1 {
            prop_assert_eq!(history.check_order(), Ok(()));
        }
    }
}

#[test]
fn the_checks_find_what_is_broken() {
    let busy = Habits { visibility: seconds(10), work: seconds(8), abandons: 20, releases: 10, extends: 20 };
    let plan = Plan { habits: busy, drift: 0.05, ..Plan::calm(4) };
    assert_eq!(checked(&plan), Ok(()));
    // Without the compare in compare-and-swap, two are given the same.
    let found = checked(&Plan { broken: broken::Fault::Unconditional, ..plan.clone() }).unwrap_err();
    assert!(matches!(found, Violation::Unlawful(_)), "{found:?}");
    let found = checked(&Plan { broken: broken::Fault::Undone, ..plan.clone() }).unwrap_err();
    assert!(matches!(found, Violation::Unlawful(_)), "{found:?}");
    let one = |broken| Plan { producers: 1, consumers: 1, items: 1, broken, ..Plan::calm(1) };
    let (history, changes) = paused().block_on(play(&one(broken::Fault::Forgetful)));
    assert!(matches!(history.check(&changes, 5), Err(Violation::Lost(_))));
    // With clocks that differ by more than is allowed for, somebody is too soon. The receipts hold all the same.
    let slow = Habits { work: seconds(20), ..busy };
    let found = checked(&Plan { drift: 0.3, habits: slow, items: 20, ..plan }).unwrap_err();
    assert!(matches!(found, Violation::Early(_)), "{found:?}");
}
