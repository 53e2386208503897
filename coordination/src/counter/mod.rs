//! Counters: one number, which many add to, compare-and-set and read; each operation exactly once.
//!
//! ```no_run
//! # async fn example(client: kube::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use quorate_coordination::{Counter, Session};
//!
//! let session = Session::new("web-0")?;
//! let counter = Counter::on_object(client, "shop", "orders", session, Duration::from_secs(10))?;
//! let order = counter.add(1).await?.after;
//! let ids = counter.ids(100);
//! let id = ids.next().await?;
//! # Ok(()) }
//! ```
//!
//! Every operation is atomic, and all of them together are linearizable. An operation whose answer was lost is settled before
//! anything is said of it: it is done once, and its caller is given what it did. Only when the time is up before that, the error
//! says that it may have been done. Calls of one handle that come at the same time are combined into one write.

mod combine;
mod ids;
mod key;
mod object;
mod open;
mod room;
mod state;
mod turns;

use std::time::Duration;

use kube::Client;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    KubeRegister, Register, Session, Stamp, Undone,
    lock::{Invalid, object_name},
};
use combine::{Call, Combiner};
pub use ids::Ids;
pub use key::{Key, NoKey};
pub use open::CounterOpenError;
pub use state::{Batch, Change, CounterState, KEY_LIFETIME, Operation, Outcome, Refusal, Signature};

/// Calls that may wait for the next write; who comes then waits before.
const WAITING: usize = 1024;
/// A call to the API server gets no more than this of an operation's time.
const LONGEST_CALL: Duration = Duration::from_secs(5);

/// What an operation gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The value before it.
    pub before: i64,
    /// The value after it.
    pub after: i64,
    /// A version of the counter that has it; what comes later has a higher one.
    pub token: u64,
    /// The Lamport stamp of that version.
    pub lamport: i64,
    /// Its stamp by the hybrid logical clock.
    pub hlc: Stamp,
}

impl Answer {
    fn new(change: Change, token: u64, state: &CounterState) -> Self {
        let Change { before, after } = change;
        Self { before, after, token, lamport: state.status.lamport, hlc: state.hlc() }
    }
}

/// Why an operation gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CounterError {
    /// What was asked for makes no sense.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Likewise.
    #[error(transparent)]
    NoKey(#[from] NoKey),
    /// The counter's value or bounds do not allow it.
    #[error("{counter}: {why}")]
    Refused {
        /// Kind, namespace and name.
        counter: String,
        /// What forbids it.
        why: Refusal,
    },
    /// Too many write it.
    #[error(
        "{counter}: {} writers have written it within the last hour, which is the most that it can tell apart: nothing was changed: try later, or let fewer processes write it",
        quorate_crds::MAX_COUNTER_WRITERS
    )]
    Full {
        /// Kind, namespace and name.
        counter: String,
    },
    /// Its entry has gone while it wrote.
    #[error(
        "{counter}: the counter was made again, or has forgotten this writer, while it wrote: whether it was done cannot be told: read the counter, and decide"
    )]
    Forgotten {
        /// Kind, namespace and name.
        counter: String,
    },
    /// The API server cannot be asked, or refuses.
    #[error(transparent)]
    Undone(#[from] Undone),
    /// The runtime that the handle was made in has ended.
    #[error(
        "the task that writes for this handle has ended, with the runtime that it ran in: whether it was done cannot be told"
    )]
    Ended,
}

impl CounterError {
    fn refused(register: &impl Register, why: Refusal) -> Self {
        Self::Refused { counter: register.name(), why }
    }

    /// Whether the operation may have been done, or may be yet.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        matches!(
            self,
            Self::Forgotten { .. }
                | Self::Ended
                | Self::Undone(Undone::Unknown { .. })
                | Self::Refused { why: Refusal::KeyForgotten, .. }
        )
    }
}

/// A counter by its name. Clones are the same writer, and their calls are combined.
#[derive(Clone)]
pub struct Counter {
    calls: mpsc::Sender<Call>,
    limit: Duration,
}

impl Counter {
    /// The counter that is this DistributedCounter, which must exist. An operation has this much time for its writes, and as
    /// much to wait for those before it.
    ///
    /// Must be called in a tokio runtime, which writes for it.
    ///
    /// # Errors
    /// When the name is none that an object can have.
    pub fn on_object(
        client: Client,
        namespace: &str,
        name: &str,
        session: Session,
        limit: Duration,
    ) -> Result<Self, CounterError> {
        object_name(name)?;
        let register = KubeRegister::<CounterState>::new(client, namespace, name, (limit / 3).min(LONGEST_CALL));
        Ok(Self::new(register, session, limit))
    }

    /// The counter in this register. See [`Counter::on_object`].
    pub fn new<R: Register<State = CounterState>>(register: R, session: Session, limit: Duration) -> Self {
        let (calls, waiting) = mpsc::channel(WAITING);
        tokio::spawn(Combiner::new(register, session, limit, waiting).run());
        Self { calls, limit }
    }

    /// Adds to it, or takes from it.
    ///
    /// # Errors
    /// See [`CounterError`].
    pub async fn add(&self, delta: i64) -> Result<Answer, CounterError> {
        self.perform(Operation::Add(delta), None).await
    }

    /// Sets it to `new` if it is `expected`.
    ///
    /// # Errors
    /// [`Refusal::Mismatch`] says what it is if it is not; else see [`CounterError`].
    pub async fn compare_and_set(&self, expected: i64, new: i64) -> Result<Answer, CounterError> {
        self.perform(Operation::CompareAndSet { expected, new }, None).await
    }

    /// Reads it: the latest value, by a quorum read.
    ///
    /// # Errors
    /// See [`CounterError`].
    pub async fn get(&self) -> Result<Answer, CounterError> {
        self.perform(Operation::Get, None).await
    }

    /// Does this, under the caller's idempotency key if there is one: asked for again with the same key, also by another
    /// process, it is not done again, and gives the same. Results are kept for [`KEY_LIFETIME`] at least.
    ///
    /// Dropping the future takes the operation back if it was not sent yet. Otherwise it may be done.
    ///
    /// # Errors
    /// See [`CounterError`].
    pub async fn perform(&self, operation: Operation, key: Option<Key>) -> Result<Answer, CounterError> {
        // A read gives what is now, not what was.
        let key = key.filter(|_| operation != Operation::Get);
        let (reply, answer) = oneshot::channel();
        let call = Call { operation, key, until: Instant::now() + self.limit, reply };
        self.calls.send(call).await.map_err(|_| CounterError::Ended)?;
        answer.await.map_err(|_| CounterError::Ended)?
    }

    /// Unique ids, of which one write takes a block of so many.
    #[must_use]
    pub fn ids(&self, block: u32) -> Ids {
        Ids::new(self.clone(), block)
    }
}
