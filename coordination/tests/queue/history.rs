//! What producers and consumers of a queue did and saw, and whether a queue can have given it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use quorate_coordination::queue::Item;
use quorate_crds::QueueItemState;
use serde::{Deserialize, Serialize};

/// What a producer or a consumer did, or was told. All times are by one clock that all share.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    /// The sender was told that it was sent.
    Sent { payload: String, item: String },
    /// It was sent again under its name; whether the sender was told that it is a duplicate.
    SentAgain { payload: String, duplicate: bool },
    /// An item was handed out.
    Delivered(Delivered),
    /// It asked how long it has the item: until then.
    Believes { item: String, receipt: String, until: Duration },
    /// It is about to be given back: from now on others may have it.
    Releases { item: String, receipt: String, at: Duration },
    /// It was told that this is acknowledged.
    Acknowledged { item: String, receipt: String },
}

/// An item was handed out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delivered {
    pub item: String,
    pub receipt: String,
    pub payload: String,
    pub attempt: i64,
    pub token: u64,
    pub sequence: i64,
    /// When the consumer was given it.
    pub at: Duration,
    /// Until when it believes that nobody else is given it.
    pub until: Duration,
}

/// Where what happens is noted.
pub type Notes = Arc<dyn Fn(Event) + Send + Sync>;

/// See the module.
#[derive(Debug, Default)]
pub struct History {
    events: Mutex<Vec<Event>>,
}

/// What it says of sends, deliveries and acknowledgements.
#[derive(Debug, Default)]
struct Inside {
    /// The item of each payload whose sender was told that it was sent.
    sent: Vec<(String, String)>,
    /// Payloads whose name was used again, and that was let through.
    doubled: Vec<String>,
    deliveries: Vec<Delivered>,
    /// Item and receipt of what was told to be acknowledged.
    acknowledged: Vec<(String, String)>,
}

/// A write of an item, in the order in which they were done.
#[derive(Clone, Debug)]
pub struct Change {
    pub name: String,
    pub before: Option<Item>,
    pub after: Option<Item>,
    /// When, if that is known.
    pub at: Option<Duration>,
}

/// Why no queue can have given it.
#[derive(Debug, PartialEq, Eq)]
pub enum Violation {
    /// What was told to be sent never was there, or is gone without an end.
    Lost(String),
    /// The same was sent twice.
    Doubled(String),
    /// Two were told that they acknowledged it, or one of something else than the store has.
    Acknowledged(String),
    /// Two were given the same receipt.
    Receipt(String),
    /// What was handed out is not what was sent.
    Altered(String),
    /// A later attempt has no higher token.
    Token(String),
    /// Somebody was given it while another believed in having it.
    Early(String),
    /// It was handed out too often, or was dead too soon.
    Attempts(String),
    /// An item became what it never may.
    Unlawful(String),
    /// It was handed out before one that was sent earlier.
    Order(i64, i64),
}

impl History {
    /// Of events that were noted elsewhere.
    pub fn of(events: Vec<Event>) -> Self {
        Self { events: Mutex::new(events) }
    }

    pub fn note(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }

    /// All that happens is noted here.
    pub fn notes(self: &Arc<Self>) -> Notes {
        let history = Arc::clone(self);
        Arc::new(move |event| history.note(event))
    }

    pub fn deliveries(&self) -> Vec<Delivered> {
        Inside::of(&self.events.lock().unwrap()).deliveries
    }

    /// Whether all is as it should be, by what clients saw and by what the store did.
    pub fn check(&self, changes: &[Change], max_attempts: i64) -> Result<(), Violation> {
        let inside = Inside::of(&self.events.lock().unwrap());
        lawful(changes, max_attempts)?;
        inside.sends(changes)?;
        inside.acknowledgements(changes)?;
        inside.hand_outs(changes)
    }

    /// Whether items were handed out for the first time in their order.
    pub fn check_order(&self) -> Result<(), Violation> {
        let deliveries = self.deliveries();
        let first = deliveries.iter().filter(|delivered| delivered.attempt == 1);
        let sequences: Vec<i64> = first.map(|delivered| delivered.sequence).collect();
        let wrong = sequences.windows(2).find(|pair| pair[0] >= pair[1]);
        wrong.map_or(Ok(()), |pair| Err(Violation::Order(pair[0], pair[1])))
    }
}

