//! An item that was handed out.

use std::{fmt, time::Duration};

use crate::Stamp;

use super::{Queue, QueueError, item::Item, payload::Payload, store::Store};

/// An item that was handed out, for some time. Who needs longer extends it. Dropping it does nothing: the item is handed out
/// again when its time is up.
pub struct Delivery<S: Store> {
    pub(super) queue: Queue<S>,
    pub(super) object: String,
    pub(super) item: Item,
    pub(super) receipt: String,
    pub(super) token: u64,
    pub(super) until: Duration,
}

impl<S: Store> fmt::Debug for Delivery<S> {
    /// Without the payload, which is nobody's business but the consumer's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, receipt, token, .. } = self;
        f.debug_struct("Delivery")
            .field("item", object)
            .field("receipt", receipt)
            .field("token", token)
            .finish_non_exhaustive()
    }
}

impl<S: Store> Delivery<S> {
    /// The name of its object: with the receipt, any process can acknowledge it.
    #[must_use]
    pub fn item(&self) -> &str {
        &self.object
    }

    /// The name it was sent under, if any.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.item.spec.name.as_deref()
    }

    /// What it says.
    #[must_use]
    pub fn payload(&self) -> Payload {
        Payload::of(&self.item.spec)
    }

    /// Its place in the queue.
    #[must_use]
    pub const fn sequence(&self) -> i64 {
        self.item.spec.sequence
    }

    /// Who sent it.
    #[must_use]
    pub fn sent_by(&self) -> &str {
        &self.item.spec.sent_by
    }

    /// How often it was handed out since it was sent or redriven, this time included. From 2 on, somebody may have worked on it before.
    #[must_use]
    pub const fn attempts(&self) -> i64 {
        self.item.status.attempts - self.item.status.forgiven
    }

    /// The proof that it was handed out to this consumer, and to nobody since.
    #[must_use]
    pub fn receipt(&self) -> &str {
        &self.receipt
    }

    /// A number that rises each time that this item is handed out: what the work writes to can refuse lower ones.
    #[must_use]
    pub const fn token(&self) -> u64 {
        self.token
    }

    /// The sender's Lamport stamp.
    #[must_use]
    pub const fn lamport(&self) -> i64 {
        self.item.spec.lamport
    }

    /// The sender's stamp by the hybrid logical clock.
    #[must_use]
    pub fn hlc(&self) -> Stamp {
        self.item.spec.hlc.parse().unwrap_or_default()
    }

    /// For how long nobody else is given it, for certain. Zero: somebody may have it by now.
    #[must_use]
    pub fn valid_for(&self) -> Duration {
        self.until.saturating_sub(self.queue.clock().now())
    }

    /// Keeps it for this long from now on; without a time, for the queue's.
    ///
    /// # Errors
    /// [`QueueError::Stale`] if it is another's by now; else see [`QueueError`].
    pub async fn extend(&mut self, visibility: Option<Duration>) -> Result<(), QueueError> {
        self.until = self.queue.extend_until(&self.object, &self.receipt, visibility).await?;
        Ok(())
    }

    /// It is done, and not handed out any more. Asking again, after an error that leaves it open, does no harm.
    ///
    /// # Errors
    /// [`QueueError::Stale`] if it is another's by now; else see [`QueueError`].
    pub async fn acknowledge(&self) -> Result<(), QueueError> {
        self.queue.acknowledge(&self.object, &self.receipt).await
    }

    /// Gives it back: it is handed out again at once, or dead if it has no attempt left. The reason is shown to people.
    ///
    /// # Errors
    /// [`QueueError::Stale`] if it is another's by now; else see [`QueueError`].
    pub async fn release(self, why: Option<&str>) -> Result<(), QueueError> {
        self.queue.release(&self.object, &self.receipt, why).await
    }
}
