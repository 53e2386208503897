//! What has to be done for queues now and then, by one process for all: the operator.
//!
//! It deletes what was kept for long enough, gives back items whose consumers have gone when nobody else does, and counts.
//! **Nothing depends on it but memory**: queues work without it, and what it does is safe to do twice.
//!
//! How long something has been as it is, is judged by the API server's clock alone, which notes the time of each write and tells
//! its own. That a claim has expired is judged by what was seen, as consumers do.

use std::{collections::HashMap, pin::pin, time::Duration};

use futures::{StreamExt, future::join_all, stream};
use jiff::{Timestamp, fmt::rfc2822};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DeleteParams, ObjectMeta, Preconditions},
    core::Object,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use quorate_crds::{DistributedQueue, DistributedQueueSpec, QueueCounts, QueueItem, QueueItemState, QueueItemStatus};
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{
    item::{Item, Sign},
    state::QueueState,
};
use crate::{KubeRegister, Session, Step, Stored, Versioned, lock::patience};

/// It looks this often.
const ROUND: Duration = Duration::from_secs(5);
/// An acknowledged item without a name is kept for this long: requests that are older than that are not on their way any more.
pub const KEEP_UNNAMED: Duration = Duration::from_secs(120);
/// Acknowledged items of a queue beyond this go as soon as those without a name.
pub const MOST_ACKNOWLEDGED: usize = 10_000;
/// Consumers see a claim expire before; only when none has done anything about it for this long, the janitor does.
pub const GRACE: Duration = Duration::from_secs(5);
/// Duties that are done at a time.
const AT_A_TIME: usize = 16;
/// Duties of one round; the next one does the rest.
const PER_ROUND: usize = 2000;
/// The time limit of a call.
const LIMIT: Duration = Duration::from_secs(5);

/// An item, as far as the janitor needs to know it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outline {
    /// Whether it was sent under a name.
    pub named: bool,
    /// Its place in the queue.
    pub sequence: i64,
    /// What has become of it.
    pub status: QueueItemStatus,
    /// When it was written last, by the API server's clock.
    pub changed: Timestamp,
    /// Since when the janitor has seen it as it is, by its own.
    pub since: Duration,
}

/// What is to be done with an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Delete it: it was kept for long enough.
    Delete,
    /// Give it back: its claim has expired, and no consumer has taken it.
    Expire(Sign),
}

/// What is to be done with the items of a queue, at this time by the API server's clock and by the janitor's own.
pub fn duties<'a, K: Clone + 'a>(
    spec: &DistributedQueueSpec,
    items: impl IntoIterator<Item = (&'a K, &'a Outline)>,
    server: Timestamp,
    now: Duration,
) -> Vec<(K, Duty)> {
    let (mut duties, mut kept) = (Vec::new(), Vec::new());
    for (key, item) in items {
        let age = age(item, server);
        let duty = match item.status.state {
            QueueItemState::Ready => None,
            QueueItemState::Claimed => expired(item, now).map(Duty::Expire),
            QueueItemState::Dead => {
                spec.keep_dead.filter(|keep| age >= Duration::from(*keep).max(KEEP_UNNAMED)).map(|_| Duty::Delete)
            }
            QueueItemState::Acknowledged => {
                let keep = if item.named { Duration::from(spec.keep_acknowledged) } else { KEEP_UNNAMED };
                if age >= keep.max(KEEP_UNNAMED) {
                    Some(Duty::Delete)
                } else {
                    kept.push((age, item.sequence, key));
                    None
                }
            }
        };
        duties.extend(duty.map(|duty| (key.clone(), duty)));
    }
    // The oldest first.
    kept.sort_by_key(|(age, sequence, _)| (std::cmp::Reverse(*age), *sequence));
    let beyond = kept.len().saturating_sub(MOST_ACKNOWLEDGED);
    let old = kept.into_iter().take(beyond).filter(|(age, ..)| *age >= KEEP_UNNAMED);
    duties.extend(old.map(|(_, _, key)| (key.clone(), Duty::Delete)));
    duties
}

/// How many there are of each, when this was the last number that was given out.
pub fn counts<'a>(items: impl IntoIterator<Item = &'a Outline>, sequence: i64) -> QueueCounts {
    let mut counts = QueueCounts { sequence, ..QueueCounts::default() };
    for item in items {
        let of_state = match item.status.state {
            QueueItemState::Ready => &mut counts.ready,
            QueueItemState::Claimed => &mut counts.claimed,
            QueueItemState::Dead => &mut counts.dead,
            QueueItemState::Acknowledged => &mut counts.acknowledged,
        };
        *of_state += 1;
    }
    counts
}

