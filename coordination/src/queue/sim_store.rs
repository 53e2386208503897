//! A queue in memory, with the faults of a real one: for property tests.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream, stream::BoxStream};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    item::Item,
    state::QueueState,
    store::{Event, Store, Which},
};
use crate::{Failure, Fault, Random, Register, Versioned};

/// See the module. Clones are the same queue.
#[derive(Clone)]
pub struct SimStore(SimQueue);

/// The queue's own register.
#[derive(Clone)]
pub struct SimQueue(Link);

/// An item's register.
#[derive(Clone)]
pub struct SimItem(Link, String);

/// How a register reaches the store.
#[derive(Clone)]
struct Link {
    world: Arc<Mutex<World>>,
    revisions: Arc<watch::Sender<u64>>,
    lag: Option<(Arc<Random>, Duration)>,
}

/// A write of an item that was done.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The version written.
    pub revision: u64,
    /// When.
    pub at: Instant,
    /// The item's object.
    pub name: String,
    /// What it was; none if it was not there.
    pub before: Option<Item>,
    /// What it became; none if it was deleted.
    pub after: Option<Item>,
}

struct World {
    revision: u64,
    queue: Option<Versioned<QueueState, u64>>,
    items: BTreeMap<String, Versioned<Item, u64>>,
    log: Vec<Written>,
    conflicts: usize,
    faults: VecDeque<Fault>,
    lost_reads: VecDeque<bool>,
    delayed: Vec<(u8, Write)>,
    /// Watches tell nothing until this moment.
    stalled: Option<Instant>,
    /// Watches from before this cannot be taken up.
    compacted: u64,
}

#[derive(Clone)]
enum Write {
    Queue(u64, QueueState),
    Item(String, u64, Box<Item>),
}

impl SimStore {
    /// With this queue, and no items.
    #[must_use]
    pub fn new(queue: QueueState) -> Self {
        let world = World {
            revision: 1,
            queue: Some(Versioned { state: queue, version: 1 }),
            items: BTreeMap::new(),
            log: Vec::new(),
            conflicts: 0,
            faults: VecDeque::new(),
            lost_reads: VecDeque::new(),
            delayed: Vec::new(),
            stalled: None,
            compacted: 0,
        };
        let (world, revisions) = (Arc::new(Mutex::new(world)), Arc::new(watch::Sender::new(1)));
        Self(SimQueue(Link { world, revisions, lag: None }))
    }

    /// The same queue, far away: requests, answers and news take up to this long each, at random.
    #[must_use]
    pub fn far(mut self, random: Arc<Random>, longest: Duration) -> Self {
        self.0.0.lag = Some((random, longest));
        self
    }

    /// What befalls the next writes, one after the other; then nothing.
    pub fn befall(&self, faults: impl IntoIterator<Item = Fault>) {
        self.world().faults.extend(faults);
    }

    /// Whether the answers to the next reads and lists are lost, one after the other; then none is.
    pub fn lose_reads(&self, lost: impl IntoIterator<Item = bool>) {
        self.world().lost_reads.extend(lost);
    }

    /// Watches tell nothing for this long, without a word of it.
    pub fn stall_watches(&self, time: Duration) {
        self.world().stalled = Some(Instant::now() + time);
    }

    /// Watches end with an error, and can be taken up from now on only.
    pub fn break_watches(&self) {
        let mut world = self.world();
        world.revision += 1;
        world.compacted = world.revision;
        self.0.0.revisions.send_replace(world.revision);
    }

    /// All writes of items that were done.
    #[must_use]
    pub fn log(&self) -> Vec<Written> {
        self.world().log.clone()
    }

    /// How many writes came too late: their base was not the present version.
    #[must_use]
    pub fn conflicts(&self) -> usize {
        self.world().conflicts
    }

    /// The queue as it is.
    #[must_use]
    pub fn state(&self) -> Option<QueueState> {
        self.world().queue.as_ref().map(|queue| queue.state.clone())
    }