impl Inside {
    fn of(events: &[Event]) -> Self {
        let (mut inside, mut index) = (Self::default(), HashMap::new());
        for event in events {
            match event.clone() {
                Event::Sent { payload, item } => inside.sent.push((payload, item)),
                Event::SentAgain { payload, duplicate: false } => inside.doubled.push(payload),
                Event::SentAgain { .. } => {}
                Event::Delivered(delivered) => {
                    let key = (delivered.item.clone(), delivered.receipt.clone());
                    // Two that were given the same receipt are both there; the checks tell.
                    index.entry(key).or_insert(inside.deliveries.len());
                    inside.deliveries.push(delivered);
                }
                Event::Believes { item, receipt, until } => {
                    let of = &mut inside.deliveries[index[&(item, receipt)]];
                    of.until = of.until.max(until);
                }
                Event::Releases { item, receipt, at } => {
                    let of = &mut inside.deliveries[index[&(item, receipt)]];
                    of.until = of.until.min(at);
                }
                Event::Acknowledged { item, receipt } => inside.acknowledged.push((item, receipt)),
            }
        }
        inside
    }

    fn sends(&self, changes: &[Change]) -> Result<(), Violation> {
        let made: Vec<&Item> = changes.iter().filter(|c| c.before.is_none()).filter_map(|c| c.after.as_ref()).collect();
        if let Some(doubled) = self.doubled.first() {
            return Err(Violation::Doubled(doubled.clone()));
        }
        let mut by_payload = HashMap::new();
        for item in &made {
            let payload = item.spec.payload.clone().unwrap_or_default();
            if by_payload.insert(payload.clone(), item.spec.operation.clone()).is_some() {
                return Err(Violation::Doubled(payload));
            }
        }
        let names: BTreeSet<&str> = changes.iter().map(|change| change.name.as_str()).collect();
        for (payload, item) in &self.sent {
            if !by_payload.contains_key(payload) || !names.contains(item.as_str()) {
                return Err(Violation::Lost(payload.clone()));
            }
        }
        // Gone is only what was acknowledged or dead before.
        let gone = changes.iter().filter(|change| change.after.is_none());
        let mut lost =
            gone.filter(|change| change.before.as_ref().is_some_and(Item::is_live)).map(|change| &change.name);
        lost.next().map_or(Ok(()), |name| Err(Violation::Lost(name.clone())))
    }

    fn acknowledgements(&self, changes: &[Change]) -> Result<(), Violation> {
        let mut by_item = BTreeMap::new();
        for (item, receipt) in &self.acknowledged {
            let other = by_item.insert(item, receipt);
            if other.is_some_and(|other| other != receipt) {
                return Err(Violation::Acknowledged(item.clone()));
            }
        }
        for (item, receipt) in by_item {
            let of_item =
                changes.iter().filter(|change| change.name == *item).filter_map(|change| change.after.as_ref());
            let mut done = of_item.filter(|item| item.state() == QueueItemState::Acknowledged);
            if !done.any(|done| done.status.receipt.as_ref() == Some(receipt)) {
                return Err(Violation::Acknowledged(item.clone()));
            }
        }
        Ok(())
    }

    fn hand_outs(&self, changes: &[Change]) -> Result<(), Violation> {
        let mut of_item: BTreeMap<&str, Vec<&Delivered>> = BTreeMap::new();
        for delivered in &self.deliveries {
            of_item.entry(&delivered.item).or_default().push(delivered);
        }
        let sent: HashMap<&str, Option<&str>> = changes
            .iter()
            .filter_map(|change| Some((change.name.as_str(), change.after.as_ref()?.spec.payload.as_deref())))
            .collect();
        for (item, mut deliveries) in of_item {
            if deliveries.iter().any(|delivered| sent.get(item) != Some(&Some(delivered.payload.as_str()))) {
                return Err(Violation::Altered(item.to_owned()));
            }
            deliveries.sort_by_key(|delivered| delivered.attempt);
            for pair in deliveries.windows(2) {
                if pair[0].receipt == pair[1].receipt {
                    return Err(Violation::Receipt(item.to_owned()));
                }
                if pair[0].token >= pair[1].token {
                    return Err(Violation::Token(item.to_owned()));
                }
                // When the store did it; the consumer heard of it later.
                let claim = changes.iter().find(|change| {
                    let after = change.after.as_ref();
                    change.name == item
                        && after.is_some_and(|after| after.status.receipt.as_ref() == Some(&pair[1].receipt))
                });
                let claimed = claim.and_then(|claim| claim.at).unwrap_or(pair[1].at);
                if claimed < pair[0].until {
                    return Err(Violation::Early(item.to_owned()));
                }
            }
        }
        Ok(())
    }
}