fn age(item: &Outline, server: Timestamp) -> Duration {
    Duration::try_from(server.duration_since(item.changed)).unwrap_or_default()
}

fn expired(item: &Outline, now: Duration) -> Option<Sign> {
    let visibility = Duration::from_secs(item.status.visibility_seconds?.max(0).unsigned_abs());
    let due = item.since.saturating_add(patience(visibility)).saturating_add(GRACE);
    let receipt = item.status.receipt.clone().filter(|_| due <= now)?;
    Some(Sign { receipt, extensions: item.status.extensions })
}

/// An item without its payload, which may be large and is not needed.
type Brief = Object<BriefSpec, QueueItemStatus>;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct BriefSpec {
    queue: String,
    sequence: i64,
    name: Option<String>,
}

/// Does what is to be done, for ever; in these namespaces, or in all if there are none.
///
/// It needs the rights to get, list and watch distributedqueues and queueitems, to update the status of both, and to delete queueitems.
pub async fn run(client: Client, namespaces: &[String], session: &Session) {
    if namespaces.is_empty() {
        return clean(client, None, session).await;
    }
    join_all(namespaces.iter().map(|namespace| clean(client.clone(), Some(namespace), session))).await;
}

/// Does what is to be done in this namespace, or in all.
async fn clean(client: Client, namespace: Option<&str>, session: &Session) {
    let brief = ApiResource::erase::<QueueItem>(&());
    let queues: Api<DistributedQueue> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let items: Api<Brief> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &brief),
        None => Api::all_with(client.clone(), &brief),
    };
    let mut queues = pin!(watcher(queues, watcher::Config::default()).default_backoff());
    let mut items = pin!(watcher(items, watcher::Config::default()).default_backoff());
    let mut janitor = Janitor { client, session, queues: HashMap::new(), items: HashMap::new(), listed: false };
    let mut round = interval(ROUND);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(event) = queues.next() => janitor.queue(event),
            Some(event) = items.next() => janitor.item(event),
            _ = round.tick() => janitor.round().await,
            else => return,
        }
    }
}

struct Janitor<'a> {
    client: Client,
    session: &'a Session,
    /// By uid.
    queues: HashMap<String, Queue>,
    /// By uid.
    items: HashMap<String, Seen>,
    /// Whether all items are known.
    listed: bool,
}

/// A queue, as it was seen last.
struct Queue {
    namespace: String,
    name: String,
    state: QueueState,
    /// Whether it is still there, while all are listed anew.
    present: bool,
}

/// An item, as it was seen last.
struct Seen {
    name: String,
    queue_uid: String,
    resource_version: Option<String>,
    outline: Outline,
    /// Whether it is still there, while all are listed anew.
    present: bool,
}

