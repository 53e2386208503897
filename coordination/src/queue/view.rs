//! What one handle knows of its queue: one list and one watch, for all who receive by it, while somebody does.
//!
//! It only saves time: every claim is a compare-and-swap, so one that is based on old news comes to nothing. That a watch is silent is no
//! proof that nothing happens: the queue is read now and then, and when numbers were given out that the watch has not told of, all
//! is listed again.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout, timeout_at},
};

use super::{
    error::QueueError,
    item::Item,
    shelf::{Pick, Shelf},
    state::QueueState,
    store::{Event, Store, VersionOf, Which},
};
use crate::{Failure, Register, Session, Versioned};

/// What nobody has used for this long is dropped, unless a claim is still to be seen to expire.
const LINGER: Duration = Duration::from_secs(300);
/// The queue is read this often.
const TICK: Duration = Duration::from_secs(10);
/// A watch says something at least every minute; one that does not is broken.
const SILENCE: Duration = Duration::from_secs(100);
/// Between two watches, and after trouble.
const PAUSE: Duration = Duration::from_millis(200);
/// The time limit of a read.
const READING: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct View<S: Store> {
    pub store: Arc<S>,
    pub session: Session,
    known: Arc<Known<VersionOf<S>>>,
    following: Following,
}

/// Who follows now; none when nobody does.
type Following = Arc<Mutex<Option<JoinHandle<()>>>>;

/// What is known, and who waits for news of it.
struct Known<V> {
    inside: Mutex<Inside<V>>,
    changed: Notify,
    /// Somebody wants it tried again at once.
    again: Notify,
}

struct Inside<V> {
    shelf: Shelf<V>,
    /// As it was read last.
    queue: Option<QueueState>,
    /// The highest number that lists and the watch have told of.
    told: i64,
    /// Whether the items were listed, and nothing has gone wrong since.
    current: bool,
    trouble: Option<QueueError>,
    users: usize,
    used: Duration,
}

/// Somebody who needs it to be followed.
pub(super) struct Using<'a, S: Store>(&'a View<S>);

impl<S: Store> Drop for Using<'_, S> {
    fn drop(&mut self) {
        let now = self.0.session.clock.now();
        let mut inside = locked(&self.0.known.inside);
        inside.users -= 1;
        inside.used = now;
    }
}

impl<S: Store> Drop for View<S> {
    fn drop(&mut self) {
        if let Some(follower) = locked(&self.following).take() {
            follower.abort();
        }
    }
}

/// What there is to claim.
pub(super) enum Choice<V> {
    /// This.
    Pick(Box<Pick<V>>),
    /// No more than what is to be left to others, and by so many too few.
    Others(u32),
    /// Nothing, until this time by the session's clock if a claim expires then.
    Nothing(Option<Duration>),
}

impl<S: Store> View<S> {
    pub fn new(store: S, session: Session) -> Self {
        let inside = Inside {
            shelf: Shelf::new(),
            queue: None,
            told: 0,
            current: false,
            trouble: None,
            users: 0,
            used: session.clock.now(),
        };
        let known = Arc::new(Known { inside: Mutex::new(inside), changed: Notify::new(), again: Notify::new() });
        Self { store: Arc::new(store), session, known, following: Following::default() }
    }

