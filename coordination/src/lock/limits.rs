//! What may be asked for.

use std::time::Duration;

/// The shortest time of a grant: a Lease counts in seconds.
pub const SHORTEST_TTL: Duration = Duration::from_secs(1);
/// The longest time of a grant: so long does everybody wait after a crash.
pub const LONGEST_TTL: Duration = Duration::from_secs(3600);
/// Permits a semaphore may have.
pub const MOST_PERMITS: u32 = 512;
/// Characters of an identity.
const LONGEST_IDENTITY: usize = 200;

/// Something that makes no sense was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not a name that a Kubernetes object can have.
    #[error(
        "{name:?} is no name: it needs lower-case letters, digits, '-' and '.', a letter or digit at both ends, and 253 characters at most"
    )]
    Name {
        /// What was given.
        name: String,
    },
    /// A time out of range.
    #[error("a lock's time must be from 1 s to 1 h, not {given:?}: it is how long others wait after a crash")]
    Ttl {
        /// What was given.
        given: Duration,
    },
    /// Permits out of range.
    #[error(
        "{take} of {of} permits cannot be claimed: a semaphore has 1 to {MOST_PERMITS} permits, and a claim takes 1 to all of them"
    )]
    Permits {
        /// Permits claimed.
        take: u32,
        /// Permits there are.
        of: u32,
    },
    /// Not an identity.
    #[error("an identity has 1 to {LONGEST_IDENTITY} characters without spaces and control characters")]
    Identity,
}

/// Whether a Kubernetes object can have this name (a DNS-1123 subdomain).
pub fn object_name(name: &str) -> Result<(), Invalid> {
    let ends = |part: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        part.bytes().next().is_some_and(inner) && part.bytes().last().is_some_and(inner)
    };
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
    let good = plain && name.len() <= 253 && name.split('.').all(ends);
    if good { Ok(()) } else { Err(Invalid::Name { name: name.to_owned() }) }
}

pub fn ttl(given: Duration) -> Result<(), Invalid> {
    if (SHORTEST_TTL..=LONGEST_TTL).contains(&given) { Ok(()) } else { Err(Invalid::Ttl { given }) }
}

pub(super) const fn mode(mode: super::Mode) -> Result<(), Invalid> {
    match mode {
        super::Mode::Permits { take, of } if take == 0 || take > of || of > MOST_PERMITS => {
            Err(Invalid::Permits { take, of })
        }
        _ => Ok(()),
    }
}

pub fn identity(identity: &str) -> Result<(), Invalid> {
    let good = (1..=LONGEST_IDENTITY).contains(&identity.chars().count())
        && !identity.chars().any(|c| c.is_control() || c.is_whitespace());
    if good { Ok(()) } else { Err(Invalid::Identity) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mode;

    #[test]
    fn names_times_permits_and_identities_have_bounds() {
        for good in ["a", "web-0", "a.b-c.9", &"x".repeat(253)] {
            assert_eq!(object_name(good), Ok(()), "{good}");
        }
        for bad in ["", "A", "a_b", "-a", "a-", "a..b", ".a", "a/b", "ä", &"x".repeat(254)] {
            assert!(object_name(bad).is_err(), "{bad}");
        }
        for bad in [Duration::ZERO, Duration::from_millis(999), Duration::from_secs(365 * 86_400)] {
            assert!(ttl(bad).is_err(), "{bad:?}");
        }
        for (take, of, good) in [(1, 1, true), (3, 3, true), (0, 3, false), (4, 3, false), (1, MOST_PERMITS + 1, false)]
        {
            assert_eq!(mode(Mode::Permits { take, of }).is_ok(), good, "{take} of {of}");
        }
        assert!(identity("web-0").is_ok() && identity("").is_err() && identity("a b").is_err());
    }
}
