//! What is known of a queue's live items, and which of them may be handed out. Pure: it is told what was seen, and when.
//!
//! A claim has expired when nothing of it changed for its whole time, and a margin, by the clock of the one who looks. Nobody's wall
//! clock has a say.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use quorate_crds::QueueItemState;

use super::{
    item::{Item, Sign},
    payload::Payload,
};
use crate::{Version, Versioned, lock::patience};

/// Bytes of payloads that are kept. Of items beyond that only the outlines are, and a claim begins with a read.
const PAYLOADS: usize = 16 << 20;

/// See the module.
pub(super) struct Shelf<V> {
    entries: HashMap<String, Entry<V>>,
    /// The same, by sequence.
    order: BTreeSet<(i64, String)>,
    payloads: usize,
}

struct Entry<V> {
    at: Versioned<Item, V>,
    /// Whether its payload is here.
    whole: bool,
    /// Since when it has been seen as it is.
    since: Duration,
    /// Whether somebody here is claiming it.
    busy: bool,
}

/// An item to claim.
#[derive(Debug)]
pub(super) struct Pick<V> {
    pub name: String,
    /// If it is known as a whole.
    pub known: Option<Versioned<Item, V>>,
    /// The claim that has expired, if there is one.
    pub expired: Option<Sign>,
}

impl<V: Version> Shelf<V> {
    pub fn new() -> Self {
        Self { entries: HashMap::new(), order: BTreeSet::new(), payloads: 0 }
    }

    /// An item was seen as it is in this version.
    pub fn see(&mut self, name: &str, at: Versioned<Item, V>, now: Duration) {
        let old = self.entries.get(name);
        if old.is_some_and(|old| old.at.version.token() >= at.version.token()) {
            return;
        }
        let same = old.filter(|old| old.at.state.sign() == at.state.sign() && old.at.state.state() == at.state.state());
        let (since, busy) = (same.map_or(now, |old| old.since), old.is_some_and(|old| old.busy));
        self.forget(name);
        self.order.insert((at.state.spec.sequence, name.to_owned()));
        let size = Payload::of(&at.state.spec).as_bytes().len();
        // Once it is handed out, its payload is the consumer's; what was given back here comes without.
        let present = at.state.spec.payload.is_some() || at.state.spec.binary_payload.is_some();
        let whole = present && at.state.is_ready() && self.payloads + size <= PAYLOADS;
        let mut at = at;
        if whole {
            self.payloads += size;
        } else {
            (at.state.spec.payload, at.state.spec.binary_payload) = (None, None);
        }
        self.entries.insert(name.to_owned(), Entry { at, whole, since, busy });
    }

    /// An item is no live one since the moment with this token.
    pub fn gone(&mut self, name: &str, token: u64) {
        if self.entries.get(name).is_some_and(|entry| entry.at.version.token() <= token) {
            self.forget(name);
        }
    }

    /// These, and no others, were live at the moment with this token.
    pub fn listed(&mut self, names: &HashSet<String>, token: u64) {
        let old: Vec<String> = self.entries.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in old {
            self.gone(&name, token);
        }
    }

    /// An item is not there.
    pub fn forget(&mut self, name: &str) {
        let Some(entry) = self.entries.remove(name) else { return };
        self.order.remove(&(entry.at.state.spec.sequence, name.to_owned()));
        if entry.whole {
            self.payloads -= Payload::of(&entry.at.state.spec).as_bytes().len();
        }
    }

    /// The first item that may be claimed, after as many others as are to be left to others. It is not picked again until it is put
    /// back.
    pub fn pick(&mut self, now: Duration, leave: usize) -> Option<Pick<V>> {
        let name = self.free(now).nth(leave)?.clone();
        let entry = self.entries.get_mut(&name)?;
        entry.busy = true;
        let known = entry.whole.then(|| entry.at.clone());
        Some(Pick { expired: entry.at.state.sign(), known, name })
    }

    /// Those that may be claimed.
    pub fn free(&self, now: Duration) -> impl Iterator<Item = &String> {
        let names = self.order.iter().map(|(_, name)| name);
        names.filter(move |name| {
            let entry = self.entries.get(*name);
            entry.is_some_and(|entry| !entry.busy && entry.due().is_some_and(|due| due <= now))
        })
    }

    /// Who claimed it is done with it.
    pub fn put_back(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.busy = false;
        }
    }

    /// What was seen last of an item; its payload may be missing.
    pub fn known(&self, name: &str) -> Option<Versioned<Item, V>> {
        self.entries.get(name).map(|entry| entry.at.clone())
    }

    /// When the next claim expires, if there is no sign of life until then.
    pub fn next_expiry(&self) -> Option<Duration> {
        let claimed = self.entries.values().filter(|entry| !entry.busy && !entry.at.state.is_ready());
        claimed.filter_map(Entry::due).min()
    }

    /// How many are ready or claimed.
    pub fn live(&self) -> usize {
        self.entries.values().filter(|entry| entry.at.state.is_live()).count()
    }
}