    /// Follows the queue for as long as the answer lives, and some time longer. Must be called in a tokio runtime.
    pub fn using(&self) -> Using<'_, S> {
        // In this order everywhere.
        let mut following = locked(&self.following);
        {
            let mut inside = locked(&self.known.inside);
            inside.users += 1;
            // What was refused before somebody asked need not be refused now.
            if inside.trouble.take_if(|trouble| trouble.is_final()).is_some() {
                self.known.again.notify_one();
            }
        }
        if following.as_ref().is_none_or(JoinHandle::is_finished) {
            let follower = Follower {
                store: Arc::clone(&self.store),
                session: self.session.clone(),
                known: Arc::clone(&self.known),
                following: Arc::clone(&self.following),
            };
            *following = Some(tokio::spawn(follower.run()));
        }
        Using(self)
    }

    /// Waits until the items are known, and gives the queue.
    pub async fn current(&self, limit: Duration) -> Result<QueueState, QueueError> {
        let until = Instant::now() + limit;
        loop {
            let changed = self.known.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let inside = locked(&self.known.inside);
                match (&inside.queue, &inside.trouble) {
                    (Some(queue), _) if inside.current => return Ok(queue.clone()),
                    (_, Some(trouble)) if trouble.is_final() => return Err(trouble.clone()),
                    _ => {}
                }
            }
            if timeout_at(until, changed).await.is_err() {
                return Err(self.trouble().unwrap_or_else(|| {
                    let late = Failure::Unknown("its items could not be listed in time".to_owned());
                    QueueError::of_read(late, self.store.queue().name(), limit)
                }));
            }
        }
    }

    /// The queue as it was read last.
    pub fn queue(&self) -> Option<QueueState> {
        locked(&self.known.inside).queue.clone()
    }

    /// What keeps it from being followed now.
    pub fn trouble(&self) -> Option<QueueError> {
        locked(&self.known.inside).trouble.clone()
    }

    /// How many items are ready or claimed, if that is known.
    pub fn length(&self) -> Option<usize> {
        let inside = locked(&self.known.inside);
        inside.current.then(|| inside.shelf.live())
    }

    /// When something changes from now on.
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.known.changed.notified()
    }

    /// See [`Shelf::pick`].
    pub fn pick(&self, leave: usize) -> Choice<VersionOf<S>> {
        let now = self.session.clock.now();
        let mut inside = locked(&self.known.inside);
        if let Some(pick) = inside.shelf.pick(now, leave) {
            return Choice::Pick(Box::new(pick));
        }
        match inside.shelf.free(now).count() {
            0 => Choice::Nothing(inside.shelf.next_expiry()),
            free => Choice::Others(u32::try_from((leave + 1).saturating_sub(free)).unwrap_or(u32::MAX)),
        }
    }

    /// See [`Shelf::put_back`].
    pub fn put_back(&self, name: &str) {
        locked(&self.known.inside).shelf.put_back(name);
        self.known.changed.notify_waiters();
    }

    /// What was seen last of an item.
    pub fn item(&self, name: &str) -> Option<Versioned<Item, VersionOf<S>>> {
        locked(&self.known.inside).shelf.known(name)
    }

    /// An item was read or written here.
    pub fn saw(&self, name: &str, at: &Versioned<Item, VersionOf<S>>) {
        let now = self.session.clock.now();
        let mut inside = locked(&self.known.inside);
        if !at.state.exists() {
            inside.shelf.forget(name);
        } else if inside.queue.is_some() {
            inside.shelf.see(name, at.clone(), now);
        }
        drop(inside);
        self.known.changed.notify_waiters();
    }
}

/// Follows a queue until nobody has used it for a while.
struct Follower<S: Store> {
    store: Arc<S>,
    session: Session,
    known: Arc<Known<VersionOf<S>>>,
    following: Following,
}

impl<S: Store> Follower<S> {
    async fn run(self) {
        loop {
            match self.listed().await {
                Ok(from) => self.watch(from).await,
                Err(trouble) => self.troubled(trouble),
            }
            if self.ends() {
                return;
            }
            let pause = PAUSE + self.session.random.up_to(PAUSE);
            let _ = timeout(pause, self.known.again.notified()).await;
        }
    }

    /// Reads the queue, lists its items, and gives the moment as of which that was.
    async fn listed(&self) -> Result<u64, QueueError> {
        let queue = self.session.driver(READING).read(self.store.queue()).await?.state;
        let mut names = HashSet::new();
        self.known(|inside| {
            // Another queue under the same name has other items.
            if inside.queue.as_ref().is_some_and(|old| old.uid != queue.uid) {
                inside.shelf = Shelf::new();
            }
            inside.queue = Some(queue.clone());
            inside.told = queue.status.sequence;
        });
        let mut each = |name: String, at: Versioned<Item, _>| {
            if at.state.queue_uid == queue.uid {
                self.see(&name, at);
                names.insert(name);
            }
        };
        let of_read = |failure| QueueError::of_read(failure, self.store.queue().name(), READING);
        let token = self.store.list(Which::Live, &mut each).await.map_err(of_read)?;
        self.known(|inside| {
            inside.shelf.listed(&names, token);
            (inside.current, inside.trouble) = (true, None);
        });
        self.known.changed.notify_waiters();
        Ok(token)
    }

