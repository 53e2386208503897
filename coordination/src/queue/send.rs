//! Sending.

use quorate_crds::{QueueItemSpec, QueueItemState};
use tokio::{sync::oneshot, time::Instant};

use super::{
    Item, Payload, Queue, QueueError,
    item::Sending,
    name::item_name,
    numbers::{Ask, Number},
    store::{Store, VersionOf},
};
use crate::{Done, Register, Stamp, Version, Versioned};

/// What came of a send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Whether an item was there already under this name: then nothing was sent, and this tells of that one.
    pub duplicate: bool,
    /// The name of the item's object.
    pub item: String,
    /// Its place in the queue.
    pub sequence: i64,
    /// Where it stands: what was sent just now is ready.
    pub state: QueueItemState,
    /// A version of the item that has it; what comes later has a higher one.
    pub token: u64,
    /// The Lamport stamp of the item.
    pub lamport: i64,
    /// The item's stamp by the hybrid logical clock.
    pub hlc: Stamp,
}

impl<S: Store> Queue<S> {
    /// Sends an item. Under a name, nothing is sent if an item of this name is there, be it one that was acknowledged and is kept for
    /// `spec.keepAcknowledged`. So a sender that does not know what became of its send sends again under the same name.
    ///
    /// The bound of the queue's length is soft: those who send at the same time may exceed it.
    ///
    /// # Errors
    /// [`QueueError::Full`] when there are as many items as there may be; else see [`QueueError`].
    pub async fn send(&self, payload: impl Into<Payload>, name: Option<&str>) -> Result<Sent, QueueError> {
        let payload = payload.into();
        payload.check()?;
        let operation = self.session().random.id();
        let object = item_name(&self.0.name, name.unwrap_or(&operation))?;
        let number = self.number().await?;
        let mut spec = QueueItemSpec {
            queue: self.0.name.clone(),
            sequence: number.sequence,
            name: name.map(str::to_owned),
            sent_by: self.identity(),
            operation,
            lamport: number.stamps.lamport,
            hlc: number.stamps.hlc.to_string(),
            ..QueueItemSpec::default()
        };
        payload.put_into(&mut spec);
        let new = Item { queue_uid: number.queue_uid.clone(), spec, ..Item::default() };
        self.create(object, &new).await
    }

    /// The next number, in one write with those that are asked for at the same time.
    async fn number(&self) -> Result<Number, QueueError> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask { until: Instant::now() + self.0.limit, reply };
        self.0.asks.send(ask).await.map_err(|_| QueueError::Ended)?;
        answer.await.map_err(|_| QueueError::Ended)?
    }

    async fn create(&self, object: String, new: &Item) -> Result<Sent, QueueError> {
        let register = self.0.view.store.item(&object);
        // There is none, most likely; if there is, a conflict tells.
        let none = Versioned { state: Item::default(), version: VersionOf::<S>::default() };
        let Done { outcome, at, .. } = self.driver().run(&register, Some(none), |at| at.state.send(new)).await?;
        if outcome == Sending::Leftover {
            return Err(QueueError::Leftover { item: register.name() });
        }
        self.0.view.saw(&object, &at);
        Ok(Sent {
            duplicate: outcome == Sending::Duplicate,
            item: object,
            sequence: at.state.spec.sequence,
            state: at.state.state(),
            token: at.version.token(),
            lamport: at.state.spec.lamport,
            hlc: at.state.spec.hlc.parse().unwrap_or_default(),
        })
    }
}
