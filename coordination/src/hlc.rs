//! A hybrid logical clock: stamps that are near the wall's time, and yet above all that was seen before.
//!
//! As with [`crate::Lamport`], a < b does not say that a caused b; only that b did not cause a. Stamps of two
//! clocks may be equal. Source: Kulkarni, Demirbas, Madeppa, Avva and Leone, "Logical Physical Clocks", 2014.

use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The low bits, which count: 4,096 stamps within a microsecond, and what is more goes into the next.
const COUNT_BITS: u32 = 12;
/// How far ahead of one's own wall clock a stamp may be: clocks that are kept by NTP differ by much less.
pub const MAX_AHEAD: Duration = Duration::from_millis(500);

/// A stamp: 52 bits of microseconds since 1970, which is enough until 2112, and 12 of a count.
///
/// As text it has 16 hexadecimal digits, which sort as stamps do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Stamp(u64);

/// A text that is no stamp.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no stamp of a hybrid logical clock, which is 16 hexadecimal digits")]
pub struct NoStamp(String);

/// A stamp that is too far ahead to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a stamp is {} ms ahead of this clock, and {} ms are believed: one of the two clocks is wrong",
    ahead.as_millis(), MAX_AHEAD.as_millis()
)]
pub struct TooFarAhead {
    /// How far.
    pub ahead: Duration,
}

impl Stamp {
    /// The first of a microsecond on the wall.
    fn of(wall: Timestamp) -> Self {
        let micros = u64::try_from(wall.as_microsecond()).unwrap_or_default();
        Self(micros.min(u64::MAX >> COUNT_BITS) << COUNT_BITS)
    }

    /// The next higher one. The highest stays.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The wall's time in it.
    #[must_use]
    pub fn wall(self) -> Timestamp {
        // 52 bits are never out of range.
        Timestamp::UNIX_EPOCH + Duration::from_micros(self.0 >> COUNT_BITS)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Stamp {
    type Err = NoStamp;

    fn from_str(text: &str) -> Result<Self, NoStamp> {
        let digits = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let value = if digits { u64::from_str_radix(text, 16).ok() } else { None };
        value.map(Self).ok_or_else(|| NoStamp(text.chars().take(32).collect()))
    }
}

impl From<Stamp> for String {
    fn from(stamp: Stamp) -> Self {
        stamp.to_string()
    }
}

impl TryFrom<String> for Stamp {
    type Error = NoStamp;

    fn try_from(text: String) -> Result<Self, NoStamp> {
        text.parse()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Hlc(AtomicU64);

impl Hlc {
    /// The stamp of something that happens now: above all that was seen and stamped before.
    pub fn now(&self, wall: Timestamp) -> Stamp {
        self.advance(Stamp::default(), wall)
    }

    /// Something with this stamp was seen: the stamp of that.
    ///
    /// # Errors
    /// When it is too far ahead. Then this clock stays as it was: one wrong clock is not to carry all others away.
    pub fn see(&self, stamp: Stamp, wall: Timestamp) -> Result<Stamp, TooFarAhead> {
        let ahead = Duration::try_from(stamp.wall().duration_since(wall)).unwrap_or_default();
        if ahead > MAX_AHEAD { Err(TooFarAhead { ahead }) } else { Ok(self.advance(stamp, wall)) }
    }

    /// The stamp of a write of what carries this stamp: above it, even if it is too far ahead to be believed.
    pub fn above(&self, stamp: Stamp, wall: Timestamp) -> Stamp {
        self.see(stamp, wall).unwrap_or_else(|_| self.now(wall).max(stamp.next()))
    }

    fn advance(&self, seen: Stamp, wall: Timestamp) -> Stamp {
        let next = |now: u64| Stamp(now.max(seen.0)).next().max(Stamp::of(wall)).0;
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(next(now)));
        Stamp(next(before.unwrap_or_else(|now| now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_microsecond(micros).unwrap()
    }

    #[test]
    fn stamps_follow_the_wall_and_rise_when_it_stands_still_or_goes_back() {
        let clock = Hlc::default();
        let stamps = [at(5_000), at(5_000), at(4_000), at(6_000)].map(|wall| clock.now(wall));
        assert!(stamps.is_sorted() && stamps[0] < stamps[1] && stamps[1] < stamps[2], "{stamps:?}");
        assert_eq!((stamps[0].wall(), stamps[2].wall(), stamps[3].wall()), (at(5_000), at(5_000), at(6_000)));
    }

    #[test]
    fn what_was_seen_is_below_what_comes_after() {
        let (ahead, behind) = (Hlc::default(), Hlc::default());
        let sent = ahead.now(at(300_000));
        let received = behind.see(sent, at(0)).unwrap();
        let answered = behind.now(at(1));
        assert!(sent < received && received < answered);
        assert!(ahead.see(answered, at(300_001)).unwrap() > answered);
    }

    #[test]
    fn a_stamp_too_far_ahead_carries_nobody_away() {
        let (wrong, clock) = (Hlc::default(), Hlc::default());
        let far = wrong.now(at(3_600_000_000));
        let told = clock.see(far, at(0)).unwrap_err();
        assert!(told.to_string().contains("3600000 ms ahead"), "{told}");
        assert_eq!(clock.now(at(7)).wall(), at(7));
        let limit = wrong.see(Stamp::of(at(500_000)), at(0)).unwrap();
        assert!(limit > far, "the last moment that is believed");
        // What carries such a stamp can be written all the same.
        assert_eq!((clock.above(far, at(8)), clock.now(at(9)).wall()), (far.next(), at(9)));
        assert_eq!(clock.above(Stamp(u64::MAX), at(9)), Stamp(u64::MAX), "a forged one stays");
    }

    #[test]
    fn text_sorts_as_stamps_do_and_comes_back() {
        let clock = Hlc::default();
        let stamps: Vec<Stamp> = [0, 1, 1, 15, 16, 1_750_000_000_000_000].map(|micros| clock.now(at(micros))).into();
        let texts: Vec<String> = stamps.iter().map(Stamp::to_string).collect();
        assert!(texts.is_sorted() && texts.iter().all(|text| text.len() == 16), "{texts:?}");
        assert!(texts.iter().zip(&stamps).all(|(text, stamp)| text.parse() == Ok(*stamp)));
        assert_eq!(serde_json::to_string(&stamps[0]).unwrap(), format!("\"{}\"", texts[0]));
        for text in ["", "00", "000000000000000G", "00000000000000000", "+000000000000001", "000000000000000A"] {
            assert!(text.parse::<Stamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn more_stamps_than_a_microsecond_counts_run_into_the_next() {
        let clock = Hlc::default();
        let last = (0..5_000).map(|_| clock.now(at(1))).last().unwrap();
        assert_eq!(last.wall(), at(2));
    }
}
