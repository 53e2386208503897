//! What may be asked for.

use std::time::Duration;

use quorate_crds::{MAX_QUEUE_PAYLOAD, MAX_VISIBILITY_SECONDS};

/// The shortest visibility time: items count in seconds.
pub const SHORTEST_VISIBILITY: Duration = Duration::from_secs(1);
/// The longest visibility time: so long does everybody wait after a crash.
pub const LONGEST_VISIBILITY: Duration = Duration::from_secs(MAX_VISIBILITY_SECONDS.unsigned_abs());

/// Something that makes no sense was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not a name that a queue can have.
    #[error(
        "{name:?} is no name of a queue: it needs lower-case letters, digits and '-', a letter or digit at both ends, and 63 characters at most"
    )]
    Queue {
        /// What was given.
        name: String,
    },
    /// Not a name that an item can be sent under.
    #[error(
        "an item is sent under a name of 1 to 255 bytes, not of {bytes}: take what the work is about, such as order-7"
    )]
    Name {
        /// The length of what was given.
        bytes: usize,
    },
    /// Not an item of this queue.
    #[error("{item:?} is no item of queue {queue}: an item's name begins with {queue:?} and a '.'")]
    Item {
        /// What was given.
        item: String,
        /// The queue's name.
        queue: String,
    },
    /// A payload that is too large.
    #[error(
        "a payload of {bytes} bytes is too large, {MAX_QUEUE_PAYLOAD} are the most: store it elsewhere, and send where it is"
    )]
    Payload {
        /// The length of what was given.
        bytes: usize,
    },
    /// A time out of range.
    #[error(
        "a visibility time must be from 1 s to 12 h, not {given:?}: it is how long others wait after a crash; work that takes longer extends it"
    )]
    Visibility {
        /// What was given.
        given: Duration,
    },
}

/// Whether a queue can have this name (a DNS-1123 label: the names of items begin with it, and a '.').
pub(super) fn queue_name(name: &str) -> Result<(), Invalid> {
    let good = (1..=63).contains(&name.len()) && is_label(name);
    if good { Ok(()) } else { Err(Invalid::Queue { name: name.to_owned() }) }
}

/// In seconds, rounded up.
pub(super) fn visibility(given: Duration) -> Result<i64, Invalid> {
    if !(SHORTEST_VISIBILITY..=LONGEST_VISIBILITY).contains(&given) {
        return Err(Invalid::Visibility { given });
    }
    let seconds = given.as_secs() + u64::from(given.subsec_nanos() > 0);
    // It is in range.
    Ok(i64::try_from(seconds).unwrap_or(MAX_VISIBILITY_SECONDS))
}

/// Whether this is a DNS-1123 label, but for its length.
pub(super) fn is_label(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.bytes().all(|b| alphanumeric(b) || b == b'-')
        && text.bytes().next().is_some_and(alphanumeric)
        && text.bytes().last().is_some_and(alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_times_have_bounds() {
        for good in ["a", "mails-2", &"x".repeat(63)] {
            assert_eq!(queue_name(good), Ok(()), "{good}");
        }
        for bad in ["", "A", "a.b", "-a", "a-", "a/b", "ä", "a_b", &"x".repeat(64)] {
            assert!(queue_name(bad).is_err(), "{bad}");
        }
        for (given, seconds) in [(1_000, 1), (1_001, 2), (43_200_000, 43_200)] {
            assert_eq!(visibility(Duration::from_millis(given)), Ok(seconds));
        }
        for bad in [Duration::ZERO, Duration::from_millis(999), Duration::from_secs(365 * 86_400)] {
            assert!(visibility(bad).unwrap_err().to_string().contains("from 1 s to 12 h"), "{bad:?}");
        }
    }
}
