//! One item as a pure state machine: what sending, claiming, extending, acknowledging and so on make of it.
//!
//! A claim is an attempt with a number of its own, and the number is in its receipt. So a receipt is never given twice, and whoever
//! has an old one is told so: that is the fence. An operation whose answer was lost is known again by the receipt, or by the
//! random id of the sending.

use std::fmt;

use quorate_crds::{QueueItemSpec, QueueItemState, QueueItemStatus};

use crate::{Stamped, Stamps, Step};

/// Characters of a message.
const LONGEST_MESSAGE: usize = 1024;

/// An item as it is stored. The default is none that exists.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Item {
    /// The uid of the queue that owns it.
    pub queue_uid: String,
    /// What was sent.
    pub spec: QueueItemSpec,
    /// What has become of it.
    pub status: QueueItemStatus,
}

/// What shows that a claim is alive: as long as this does not change, there was no sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sign {
    /// The claim's receipt.
    pub receipt: String,
    /// How often it was extended.
    pub extensions: i64,
}

/// What came of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// It is there.
    Sent,
    /// Another item has the name.
    Duplicate,
    /// An item of a queue that was deleted has the name.
    Leftover,
}

/// Who claims an item, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The random part of the receipt.
    pub id: String,
    /// What people know the consumer by.
    pub by: String,
    /// For how long it is kept from others.
    pub visibility_seconds: i64,
    /// The queue's limit.
    pub max_attempts: u32,
    /// The claim of another that was seen to have expired, if the item is not ready.
    pub expired: Option<Sign>,
}

/// What came of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// It is the claimant's.
    Yours,
    /// It had no attempt left, and is dead now.
    Buried,
    /// Somebody else was first.
    Taken,
}

/// Why a receipt is no good: what the item is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Now {
    /// There is no such item.
    Gone,
    /// It is to be handed out again.
    Ready,
    /// It was handed out again.
    Claimed {
        /// To whom.
        by: String,
        /// For the how manieth time.
        attempt: i64,
    },
    /// It was acknowledged.
    Acknowledged {
        /// By whom.
        by: String,
    },
    /// It was handed out too often.
    Dead,
}

impl fmt::Display for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => {
                f.write_str("there is no such item: it was acknowledged long ago or purged, or its queue was deleted")
            }
            Self::Ready => f.write_str("its time was up or it was given back, and it is to be handed out again"),
            Self::Claimed { by, attempt } => {
                write!(f, "its time was up or it was given back, and {by} has it now (attempt {attempt})")
            }
            Self::Acknowledged { by } => write!(f, "{by} has acknowledged it"),
            Self::Dead => {
                f.write_str("its time was up or it was given back, and it was handed out too often: it is dead")
            }
        }
    }
}

impl Item {
    /// Whether there is such an item.
    #[must_use]
    pub const fn exists(&self) -> bool {
        self.spec.sequence > 0
    }

    /// Where it stands.
    #[must_use]
    pub const fn state(&self) -> QueueItemState {
        self.status.state
    }