impl Janitor<'_> {
    fn queue(&mut self, event: watcher::Result<Event<DistributedQueue>>) {
        match event {
            Ok(Event::Apply(queue) | Event::InitApply(queue)) => {
                // It cannot fail, and says so by its type only.
                let Ok(state) = QueueState::of_object(&queue) else { return };
                let (namespace, name) = (queue.namespace().unwrap_or_default(), queue.name_any());
                self.queues.insert(state.uid.clone(), Queue { namespace, name, state, present: true });
            }
            Ok(Event::Delete(queue)) => drop(self.queues.remove(&queue.uid().unwrap_or_default())),
            Ok(Event::Init) => self.queues.values_mut().for_each(|queue| queue.present = false),
            Ok(Event::InitDone) => self.queues.retain(|_, queue| queue.present),
            Err(error) => tracing::debug!(%error, "the watch on queues was interrupted; trying again"),
        }
    }

    fn item(&mut self, event: watcher::Result<Event<Brief>>) {
        match event {
            Ok(Event::Apply(item) | Event::InitApply(item)) => self.see(&item),
            Ok(Event::Delete(item)) => drop(self.items.remove(&item.uid().unwrap_or_default())),
            Ok(Event::Init) => self.items.values_mut().for_each(|item| item.present = false),
            Ok(Event::InitDone) => {
                self.items.retain(|_, item| item.present);
                self.listed = true;
            }
            Err(error) => tracing::debug!(%error, "the watch on items was interrupted; trying again"),
        }
    }

    fn see(&mut self, item: &Brief) {
        let status = item.status.clone().unwrap_or_default();
        let owners = item.metadata.owner_references.iter().flatten();
        let owner = owners.into_iter().find(|owner| owner.kind == DistributedQueue::kind(&()));
        let uid = item.uid().unwrap_or_default();
        let same = self.items.get(&uid).filter(|seen| seen.outline.status == status);
        let outline = Outline {
            named: item.spec.name.is_some(),
            sequence: item.spec.sequence,
            changed: changed(&item.metadata),
            since: same.map_or_else(|| self.session.clock.now(), |seen| seen.outline.since),
            status,
        };
        let seen = Seen {
            name: item.name_any(),
            queue_uid: owner.map(|owner| owner.uid.clone()).unwrap_or_default(),
            resource_version: item.resource_version(),
            outline,
            present: true,
        };
        self.items.insert(uid, seen);
    }

    async fn round(&self) {
        if !self.listed {
            return;
        }
        let server = match server_time(&self.client).await {
            Ok(time) => time,
            Err(error) => return tracing::debug!("the API server does not tell its time: {error}"),
        };
        let mut of_queue: HashMap<&str, Vec<(&String, &Outline)>> = HashMap::new();
        for (uid, item) in &self.items {
            of_queue.entry(&item.queue_uid).or_default().push((uid, &item.outline));
        }
        // The items of a queue that is gone are the garbage collector's.
        for (uid, queue) in &self.queues {
            let items = of_queue.remove(uid.as_str()).unwrap_or_default();
            let now = self.session.clock.now();
            let due = duties(&queue.state.spec, items.iter().copied(), server, now);
            let done = due.into_iter().take(PER_ROUND).map(|(item, duty)| self.perform(queue, item, duty));
            stream::iter(done).for_each_concurrent(AT_A_TIME, |done| done).await;
            let counts = counts(items.into_iter().map(|(_, outline)| outline), queue.state.status.sequence);
            if queue.state.status.counts != Some(counts) {
                let register =
                    KubeRegister::<QueueState>::new(self.client.clone(), &queue.namespace, &queue.name, LIMIT);
                let of_this = |at: &Versioned<QueueState, _>| {
                    if at.state.uid == *uid { at.state.counted(counts) } else { Step::Answer(false) }
                };
                if let Err(error) = self.session.driver(LIMIT).run(&register, None, of_this).await {
                    tracing::debug!(%error, "the count of a queue cannot be written");
                }
            }
        }
    }

    /// What is not done now is done in a later round.
    async fn perform(&self, queue: &Queue, uid: String, duty: Duty) {
        let Some(item) = self.items.get(&uid) else { return };
        let failed = match duty {
            Duty::Delete => {
                let preconditions = Preconditions { uid: Some(uid), resource_version: item.resource_version.clone() };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                let api: Api<QueueItem> = Api::namespaced(self.client.clone(), &queue.namespace);
                match timeout(LIMIT, api.delete(&item.name, &params)).await {
                    Ok(Ok(_)) => None,
                    // Somebody was first, or it is dead no more.
                    Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some("no answer in time".to_owned()),
                }
            }
            Duty::Expire(sign) => {
                let register = KubeRegister::<Item>::new(self.client.clone(), &queue.namespace, &item.name, LIMIT);
                let max_attempts = queue.state.spec.max_attempts;
                let expire =
                    |at: &Versioned<Item, _>| self.session.stamped(&at.state, at.state.expire(&sign, max_attempts));
                self.session.driver(LIMIT).run(&register, None, expire).await.err().map(|error| error.to_string())
            }
        };
        if let Some(why) = failed {
            tracing::debug!(item = item.name, namespace = queue.namespace, "the item cannot be tidied up: {why}");
        }
    }
}

/// When an object was written last, as the API server noted.
fn changed(metadata: &ObjectMeta) -> Timestamp {
    let writes = metadata.managed_fields.iter().flatten().filter_map(|entry| entry.time.as_ref());
    let created = metadata.creation_timestamp.as_ref();
    writes.chain(created).map(|time| time.0).max().unwrap_or(Timestamp::MIN)
}