/// Whether every item became only what it may.
fn lawful(changes: &[Change], max_attempts: i64) -> Result<(), Violation> {
    let mut present: HashMap<&str, &Item> = HashMap::new();
    for Change { name, before, after, .. } in changes {
        if before.as_ref() != present.get(name.as_str()).copied() {
            return Err(Violation::Unlawful(name.clone()));
        }
        let Some(after) = after else {
            present.remove(name.as_str());
            continue;
        };
        present.insert(name, after);
        if !step(before.as_ref(), after) {
            return Err(Violation::Unlawful(name.clone()));
        }
        let attempts = after.status.attempts - after.status.forgiven;
        let dead = after.state() == QueueItemState::Dead;
        if attempts > max_attempts || (dead && attempts < max_attempts) {
            return Err(Violation::Attempts(name.clone()));
        }
        // What has no attempt left is not ready.
        if after.state() == QueueItemState::Ready && attempts >= max_attempts {
            return Err(Violation::Attempts(name.clone()));
        }
    }
    Ok(())
}

/// The rules that the API server keeps, once more.
pub fn step(before: Option<&Item>, after: &Item) -> bool {
    use QueueItemState::{Acknowledged, Claimed, Dead, Ready};
    let new = &after.status;
    let receipt = new.receipt.as_ref();
    let right_receipt = receipt.is_none_or(|receipt| receipt.starts_with(&format!("{}-", new.attempts)));
    if (receipt.is_some() != matches!(new.state, Claimed | Acknowledged)) || !right_receipt {
        return false;
    }
    let Some(before) = before else { return new.state == Ready && new.attempts == 0 };
    let old = &before.status;
    let same_receipt = old.receipt == new.receipt;
    let forgives = old.state == Dead && new.state == Ready && new.forgiven == old.attempts;
    before.spec == after.spec
        && (new.forgiven == old.forgiven || forgives)
        && match (old.state, new.state) {
            (Claimed, Claimed) if same_receipt => new.attempts == old.attempts && new.extensions > old.extensions,
            (Ready | Claimed, Claimed) => new.attempts == old.attempts + 1,
            (Claimed, Acknowledged) => same_receipt && new.attempts == old.attempts,
            (Claimed | Ready, Ready | Dead) => new.attempts == old.attempts,
            (Dead, Ready) => forgives && new.attempts == old.attempts,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_crds::{QueueItemSpec, QueueItemStatus};

    fn item(status: QueueItemStatus) -> Item {
        let spec = QueueItemSpec {
            queue: "q".into(),
            sequence: 1,
            payload: Some("p".into()),
            operation: "o".into(),
            ..QueueItemSpec::default()
        };
        Item { queue_uid: "u".into(), spec, status }
    }

    fn ready() -> Item {
        item(QueueItemStatus::default())
    }

    fn of(state: QueueItemState, attempts: i64, id: &str) -> Item {
        let receipt = (!id.is_empty()).then(|| format!("{attempts}-{id}"));
        item(QueueItemStatus { state, attempts, receipt, ..QueueItemStatus::default() })
    }

    fn changes(states: &[Option<Item>]) -> Vec<Change> {
        let before = std::iter::once(&None).chain(states);
        let change = |(before, after): (&Option<Item>, &Option<Item>)| Change {
            name: "q.a".into(),
            before: before.clone(),
            after: after.clone(),
            at: None,
        };
        before.zip(states).map(change).collect()
    }

    fn delivered(attempt: i64, id: &str, at: u64, until: u64) -> Delivered {
        let (at, until) = (Duration::from_secs(at), Duration::from_secs(until));
        let receipt = format!("{attempt}-{id}");
        let token = attempt.unsigned_abs();
        Delivered { item: "q.a".into(), receipt, payload: "p".into(), attempt, token, sequence: attempt, at, until }
    }

    fn sent(payload: &str, item: &str) -> Event {
        Event::Sent { payload: payload.into(), item: item.into() }
    }

    fn acknowledged(receipt: &str) -> Event {
        Event::Acknowledged { item: "q.a".into(), receipt: receipt.into() }
    }

    #[test]
    fn the_checker_tells_good_histories_from_bad_ones() {
        use QueueItemState::{Acknowledged, Claimed, Dead};
        let (claimed, again) = (of(Claimed, 1, "r"), of(Claimed, 2, "s"));
        let done = of(Acknowledged, 2, "s");
        let good = changes(&[Some(ready()), Some(claimed.clone()), Some(again.clone()), Some(done.clone()), None]);
        let history = || {
            let history = History::default();
            history.note(sent("p", "q.a"));
            history.note(Event::Delivered(delivered(1, "r", 0, 10)));
            history.note(Event::Delivered(delivered(2, "s", 11, 20)));
            history.note(acknowledged("2-s"));
            history
        };
        assert_eq!(history().check(&good, 2), Ok(()));
        assert_eq!(history().check(&good, 1), Err(Violation::Attempts("q.a".into())));
        assert_eq!(history().check_order(), Ok(()));

        let told = history();
        told.note(acknowledged("1-r"));
        assert_eq!(told.check(&good, 2), Err(Violation::Acknowledged("q.a".into())));
        let told = history();
        told.note(sent("x", "q.x"));
        assert_eq!(told.check(&good, 2), Err(Violation::Lost("x".into())));
        let told = history();
        told.note(Event::Delivered(Delivered { payload: String::new(), ..delivered(3, "t", 30, 40) }));
        assert_eq!(told.check(&good, 2), Err(Violation::Altered("q.a".into())));
        let told = history();
        let (item, receipt, until) = ("q.a".into(), "1-r".into(), Duration::from_secs(12));
        told.note(Event::Believes { item, receipt, until });
        assert_eq!(told.check(&good, 2), Err(Violation::Early("q.a".into())));
        let told = history();
        told.note(Event::Delivered(Delivered { token: 9, ..delivered(2, "s", 30, 40) }));
        assert_eq!(told.check(&good, 2), Err(Violation::Receipt("q.a".into())));
        let told = history();
        told.note(Event::Delivered(Delivered { token: 2, ..delivered(3, "t", 30, 40) }));
        assert_eq!(told.check(&good, 2), Err(Violation::Token("q.a".into())));

        let bad = |states: &[Option<Item>]| History::default().check(&changes(states), 2);
        let unlawful = Err(Violation::Unlawful("q.a".into()));
        // Acknowledged by who did not have it; undone; claimed without an attempt; made over.
        assert_eq!(bad(&[Some(ready()), Some(claimed.clone()), Some(of(Acknowledged, 1, "x"))]), unlawful);
        assert_eq!(
            bad(&[Some(ready()), Some(claimed.clone()), Some(of(Acknowledged, 1, "r")), Some(ready())]),
            unlawful
        );
        assert_eq!(bad(&[Some(ready()), Some(claimed.clone()), Some(of(Claimed, 1, "x"))]), unlawful);
        let mut twice = changes(&[Some(ready())]);
        twice.extend(twice.clone());
        assert_eq!(History::default().check(&twice, 2), unlawful);
        assert_eq!(bad(&[Some(ready()), Some(claimed.clone()), None]), Err(Violation::Lost("q.a".into())));
        assert_eq!(bad(&[Some(ready()), Some(claimed), Some(of(Dead, 1, ""))]), Err(Violation::Attempts("q.a".into())));
        assert_eq!(bad(&[Some(ready()), Some(of(Claimed, 1, "r")), Some(again), Some(of(Dead, 2, ""))]), Ok(()));
        let mut doubled = changes(&[Some(ready())]);
        doubled.push(Change { name: "q.b".into(), ..doubled[0].clone() });
        assert_eq!(History::default().check(&doubled, 2), Err(Violation::Doubled("p".into())));

        let order = History::default();
        order.note(Event::Delivered(Delivered { sequence: 2, ..delivered(1, "r", 0, 1) }));
        order.note(Event::Delivered(Delivered { sequence: 1, ..delivered(1, "s", 0, 1) }));
        assert_eq!(order.check_order(), Err(Violation::Order(2, 1)));
    }
}