impl<V> Entry<V> {
    /// From when on it may be claimed; none if never.
    fn due(&self) -> Option<Duration> {
        let seconds = || self.at.state.status.visibility_seconds.unwrap_or_default().max(0).unsigned_abs();
        match self.at.state.state() {
            QueueItemState::Ready => Some(Duration::ZERO),
            QueueItemState::Claimed => Some(self.since.saturating_add(patience(Duration::from_secs(seconds())))),
            QueueItemState::Acknowledged | QueueItemState::Dead => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Step,
        queue::item::{Claim, Claimed},
    };
    use quorate_crds::QueueItemSpec;

    fn item(sequence: i64, payload: &str) -> Item {
        let spec = QueueItemSpec {
            queue: "q".into(),
            sequence,
            payload: Some(payload.into()),
            operation: "o".into(),
            ..QueueItemSpec::default()
        };
        Item { queue_uid: "u".into(), spec, ..Item::default() }
    }

    fn claimed(item: &Item, id: &str) -> Item {
        let claim =
            Claim { id: id.into(), by: "c".into(), visibility_seconds: 10, max_attempts: 5, expired: item.sign() };
        let Step::Write(next, Claimed::Yours) = item.claim(&claim) else { panic!("it is free") };
        next
    }

    fn at(state: Item, version: u64) -> Versioned<Item, u64> {
        Versioned { state, version }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn picked(shelf: &mut Shelf<u64>, now: u64, skip: usize) -> Option<String> {
        let name = shelf.pick(seconds(now), skip)?.name;
        shelf.put_back(&name);
        Some(name)
    }

    #[test]
    fn the_lowest_number_comes_first_and_nobody_here_claims_what_another_here_does() {
        let mut shelf = Shelf::new();
        for (name, sequence) in [("b", 2), ("c", 3), ("a", 1)] {
            shelf.see(name, at(item(sequence, name), sequence.unsigned_abs()), seconds(0));
        }
        assert_eq!(shelf.live(), 3);
        assert_eq!(picked(&mut shelf, 0, 0).as_deref(), Some("a"));
        assert_eq!(picked(&mut shelf, 0, 1).as_deref(), Some("b"));
        assert_eq!((picked(&mut shelf, 0, 3), shelf.free(seconds(0)).count()), (None, 3), "there are no more");
        let names: Vec<String> = std::iter::from_fn(|| shelf.pick(seconds(0), 0)).map(|pick| pick.name).collect();
        assert_eq!(names, ["a", "b", "c"]);
        shelf.put_back("b");
        assert_eq!(shelf.pick(seconds(0), 0).map(|pick| pick.name).as_deref(), Some("b"));
    }

    #[test]
    fn a_claim_expires_when_nothing_of_it_changed_for_its_time_and_a_margin() {
        let mut shelf = Shelf::new();
        let first = claimed(&item(1, "x"), "r");
        shelf.see("a", at(first.clone(), 5), seconds(100));
        assert_eq!(shelf.next_expiry(), Some(Duration::from_millis(110_500)));
        assert!(shelf.pick(seconds(110), 0).is_none());
        // The same, told again later, in a newer version: somebody has put a label on it.
        shelf.see("a", at(first.clone(), 6), seconds(108));
        let pick = shelf.pick(seconds(111), 0).unwrap();
        assert_eq!((pick.expired, pick.known), (first.sign(), None), "its payload was not kept");
        shelf.put_back("a");
        let Step::Write(extended, _) = first.extend("1-r", 1, 20) else { panic!("it is held") };
        shelf.see("a", at(extended.clone(), 7), seconds(111));
        assert_eq!(shelf.next_expiry(), Some(seconds(132)));
        shelf.see("a", at(claimed(&extended, "s"), 8), seconds(120));
        assert_eq!(shelf.next_expiry(), Some(Duration::from_millis(130_500)));
    }

    #[test]
    fn what_is_older_than_what_is_known_is_no_news() {
        let mut shelf = Shelf::new();
        let first = item(1, "x");
        shelf.see("a", at(claimed(&first, "r"), 5), seconds(0));
        shelf.see("a", at(first.clone(), 4), seconds(1));
        assert!(picked(&mut shelf, 1, 0).is_none());
        shelf.gone("a", 4);
        assert_eq!(shelf.live(), 1);
        // It was acknowledged here, and the watch has told only of its claim yet.
        let Step::Write(done, Ok(())) = claimed(&first, "r").acknowledge("1-r") else { panic!("it is held") };
        shelf.see("a", at(done, 6), seconds(2));
        shelf.see("a", at(claimed(&first, "r"), 5), seconds(3));
        assert_eq!((shelf.live(), shelf.next_expiry(), picked(&mut shelf, 1000, 0)), (0, None, None));
        shelf.gone("a", 6);
        assert!(shelf.known("a").is_none());
        // What was not listed is gone, unless it is newer than the list.
        shelf.see("b", at(item(2, "x"), 8), seconds(3));
        shelf.see("c", at(item(3, "x"), 11), seconds(3));
        shelf.listed(&HashSet::new(), 10);
        assert_eq!((shelf.known("b").is_none(), shelf.known("c").is_some()), (true, true));
    }

    #[test]
    fn what_comes_without_its_payload_is_read_again() {
        let mut shelf = Shelf::new();
        shelf.see("a", at(claimed(&item(1, "x"), "r"), 5), seconds(0));
        let known = shelf.known("a").unwrap().state;
        let Step::Write(back, Ok(())) = known.release("1-r", 5, None) else { panic!("it is held") };
        shelf.see("a", at(back, 6), seconds(0));
        assert!(shelf.pick(seconds(0), 0).unwrap().known.is_none());
    }

    #[test]
    fn memory_has_a_bound() {
        let mut shelf = Shelf::new();
        let payload = "x".repeat(1 << 16);
        for number in 1..=300 {
            shelf.see(&format!("i{number}"), at(item(number, &payload), 1), seconds(0));
        }
        assert_eq!((shelf.payloads, shelf.live()), (PAYLOADS, 300));
        assert!(shelf.pick(seconds(0), 255).unwrap().known.is_some());
        assert!(shelf.pick(seconds(0), 255).unwrap().known.is_none());
        for number in 1..=300 {
            shelf.forget(&format!("i{number}"));
        }
        assert_eq!((shelf.payloads, shelf.live(), shelf.order.len()), (0, 0, 0));
    }
}