/// The time by the API server's clock.
async fn server_time(client: &Client) -> Result<Timestamp, String> {
    let request = http::Request::get("/version").body(kube::client::Body::empty()).map_err(|e| e.to_string())?;
    let answer = timeout(LIMIT, client.send(request)).await.map_err(|_| "no answer in time".to_owned())?;
    let answer = answer.map_err(|error| error.to_string())?;
    let date = answer.headers().get(http::header::DATE).and_then(|date| date.to_str().ok()).unwrap_or_default();
    let time = rfc2822::parse(date).map_err(|error| format!("{date:?} is no time: {error}"))?;
    Ok(time.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_crds::Span;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn outline(state: QueueItemState, named: bool, age: u64) -> Outline {
        let receipt = (state == QueueItemState::Claimed).then(|| "1-r".to_owned());
        let status =
            QueueItemStatus { state, attempts: 1, receipt, visibility_seconds: Some(10), ..QueueItemStatus::default() };
        let changed = Timestamp::UNIX_EPOCH + seconds(1_000_000 - age);
        Outline { named, sequence: 1, status, changed, since: seconds(100) }
    }

    fn due(spec: &DistributedQueueSpec, item: &Outline, now: u64) -> Option<Duty> {
        let server = Timestamp::UNIX_EPOCH + seconds(1_000_000);
        let mut duties = duties(spec, [(&"a", item)], server, seconds(now));
        duties.pop().map(|(_, duty)| duty)
    }

    #[test]
    fn what_was_kept_for_long_enough_goes() {
        let keeps = DistributedQueueSpec { keep_dead: Some(Span::of_seconds(600)), ..DistributedQueueSpec::default() };
        let forever = DistributedQueueSpec::default();
        let (acknowledged, dead) = (QueueItemState::Acknowledged, QueueItemState::Dead);
        for (spec, state, named, age, goes) in [
            (&keeps, acknowledged, true, 3599, false),
            (&keeps, acknowledged, true, 3600, true),
            (&keeps, acknowledged, false, 119, false),
            (&keeps, acknowledged, false, 120, true),
            (&keeps, dead, true, 599, false),
            (&keeps, dead, true, 600, true),
            (&forever, dead, false, 1_000_000, false),
            (&keeps, QueueItemState::Ready, false, 1_000_000, false),
        ] {
            let told = due(spec, &outline(state, named, age), 100);
            assert_eq!(told, goes.then_some(Duty::Delete), "{state:?} {named} {age}");
        }
        // By the server's clock, it was written in the future: two servers differ.
        let mut ahead = outline(acknowledged, false, 0);
        ahead.changed += seconds(3600);
        assert_eq!(due(&keeps, &ahead, 100), None);
    }

    #[test]
    fn claims_are_given_back_only_after_consumers_had_their_time_to() {
        let (spec, claimed) = (DistributedQueueSpec::default(), outline(QueueItemState::Claimed, true, 0));
        assert_eq!(due(&spec, &claimed, 115), None);
        let sign = Sign { receipt: "1-r".into(), extensions: 0 };
        assert_eq!(due(&spec, &claimed, 116), Some(Duty::Expire(sign)));
    }

    #[test]
    fn of_too_many_acknowledged_the_oldest_go_but_not_the_newest() {
        let items: Vec<(usize, Outline)> = (0..MOST_ACKNOWLEDGED + 10)
            .map(|n| (n, outline(QueueItemState::Acknowledged, true, if n < 5 { 300 } else { 60 })))
            .collect();
        let server = Timestamp::UNIX_EPOCH + seconds(1_000_000);
        let all = items.iter().map(|(n, item)| (n, item));
        let mut gone: Vec<usize> =
            duties(&DistributedQueueSpec::default(), all, server, seconds(100)).into_iter().map(|(n, _)| n).collect();
        gone.sort_unstable();
        assert_eq!(gone, [0, 1, 2, 3, 4], "the others are younger than requests may be");
    }

    #[test]
    fn all_are_counted() {
        let states = [
            QueueItemState::Ready,
            QueueItemState::Ready,
            QueueItemState::Claimed,
            QueueItemState::Dead,
            QueueItemState::Acknowledged,
        ];
        let items = states.map(|state| outline(state, true, 0));
        let expected = QueueCounts { ready: 2, claimed: 1, dead: 1, acknowledged: 1, sequence: 9 };
        assert_eq!(counts(&items, 9), expected);
    }

    #[test]
    fn the_time_of_an_answer_is_understood() {
        assert_eq!(rfc2822::parse("Tue, 15 Nov 1994 08:12:31 GMT").unwrap().timestamp().as_second(), 784_887_151);
    }
}