    /// Watches from this moment on, until what happens cannot be told any more, or nobody asks.
    async fn watch(&self, from: u64) {
        let mut tick = interval_at(Instant::now() + TICK, TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut from, mut given) = (from, 0);
        loop {
            let mut events = self.store.watch(from);
            let why = loop {
                tokio::select! {
                    event = timeout(SILENCE, events.next()) => match event {
                        Ok(Some(Event::Is(name, at))) => {
                            from = crate::Version::token(&at.version);
                            let uid = self.known(|inside| inside.queue.as_ref().map(|queue| queue.uid.clone()));
                            if uid.as_deref() == Some(&at.state.queue_uid) {
                                self.see(&name, *at);
                                self.known.changed.notify_waiters();
                            }
                        }
                        Ok(Some(Event::Gone(name, token))) => {
                            from = token;
                            self.known(|inside| inside.shelf.gone(&name, token));
                        }
                        Ok(Some(Event::Until(token))) => from = token,
                        Ok(Some(Event::Broken(why))) => break Some(why),
                        Ok(None) => break None,
                        Err(_) => break Some("the watch was silent for too long".to_owned()),
                    },
                    _ = tick.tick() => {
                        if self.is_idle() {
                            return;
                        }
                        match self.checked(&mut given).await {
                            Ok(true) => {}
                            Ok(false) => return,
                            Err(trouble) => return self.troubled(trouble),
                        }
                    }
                }
            };
            if let Some(why) = why {
                let failure = Failure::Unknown(format!("its items cannot be watched: {why}"));
                return self.troubled(QueueError::of_read(failure, self.store.queue().name(), READING));
            }
            sleep(PAUSE).await;
        }
    }

    /// Reads the queue; whether the items are all that there can be. Numbers that were given out at the time before, which is a
    /// tick ago, are those of items that are there by now, if they ever will be.
    async fn checked(&self, given: &mut i64) -> Result<bool, QueueError> {
        let queue = self.session.driver(READING).read(self.store.queue()).await?.state;
        Ok(self.known(|inside| {
            let same = inside.queue.as_ref().is_some_and(|old| old.uid == queue.uid);
            let before = std::mem::replace(given, queue.status.sequence);
            inside.queue = Some(queue);
            same && before <= inside.told
        }))
    }

    fn see(&self, name: &str, at: Versioned<Item, VersionOf<S>>) {
        let now = self.session.clock.now();
        self.known(|inside| {
            inside.told = inside.told.max(at.state.spec.sequence);
            inside.shelf.see(name, at, now);
        });
    }

    fn troubled(&self, trouble: QueueError) {
        tracing::debug!(queue = self.store.queue().name(), "following the queue: {trouble}");
        self.known(|inside| (inside.current, inside.trouble) = (false, Some(trouble)));
        self.known.changed.notify_waiters();
    }

    fn is_idle(&self) -> bool {
        let now = self.session.clock.now();
        self.known(|inside| {
            let expected = inside.shelf.next_expiry().is_some_and(|due| due > now);
            inside.users == 0 && !expected && now.saturating_sub(inside.used) >= LINGER
        })
    }

    /// Whether nobody has used it for long, so that it is not followed any more.
    fn ends(&self) -> bool {
        let mut following = locked(&self.following);
        let idle = self.is_idle();
        if idle {
            self.known(|inside| {
                (inside.shelf, inside.queue, inside.current, inside.trouble) = (Shelf::new(), None, false, None);
            });
            *following = None;
        }
        idle
    }

    fn known<T>(&self, with: impl FnOnce(&mut Inside<VersionOf<S>>) -> T) -> T {
        with(&mut locked(&self.known.inside))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
