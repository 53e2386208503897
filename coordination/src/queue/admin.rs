//! What people do with a queue: look at it, redrive its dead letters, and purge them.

use std::collections::BTreeMap;

use quorate_crds::QueueItemState;
use tokio::time::{Instant, sleep};

use super::{
    Item, Payload, Queue, QueueError,
    name::item_of,
    store::{Store, VersionOf, Which},
};
use crate::{Failure, Pace, Register, Versioned};

/// An item, as it was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Peeked {
    /// The name of its object.
    pub item: String,
    /// The name it was sent under, if any.
    pub name: Option<String>,
    /// Its place in the queue.
    pub sequence: i64,
    /// Where it stands.
    pub state: QueueItemState,
    /// How often it was handed out since it was sent or redriven.
    pub attempts: i64,
    /// Who has it.
    pub claimed_by: Option<String>,
    /// Why it was given back, or is dead.
    pub message: Option<String>,
    /// Who sent it.
    pub sent_by: String,
    /// What it says.
    pub payload: Payload,
}

/// How many items there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Length {
    /// To be handed out.
    pub ready: usize,
    /// Handed out, and not acknowledged yet.
    pub claimed: usize,
    /// Handed out too often.
    pub dead: usize,
}

impl<S: Store> Queue<S> {
    /// The first items, of all processes, without claiming any. By quorum.
    ///
    /// # Errors
    /// See [`QueueError`].
    pub async fn peek(&self, which: Which, limit: usize) -> Result<Vec<Peeked>, QueueError> {
        let first: BTreeMap<(i64, String), Item> = self
            .listed(which, |first: &mut BTreeMap<_, _>, name, at| {
                first.insert((at.state.spec.sequence, name), at.state);
                if first.len() > limit {
                    first.pop_last();
                }
            })
            .await?;
        let peeked = first.into_iter().map(|((sequence, item), Item { spec, status, .. })| Peeked {
            item,
            sequence,
            payload: Payload::of(&spec),
            name: spec.name,
            sent_by: spec.sent_by,
            state: status.state,
            attempts: status.attempts - status.forgiven,
            claimed_by: status.claimed_by,
            message: status.message,
        });
        Ok(peeked.collect())
    }

    /// How many items there are. By quorum.
    ///
    /// # Errors
    /// See [`QueueError`].
    pub async fn length(&self) -> Result<Length, QueueError> {
        let mut length = self
            .listed(Which::Live, |length: &mut Length, _, at| {
                let of_state = if at.state.is_ready() { &mut length.ready } else { &mut length.claimed };
                *of_state += 1;
            })
            .await?;
        length.dead = self.listed(Which::Dead, |dead: &mut usize, _, _| *dead += 1).await?;
        Ok(length)
    }

    /// Makes dead letters ready again, with all their attempts before them: all, or the one in this object. How many.
    ///
    /// # Errors
    /// [`QueueError::NotDead`] if the one is not dead; else see [`QueueError`].
    pub async fn redrive(&self, item: Option<&str>) -> Result<usize, QueueError> {
        let mut redriven = 0;
        for (name, known) in self.dead(item).await? {
            let register = self.0.view.store.item(&name);
            let done = self
                .driver()
                .run(&register, Some(known), |at| self.session().stamped(&at.state, at.state.redrive()))
                .await?;
            // If it is not dead any more, somebody else was first, or this was, and its answer was lost.
            redriven += 1;
            self.0.view.saw(&name, &done.at);
        }
        Ok(redriven)
    }

    /// Deletes dead letters: all, or the one in this object. How many. Who asks needs the right to delete items.
    ///
    /// # Errors
    /// [`QueueError::NotDead`] if the one is not dead; else see [`QueueError`].
    pub async fn purge_dead(&self, item: Option<&str>) -> Result<usize, QueueError> {
        let mut purged = 0;
        for (name, at) in self.dead(item).await? {
            purged += usize::from(self.removed(&name, &at.version).await?);
        }
        Ok(purged)
    }

    /// Deletes it; not if it is another version by now.
    async fn removed(&self, name: &str, version: &VersionOf<S>) -> Result<bool, QueueError> {
        let (until, mut pace) = (Instant::now() + self.0.limit, Pace::default());
        loop {
            let failure = match self.0.view.store.remove(name, version).await {
                Ok(()) => return Ok(true),
                Err(Failure::Conflict) => return Ok(false),
                Err(failure) => failure,
            };
            let wait = pace.failure(&self.session().random);
            if matches!(failure, Failure::Refused(_)) || Instant::now() + wait >= until {
                let register = self.0.view.store.item(name).name();
                return Err(QueueError::of_write(failure, register, self.0.limit));
            }
            sleep(wait).await;
        }
    }

    /// The dead letters: all, or the one in this object.
    async fn dead(&self, item: Option<&str>) -> Result<Vec<(String, Versioned<Item, VersionOf<S>>)>, QueueError> {
        let Some(item) = item else {
            return self
                .listed(Which::Dead, |dead: &mut Vec<_>, name, mut at: Versioned<Item, _>| {
                    (at.state.spec.payload, at.state.spec.binary_payload) = (None, None);
                    dead.push((name, at));
                })
                .await;
        };
        item_of(&self.0.name, item)?;
        let register = self.0.view.store.item(item);
        let at = self.driver().read(&register).await?;
        let now = match at.state.state() {
            _ if !at.state.exists() => "there is no such item",
            QueueItemState::Dead => return Ok(vec![(item.to_owned(), at)]),
            QueueItemState::Ready => "it is ready to be handed out",
            QueueItemState::Claimed => "somebody works on it",
            QueueItemState::Acknowledged => "it was acknowledged",
        };
        Err(QueueError::NotDead { item: register.name(), now })
    }

    /// Adds up what there is of this queue, as of one moment.
    async fn listed<T: Default + Send>(
        &self,
        which: Which,
        add: impl Fn(&mut T, String, Versioned<Item, VersionOf<S>>) + Send + Sync,
    ) -> Result<T, QueueError> {
        let queue = self.driver().read(self.0.view.store.queue()).await?.state;
        let (until, mut pace) = (Instant::now() + self.0.limit, Pace::default());
        loop {
            let mut all = T::default();
            let mut each = |name, at: Versioned<Item, _>| {
                if at.state.queue_uid == queue.uid {
                    add(&mut all, name, at);
                }
            };
            let Err(failure) = self.0.view.store.list(which, &mut each).await else { return Ok(all) };
            let wait = pace.failure(&self.session().random);
            if matches!(failure, Failure::Refused(_)) || Instant::now() + wait >= until {
                return Err(QueueError::of_read(failure, self.0.view.store.queue().name(), self.0.limit));
            }
            sleep(wait).await;
        }
    }
}
