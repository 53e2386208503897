//! What is kept in an object must not grow without bound: the old makes room for the new.
//!
//! Ages are by the wall clocks of those who wrote, which may be wrong. So nothing unsafe may come of an entry that
//! goes too early.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

/// How many entries there may be, and for how long each is kept.
pub(super) struct Room {
    /// Entries there may be.
    pub limit: usize,
    /// What is older goes.
    pub kept: Duration,
    /// Where there is no room, the oldest goes if it is older than this.
    pub spared: Duration,
}

impl Room {
    /// Makes room for one more; whether there is.
    pub fn make<E>(&self, entries: &mut BTreeMap<String, E>, now: Timestamp, at: impl Fn(&E) -> Timestamp) -> bool {
        // An entry of the future is new.
        let age = |entry: &E| Duration::try_from(now.duration_since(at(entry))).unwrap_or_default();
        entries.retain(|_, entry| age(entry) < self.kept);
        while entries.len() >= self.limit {
            let oldest = entries.iter().max_by_key(|(_, entry)| age(entry));
            let Some((oldest, _)) = oldest.filter(|(_, entry)| age(entry) >= self.spared) else { return false };
            let oldest = oldest.clone();
            entries.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { limit: 3, kept: Duration::from_secs(100), spared: Duration::from_secs(10) };

    fn after(made: &[i64], now: i64) -> (bool, Vec<i64>) {
        let at = |second: &i64| Timestamp::from_second(*second).unwrap();
        let mut entries: BTreeMap<String, i64> = made.iter().map(|second| (second.to_string(), *second)).collect();
        let room = ROOM.make(&mut entries, at(&now), at);
        (room, entries.into_values().collect())
    }

    #[test]
    fn the_old_go_and_where_there_is_no_room_the_oldest() {
        assert_eq!(after(&[1_000, 1_050], 1_110), (true, vec![1_050]));
        assert_eq!(after(&[1_000, 1_001, 1_002], 1_050), (true, vec![1_001, 1_002]));
        assert_eq!(after(&[1_045, 1_046, 1_047], 1_050), (false, vec![1_045, 1_046, 1_047]));
        assert_eq!(after(&[2_000, 2_001, 2_002], 1_000), (false, vec![2_000, 2_001, 2_002]), "a clock that is behind");
    }
}
