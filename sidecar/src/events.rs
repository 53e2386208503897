//! What the application may want to hear of: other configuration, and locks that were lost.
//!
//! The last events are kept, in a ring. Whoever listens has a place in it; who falls out of it is told so, and goes on
//! from the present: neither a slow listener nor many of them take memory.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;

/// Events that are kept.
pub const KEPT: usize = 256;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Event {
    /// `config`: other files are shown.
    Config(ConfigChanged),
    /// `lock-lost`: a lock that this pod held is lost.
    LockLost(LockLost),
}

/// Other files are shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ConfigChanged {
    /// The config.
    pub config: String,
    /// Its revision.
    pub revision: i64,
    /// Its content's hash.
    pub hash: String,
}

/// A lock is lost: what it protects must stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LockLost {
    /// The lock.
    pub lock: String,
    /// The token it was held with.
    pub token: u64,
    /// Why.
    pub reason: String,
}

impl Event {
    /// The kind, as streams name it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::LockLost(_) => "lock-lost",
        }
    }
}

/// Events were missed: they are not kept any more, or were told by an earlier process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lagged;

struct Ring {
    next: u64,
    kept: VecDeque<Event>,
    configs: BTreeMap<String, ConfigChanged>,
}

/// See the module.
pub struct Events {
    epoch: String,
    ring: Mutex<Ring>,
    next: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        // No two processes of a pod begin in the same microsecond.
        let epoch = format!("{:x}", Timestamp::now().as_microsecond());
        let ring = Ring { next: 0, kept: VecDeque::new(), configs: BTreeMap::new() };
        Self { epoch, ring: Mutex::new(ring), next: watch::Sender::new(0) }
    }
}

impl Events {
    /// Tells all who listen. Of a config what is known already is no event.
    pub fn tell(&self, event: Event) {
        let mut ring = self.ring();
        if let Event::Config(config) = &event
            && ring.configs.insert(config.config.clone(), config.clone()).as_ref() == Some(config)
        {
            return;
        }
        if ring.kept.len() == KEPT {
            ring.kept.pop_front();
        }
        ring.kept.push_back(event);
        ring.next += 1;
        let next = ring.next;
        drop(ring);
        self.next.send_replace(next);
    }

    /// Every config as it is now, and the place of the events after that.
    #[must_use]
    pub fn present(&self) -> (Vec<Event>, u64) {
        let ring = self.ring();
        (ring.configs.values().cloned().map(Event::Config).collect(), ring.next)
    }

    /// The events from a place on.
    ///
    /// # Errors
    /// When some of them are not kept any more.
    pub fn from(&self, place: u64) -> Result<Vec<Event>, Lagged> {
        let ring = self.ring();
        let missed = ring.next.checked_sub(place).and_then(|missed| usize::try_from(missed).ok()).ok_or(Lagged)?;
        let skipped = ring.kept.len().checked_sub(missed).ok_or(Lagged)?;
        Ok(ring.kept.iter().skip(skipped).cloned().collect())
    }

    /// Changes with every event.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.next.subscribe()
    }

    /// The id by which a listener says that it has all before this place.
    #[must_use]
    pub fn id(&self, place: u64) -> String {
        format!("{}-{place}", self.epoch)
    }

    /// The place that an id names.
    ///
    /// # Errors
    /// When another process gave it.
    pub fn place(&self, id: &str) -> Result<u64, Lagged> {
        let (epoch, place) = id.rsplit_once('-').ok_or(Lagged)?;
        if epoch == self.epoch { place.parse().map_err(|_| Lagged) } else { Err(Lagged) }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(token: u64) -> Event {
        Event::LockLost(LockLost { lock: "l".into(), token, reason: "r".into() })
    }

    fn config(revision: i64) -> Event {
        Event::Config(ConfigChanged { config: "web".into(), revision, hash: format!("h{revision}") })
    }

    #[test]
    fn a_listener_goes_on_from_its_place_and_is_told_when_it_fell_behind() {
        let events = Events::default();
        let (first, place) = events.present();
        assert!(first.is_empty());
        events.tell(lost(1));
        events.tell(lost(2));
        assert_eq!(events.from(place), Ok(vec![lost(1), lost(2)]));
        assert_eq!(events.from(place + 1), Ok(vec![lost(2)]));
        assert_eq!(events.from(place + 2), Ok(vec![]));
        assert_eq!(events.from(place + 3), Err(Lagged), "a place that was never reached");
        for token in 0..KEPT as u64 {
            events.tell(lost(token));
        }
        assert_eq!(events.from(place + 1), Err(Lagged));
        assert_eq!(events.from(place + 2).map(|events| events.len()), Ok(KEPT));
    }

    #[test]
    fn the_same_files_again_are_no_event() {
        let events = Events::default();
        for revision in [1, 1, 2, 2, 1] {
            events.tell(config(revision));
        }
        assert_eq!(events.from(0), Ok(vec![config(1), config(2), config(1)]));
        assert_eq!(events.present(), (vec![config(1)], 3));
    }

    #[test]
    fn ids_of_another_process_name_no_place() {
        let events = Events::default();
        assert_eq!(events.place(&events.id(7)), Ok(7));
        for id in ["", "7", "0-7", &format!("{}x", events.id(7))] {
            assert_eq!(events.place(id), Err(Lagged), "{id}");
        }
    }
}
