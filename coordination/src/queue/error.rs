//! Why a queue gave nothing.

use std::time::Duration;

use quorate_crds::MAX_QUEUE_LENGTH;

use super::{item::Now, limits::Invalid};
use crate::{Failure, Undone};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// What was asked for makes no sense.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There are as many items as there may be.
    #[error(
        "{queue}: it is full: {length} items wait or are worked on, and spec.maxLength is {max}: nothing was sent: try later, add consumers, or allow more (at most {MAX_QUEUE_LENGTH})"
    )]
    Full {
        /// Kind, namespace and name.
        queue: String,
        /// How many there are.
        length: i64,
        /// How many there may be.
        max: u32,
    },
    /// The name is in use by what a deleted queue has left behind.
    #[error(
        "{item}: an item of a queue that was deleted still has this name: nothing was sent: try again when it is collected, or delete it"
    )]
    Leftover {
        /// Kind, namespace and name.
        item: String,
    },
    /// Who asks does not have the item any more.
    #[error("{item}: receipt {receipt} is not valid any more: {now}: nothing was changed")]
    Stale {
        /// Kind, namespace and name.
        item: String,
        /// The receipt that was given.
        receipt: String,
        /// What the item is now.
        now: Now,
    },
    /// The item is not dead.
    #[error("{item}: it is no dead letter: {now}")]
    NotDead {
        /// Kind, namespace and name.
        item: String,
        /// What the item is.
        now: &'static str,
    },
    /// The API server cannot be asked, or refuses.
    #[error(transparent)]
    Undone(#[from] Undone),
    /// The runtime that the handle was made in has ended.
    #[error("the task that numbers items for this handle has ended, with the runtime that it ran in: nothing was sent")]
    Ended,
}

impl QueueError {
    /// Whether what was asked for may have been done, or may be yet.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        matches!(self, Self::Undone(Undone::Unknown { .. }))
    }

    /// Whether it would be the same if asked for again.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        !matches!(self, Self::Undone(Undone::Unknown { .. } | Undone::TimedOut { .. }) | Self::Full { .. })
    }

    /// A read that gave nothing.
    pub(super) fn of_read(failure: Failure, register: String, limit: Duration) -> Self {
        Self::Undone(match failure {
            Failure::Refused(why) => Undone::Refused { register, why },
            failure => Undone::TimedOut { register, limit, why: failure.to_string() },
        })
    }

    /// A write that gave nothing, and may have been done.
    pub(super) fn of_write(failure: Failure, register: String, limit: Duration) -> Self {
        Self::Undone(match failure {
            Failure::Refused(why) => Undone::Refused { register, why },
            failure => Undone::Unknown { register, limit, why: failure.to_string() },
        })
    }
}
