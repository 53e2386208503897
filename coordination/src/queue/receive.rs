//! Receiving, and what is done with what was received.

use std::{sync::atomic::Ordering, time::Duration};

use quorate_crds::DistributedQueueSpec;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    Delivery, Queue, QueueError,
    item::{Claim, Claimed, Item, Now},
    limits,
    name::item_of,
    shelf::Pick,
    store::{Store, VersionOf},
    view::{Choice, View},
};
use crate::{Done, Register, Step, Version, Versioned, lock::believed};

/// Nobody waits longer than this in one call.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);
/// Of the first items, no more than so many are left to others.
const WIDEST: u64 = 31;
/// Where there are fewer, others are left this much time at most for each that is missing.
const LONGEST_SLOT: Duration = Duration::from_millis(20);

/// Lets others here pick it again, whatever came of claiming it.
struct Busy<'a, S: Store>(&'a View<S>, String);

impl<S: Store> Drop for Busy<'_, S> {
    fn drop(&mut self) {
        self.0.put_back(&self.1);
    }
}

impl<S: Store> Queue<S> {
    /// The next item, which is kept from others for this long; without a time, for the queue's. Waits for one for up to `wait`; nothing
    /// is nothing that was seen by then, and not everything that was just sent elsewhere.
    ///
    /// Dropping the future may leave an item claimed, which is handed out again when its time is up.
    ///
    /// # Errors
    /// See [`QueueError`].
    pub async fn receive(
        &self,
        visibility: Option<Duration>,
        wait: Duration,
    ) -> Result<Option<Delivery<S>>, QueueError> {
        let seconds = visibility.map(limits::visibility).transpose()?;
        let (view, until) = (&self.0.view, Instant::now() + wait.min(LONGEST_WAIT));
        let _using = view.using();
        view.current(self.0.limit).await?;
        let mut leave = self.spread();
        loop {
            let changed = view.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(trouble) = view.trouble().filter(QueueError::is_final) {
                return Err(trouble);
            }
            match view.pick(leave) {
                Choice::Pick(pick) => {
                    if let Some(delivery) = self.claim(*pick, seconds).await? {
                        return Ok(Some(delivery));
                    }
                    leave = self.spread();
                }
                // Others had the time to claim them, and to let it be seen here: what is left then is anybody's.
                Choice::Others(missing) => {
                    sleep(self.slot() * missing).await;
                    leave = 0;
                }
                Choice::Nothing(_) if Instant::now() >= until => {
                    return view.trouble().map_or(Ok(None), Err);
                }
                Choice::Nothing(expiry) => {
                    let expiry = expiry.map(|due| Instant::now() + due.saturating_sub(self.clock().now()));
                    let _ = timeout_at(expiry.map_or(until, |expiry| expiry.min(until)), changed).await;
                    leave = self.spread();
                }
            }
        }
    }

    /// Claims it; none if somebody else was first, or it is dead.
    async fn claim(&self, pick: Pick<VersionOf<S>>, seconds: Option<i64>) -> Result<Option<Delivery<S>>, QueueError> {
        let view = &self.0.view;
        let busy = Busy(view, pick.name);
        let spec = view.queue().map(|queue| queue.spec).unwrap_or_default();
        let claim = Claim {
            id: self.session().random.id(),
            by: self.identity(),
            visibility_seconds: seconds.unwrap_or_else(|| visibility_of(&spec)),
            max_attempts: spec.max_attempts,
            expired: pick.expired,
        };
        let register = view.store.item(&busy.1);
        let operation = |at: &Versioned<Item, VersionOf<S>>| self.session().stamped(&at.state, at.state.claim(&claim));
        let began = self.clock().now();
        let Done { outcome, at, sent, .. } = self.driver().run(&register, pick.known, operation).await?;
        self.took(self.clock().now().saturating_sub(began));
        view.saw(&busy.1, &at);
        self.contended(outcome == Claimed::Taken);
        if outcome != Claimed::Yours {
            return Ok(None);
        }
        let Versioned { state: item, version } = at;
        Ok(Some(Delivery {
            queue: self.clone(),
            object: busy.1.clone(),
            receipt: item.status.receipt.clone().unwrap_or_default(),
            token: version.token(),
            until: sent + believed_of(claim.visibility_seconds),
            item,
        }))
    }

    /// Extends the time of what was received, by its item's name and its receipt; any process may. For how long nobody else is
    /// given it from now on, for certain.
    ///
    /// # Errors
    /// [`QueueError::Stale`] if it is another's by now; else see [`QueueError`].
    pub async fn extend(
        &self,
        item: &str,
        receipt: &str,
        visibility: Option<Duration>,
    ) -> Result<Duration, QueueError> {
        let until = self.extend_until(item, receipt, visibility).await?;
        Ok(until.saturating_sub(self.clock().now()))
    }