    /// Whether it is to be handed out.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        matches!(self.status.state, QueueItemState::Ready)
    }

    /// Whether it is ready or claimed: it counts for the queue's length.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self.status.state, QueueItemState::Ready | QueueItemState::Claimed)
    }

    /// The present claim's sign of life.
    #[must_use]
    pub fn sign(&self) -> Option<Sign> {
        let receipt = self.status.receipt.clone().filter(|_| self.state() == QueueItemState::Claimed)?;
        Some(Sign { receipt, extensions: self.status.extensions })
    }

    /// Sends `new`, where nothing may be yet.
    #[must_use]
    pub fn send(&self, new: &Self) -> Step<Self, Sending> {
        if !self.exists() {
            return Step::Write(new.clone(), Sending::Sent);
        }
        Step::Answer(if self.spec.operation == new.spec.operation {
            Sending::Sent
        } else if self.queue_uid == new.queue_uid {
            Sending::Duplicate
        } else {
            Sending::Leftover
        })
    }

    /// Claims it, if it is ready, or claimed with the sign that was seen to have expired.
    #[must_use]
    pub fn claim(&self, claim: &Claim) -> Step<Self, Claimed> {
        if self.status.receipt == Some(receipt(self.status.attempts, &claim.id)) {
            return Step::Answer(Claimed::Yours);
        }
        let free = match self.state() {
            QueueItemState::Ready => self.exists(),
            QueueItemState::Claimed => claim.expired.is_some() && self.sign() == claim.expired,
            QueueItemState::Acknowledged | QueueItemState::Dead => false,
        };
        if !free {
            return Step::Answer(Claimed::Taken);
        }
        if self.is_spent(claim.max_attempts) {
            return Step::Write(self.returned(claim.max_attempts, None), Claimed::Buried);
        }
        let attempts = self.status.attempts + 1;
        let status = QueueItemStatus {
            state: QueueItemState::Claimed,
            attempts,
            forgiven: self.status.forgiven,
            receipt: Some(receipt(attempts, &claim.id)),
            claimed_by: Some(claim.by.clone()),
            visibility_seconds: Some(claim.visibility_seconds),
            ..QueueItemStatus::default()
        };
        Step::Write(Self { status, ..self.clone() }, Claimed::Yours)
    }

    /// Extends the time of the claim with this receipt, which is the `extension`th that its holder asks for.
    #[must_use]
    pub fn extend(&self, receipt: &str, extension: i64, seconds: i64) -> Step<Self, Result<(), Now>> {
        if let Err(now) = self.held_by(receipt) {
            return Step::Answer(Err(now));
        }
        if self.status.extensions >= extension && self.status.visibility_seconds == Some(seconds) {
            return Step::Answer(Ok(()));
        }
        let mut next = self.clone();
        next.status.extensions += 1;
        next.status.visibility_seconds = Some(seconds);
        Step::Write(next, Ok(()))
    }

    /// Acknowledges it.
    #[must_use]
    pub fn acknowledge(&self, receipt: &str) -> Step<Self, Result<(), Now>> {
        if self.state() == QueueItemState::Acknowledged && self.status.receipt.as_deref() == Some(receipt) {
            return Step::Answer(Ok(()));
        }
        if let Err(now) = self.held_by(receipt) {
            return Step::Answer(Err(now));
        }
        let mut next = self.clone();
        next.status.state = QueueItemState::Acknowledged;
        next.status.visibility_seconds = None;
        Step::Write(next, Ok(()))
    }

    /// Gives it back: it is ready again, or dead if it has no attempt left.
    #[must_use]
    pub fn release(&self, receipt: &str, max_attempts: u32, why: Option<&str>) -> Step<Self, Result<(), Now>> {
        match self.held_by(receipt) {
            Ok(()) => Step::Write(self.returned(max_attempts, why), Ok(())),
            Err(now) => Step::Answer(Err(now)),
        }
    }

    /// Takes it from a claim that was seen to have expired; whether it did.
    #[must_use]
    pub fn expire(&self, sign: &Sign, max_attempts: u32) -> Step<Self, bool> {
        if self.sign().as_ref() != Some(sign) {
            return Step::Answer(false);
        }
        let by = self.status.claimed_by.as_deref().unwrap_or_default();
        let why = format!("the time of {by} was up without an acknowledgement");
        Step::Write(self.returned(max_attempts, Some(&why)), true)
    }

    /// Makes a dead one ready again, with all its attempts before it; whether it was dead.
    #[must_use]
    pub fn redrive(&self) -> Step<Self, bool> {
        if self.state() != QueueItemState::Dead {
            return Step::Answer(false);
        }
        let attempts = self.status.attempts;
        let status = QueueItemStatus { attempts, forgiven: attempts, ..QueueItemStatus::default() };
        Step::Write(Self { status, ..self.clone() }, true)
    }

    /// Whether it has no attempt left.
    #[must_use]
    pub fn is_spent(&self, max_attempts: u32) -> bool {
        self.status.attempts.saturating_sub(self.status.forgiven) >= i64::from(max_attempts)
    }

    fn held_by(&self, receipt: &str) -> Result<(), Now> {
        let by = || self.status.claimed_by.clone().unwrap_or_default();
        Err(match self.state() {
            _ if !self.exists() => Now::Gone,
            QueueItemState::Claimed if self.status.receipt.as_deref() == Some(receipt) => return Ok(()),
            QueueItemState::Claimed => Now::Claimed { by: by(), attempt: self.status.attempts },
            QueueItemState::Ready => Now::Ready,
            QueueItemState::Acknowledged => Now::Acknowledged { by: by() },
            QueueItemState::Dead => Now::Dead,
        })
    }

    /// Not claimed any more: ready, or dead.
    fn returned(&self, max_attempts: u32, why: Option<&str>) -> Self {
        let (QueueItemStatus { attempts, forgiven, .. }, dead) = (&self.status, self.is_spent(max_attempts));
        let mut message = why.map(str::to_owned);
        if dead {
            let times = attempts - forgiven;
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            message = Some(format!("handed out {times} times, which is the most{why}"));
        }
        let status = QueueItemStatus {
            state: if dead { QueueItemState::Dead } else { QueueItemState::Ready },
            attempts: *attempts,
            forgiven: *forgiven,
            message: message.map(|message| message.chars().take(LONGEST_MESSAGE).collect()),
            ..QueueItemStatus::default()
        };
        Self { status, ..self.clone() }
    }
}

impl Stamped for Item {
    fn stamps(&self) -> Stamps {
        let hlc = self.spec.hlc.as_str().max(&self.status.hlc);
        Stamps { lamport: self.spec.lamport.max(self.status.lamport), hlc: hlc.parse().unwrap_or_default() }
    }

    fn stamp(&mut self, Stamps { lamport, hlc }: Stamps) {
        (self.status.lamport, self.status.hlc) = (lamport, hlc.to_string());
    }
}

/// The receipt of an attempt.
fn receipt(attempt: i64, id: &str) -> String {
    format!("{attempt}-{id}")
}