    /// The items as they are.
    #[must_use]
    pub fn items(&self) -> BTreeMap<String, Item> {
        self.world().items.iter().map(|(name, at)| (name.clone(), at.state.clone())).collect()
    }

    /// Deletes the queue, and its items; with one, another queue is there under its name.
    pub fn replace_queue(&self, queue: Option<QueueState>) {
        let mut world = self.world();
        let names: Vec<String> = world.items.keys().cloned().collect();
        for name in names {
            world.delete(&name);
        }
        world.revision += 1;
        let version = world.revision;
        world.queue = queue.map(|state| Versioned { state, version });
        self.0.0.revisions.send_replace(version);
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.0.world()
    }
}

impl Link {
    async fn travel(&self) {
        match &self.lag {
            Some((random, longest)) => sleep(random.up_to(*longest)).await,
            None => tokio::task::yield_now().await,
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn asked<T>(&self, ask: impl FnOnce(&mut World) -> Result<T, Failure>) -> Result<T, Failure> {
        self.travel().await;
        let answer = {
            let mut world = self.world();
            world.pass();
            let lost = world.lost_reads.pop_front().unwrap_or_default();
            let answer = if lost { Err(lost_answer()) } else { ask(&mut world) };
            self.revisions.send_replace(world.revision);
            answer
        };
        self.travel().await;
        answer
    }

    async fn written(&self, write: Write) -> Result<u64, Failure> {
        self.travel().await;
        let answer = {
            let mut world = self.world();
            world.pass();
            let answer = match world.faults.pop_front().unwrap_or(Fault::None) {
                Fault::None => world.write(write),
                Fault::LostReply => world.write(write).and(Err(lost_answer())),
                Fault::LostRequest => Err(lost_answer()),
                Fault::Delayed => {
                    world.delayed.push((2, write));
                    Err(lost_answer())
                }
                Fault::FalseConflict => Err(Failure::Conflict),
            };
            world.conflicts += usize::from(answer == Err(Failure::Conflict));
            self.revisions.send_replace(world.revision);
            answer
        };
        self.travel().await;
        answer
    }
}

fn lost_answer() -> Failure {
    Failure::Unknown("the answer was lost".to_owned())
}

impl World {
    fn write(&mut self, write: Write) -> Result<u64, Failure> {
        let next = self.revision + 1;
        match write {
            Write::Queue(base, state) => {
                let queue = self.queue.as_mut().filter(|queue| queue.version == base).ok_or(Failure::Conflict)?;
                *queue = Versioned { state, version: next };
            }
            Write::Item(name, base, mut item) => {
                let before = self.items.get(&name);
                if before.map_or(0, |at| at.version) != base {
                    return Err(Failure::Conflict);
                }
                // As with a status: what was sent stays.
                if let Some(before) = before {
                    item.spec = before.state.spec.clone();
                }
                let before = before.map(|at| at.state.clone());
                let at = Versioned { state: (*item).clone(), version: next };
                self.log.push(Written {
                    revision: next,
                    at: Instant::now(),
                    name: name.clone(),
                    before,
                    after: Some(*item),
                });
                self.items.insert(name, at);
            }
        }
        self.revision = next;
        Ok(next)
    }

    fn delete(&mut self, name: &str) {
        let Some(before) = self.items.remove(name) else { return };
        self.revision += 1;
        let (revision, at) = (self.revision, Instant::now());
        self.log.push(Written { revision, at, name: name.to_owned(), before: Some(before.state), after: None });
    }

    /// What was delayed lands, if its base is still there.
    fn pass(&mut self) {
        for (calls, _) in &mut self.delayed {
            *calls -= 1;
        }
        let (due, rest): (Vec<_>, Vec<_>) = self.delayed.drain(..).partition(|(calls, _)| *calls == 0);
        self.delayed = rest;
        for (_, write) in due {
            // A conflict is how most of them end.
            let _ = self.write(write);
        }
    }
}

impl Register for SimQueue {
    type State = QueueState;
    type Version = u64;

    async fn read(&self) -> Result<Versioned<QueueState, u64>, Failure> {
        let none = || Failure::Refused("it does not exist: create it first".to_owned());
        self.0.asked(|world| world.queue.clone().ok_or_else(none)).await
    }

    async fn compare_and_swap(&self, base: &u64, next: &QueueState) -> Result<u64, Failure> {
        self.0.written(Write::Queue(*base, next.clone())).await
    }

    fn watch(&self, _: &u64) -> BoxStream<'static, Option<Versioned<QueueState, u64>>> {
        stream::empty().boxed()
    }

    fn name(&self) -> String {
        "a queue in memory".to_owned()
    }
}

impl Register for SimItem {
    type State = Item;
    type Version = u64;