    pub(super) async fn extend_until(
        &self,
        item: &str,
        receipt: &str,
        visibility: Option<Duration>,
    ) -> Result<Duration, QueueError> {
        let seconds = match visibility {
            Some(visibility) => limits::visibility(visibility)?,
            None => visibility_of(&self.spec().await?),
        };
        // It begins with a read: an extension that another process has asked for since what was seen last would be taken for this one,
        // and this one's time be reckoned from now on, which is too late.
        let mut extension = None;
        let done = self.held(item, receipt, None, |item| {
            let extension = *extension.get_or_insert(item.status.extensions + 1);
            item.extend(receipt, extension, seconds)
        });
        Ok(done.await? + believed_of(seconds))
    }

    /// Acknowledges what was received, by its item's name and its receipt; any process may. Asking again does no harm.
    ///
    /// # Errors
    /// [`QueueError::Stale`] if it is another's by now; else see [`QueueError`].
    pub async fn acknowledge(&self, item: &str, receipt: &str) -> Result<(), QueueError> {
        let known = self.known(item, receipt);
        self.held(item, receipt, known, |item| item.acknowledge(receipt)).await.map(drop)
    }

    /// Gives back what was received, by its item's name and its receipt; any process may. It is handed out again at once, or
    /// dead if it has no attempt left. The reason is shown to people.
    ///
    /// # Errors
    /// [`QueueError::Stale`] if it is another's by now; else see [`QueueError`].
    pub async fn release(&self, item: &str, receipt: &str, why: Option<&str>) -> Result<(), QueueError> {
        let max_attempts = self.spec().await?.max_attempts;
        let (known, mut sent) = (self.known(item, receipt), false);
        let released = self.held(item, receipt, known, |item| {
            let step = item.release(receipt, max_attempts, why);
            match step {
                // It was sent before, so it is this that has given it back, or its time was up; others may have it either way.
                // Unless it was acknowledged by this receipt.
                Step::Answer(Err(_)) if sent && item.status.receipt.as_deref() != Some(receipt) => Step::Answer(Ok(())),
                step => {
                    sent |= matches!(step, Step::Write(..));
                    step
                }
            }
        });
        released.await.map(drop)
    }

    /// What was seen last of this claim, which saves a read.
    fn known(&self, item: &str, receipt: &str) -> Option<Versioned<Item, VersionOf<S>>> {
        self.0.view.item(item).filter(|at| at.state.status.receipt.as_deref() == Some(receipt))
    }

    /// Runs an operation of who holds the receipt; from when on it is done.
    async fn held(
        &self,
        item: &str,
        receipt: &str,
        known: Option<Versioned<Item, VersionOf<S>>>,
        mut operation: impl FnMut(&Item) -> Step<Item, Result<(), Now>>,
    ) -> Result<Duration, QueueError> {
        item_of(&self.0.name, item)?;
        let view = &self.0.view;
        let register = view.store.item(item);
        let operation = |at: &Versioned<Item, VersionOf<S>>| self.session().stamped(&at.state, operation(&at.state));
        let Done { outcome, at, sent, .. } = self.driver().run(&register, known, operation).await?;
        view.saw(item, &at);
        match outcome {
            Ok(()) => Ok(sent),
            Err(now) => Err(QueueError::Stale { item: register.name(), receipt: receipt.to_owned(), now }),
        }
    }

    /// What the queue's users have written.
    async fn spec(&self) -> Result<DistributedQueueSpec, QueueError> {
        match self.0.view.queue() {
            Some(queue) => Ok(queue.spec),
            None => Ok(self.driver().read(self.0.view.store.queue()).await?.state.spec),
        }
    }

    /// How many of the first items to leave to others: none, as long as there are no others.
    fn spread(&self) -> usize {
        let widest = self.0.spread.load(Ordering::Relaxed) / 16;
        usize::try_from(self.session().random.bits() % (widest + 1)).unwrap_or_default()
    }

    /// How long others need to claim an item, as far as can be told from what it took here.
    fn slot(&self) -> Duration {
        Duration::from_micros(self.0.claim.load(Ordering::Relaxed))
    }

    /// A claim took so long.
    fn took(&self, time: Duration) {
        let micros = u64::try_from(time.min(LONGEST_SLOT).as_micros()).unwrap_or_default();
        self.0.claim.store(micros, Ordering::Relaxed);
    }

    /// Somebody else was first, or not.
    fn contended(&self, taken: bool) {
        let next = |spread: u64| Some(if taken { (spread + 16).min(WIDEST * 16) } else { spread.saturating_sub(4) });
        let _ = self.0.spread.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

/// The queue's own visibility time, within bounds.
fn visibility_of(spec: &DistributedQueueSpec) -> i64 {
    let time = Duration::from(spec.visibility_timeout);
    limits::visibility(time.clamp(limits::SHORTEST_VISIBILITY, limits::LONGEST_VISIBILITY)).unwrap_or(1)
}

/// For how long a consumer may believe that nobody else is given its item.
fn believed_of(seconds: i64) -> Duration {
    believed(Duration::from_secs(seconds.max(0).unsigned_abs()))
}