    async fn read(&self) -> Result<Versioned<Item, u64>, Failure> {
        let none = Versioned { state: Item::default(), version: 0 };
        self.0.asked(|world| Ok(world.items.get(&self.1).cloned().unwrap_or(none))).await
    }

    async fn compare_and_swap(&self, base: &u64, next: &Item) -> Result<u64, Failure> {
        self.0.written(Write::Item(self.1.clone(), *base, Box::new(next.clone()))).await
    }

    fn watch(&self, _: &u64) -> BoxStream<'static, Option<Versioned<Item, u64>>> {
        stream::empty().boxed()
    }

    fn name(&self) -> String {
        format!("item {} in memory", self.1)
    }
}

impl Store for SimStore {
    type Queue = SimQueue;
    type Item = SimItem;

    fn queue(&self) -> &SimQueue {
        &self.0
    }

    fn item(&self, name: &str) -> SimItem {
        SimItem(self.0.0.clone(), name.to_owned())
    }

    async fn list(
        &self,
        which: Which,
        each: &mut (dyn FnMut(String, Versioned<Item, u64>) + Send),
    ) -> Result<u64, Failure> {
        let (items, revision) = self.0.0.asked(|world| Ok((world.items.clone(), world.revision))).await?;
        for (name, at) in items {
            if matches_which(&at.state, which) {
                each(name, at);
            }
        }
        Ok(revision)
    }

    fn watch(&self, from: u64) -> BoxStream<'static, Event<u64>> {
        let state = (self.0.0.clone(), self.0.0.revisions.subscribe(), from);
        stream::unfold(state, |(link, mut revisions, from)| async move {
            revisions.wait_for(|revision| *revision > from).await.ok()?;
            let stalled = link.world().stalled;
            if let Some(until) = stalled {
                tokio::time::sleep_until(until).await;
            }
            link.travel().await;
            let (event, from) = {
                let world = link.world();
                if from < world.compacted {
                    (Event::Broken("too old".to_owned()), world.revision)
                } else {
                    let first = world.log.partition_point(|written| written.revision <= from);
                    world.log.get(first).map_or((Event::Until(world.revision), world.revision), |written| {
                        (event(written), written.revision)
                    })
                }
            };
            Some((event, (link, revisions, from)))
        })
        .boxed()
    }

    async fn remove(&self, name: &str, version: &u64) -> Result<(), Failure> {
        self.0
            .0
            .asked(|world| match world.items.get(name) {
                None => Ok(()),
                Some(at) if at.version == *version => {
                    world.delete(name);
                    Ok(())
                }
                Some(_) => Err(Failure::Conflict),
            })
            .await
    }
}

fn matches_which(item: &Item, which: Which) -> bool {
    match which {
        Which::Live => item.is_live(),
        Which::Dead => item.state() == quorate_crds::QueueItemState::Dead,
    }
}

/// What a watch on live items tells of a write.
fn event(written: &Written) -> Event<u64> {
    match &written.after {
        Some(item) if item.is_live() => {
            Event::Is(written.name.clone(), Box::new(Versioned { state: item.clone(), version: written.revision }))
        }
        _ => Event::Gone(written.name.clone(), written.revision),
    }
}
