//! Readings that somebody waits for: a strong read wants to know what the head says now, and only the follower, which
//! also publishes it, can tell.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use quorate_crds::Proposal;
use tokio::sync::{Notify, oneshot};

/// What a quorum read, sent after it was asked for, has told: what this pod is to show.
pub type Reading = Result<Proposal, String>;

#[derive(Default)]
struct Slot {
    asked: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wanted: Option<Proposal>,
    askers: Vec<oneshot::Sender<Reading>>,
}

/// Of each config. See the module.
pub struct Readings(BTreeMap<String, Slot>);

/// Those who wait for one reading.
pub struct Askers(Vec<oneshot::Sender<Reading>>);

impl Askers {
    /// Tells them. Who does not wait any more is not told.
    pub fn tell(self, reading: &Reading) {
        for asker in self.0 {
            let _ = asker.send(reading.clone());
        }
    }
}

impl Readings {
    /// Of these configs.
    #[must_use]
    pub fn new(configs: &[String]) -> Self {
        Self(configs.iter().map(|config| (config.clone(), Slot::default())).collect())
    }

    /// Asks for a reading; none of a config that is not followed here.
    #[must_use]
    pub fn ask(&self, config: &str) -> Option<oneshot::Receiver<Reading>> {
        let slot = self.0.get(config)?;
        let (asker, reading) = oneshot::channel();
        let mut state = slot.state();
        // Who gave up waiting, while no reading came, is forgotten.
        state.askers.retain(|asker| !asker.is_closed());
        state.askers.push(asker);
        drop(state);
        slot.asked.notify_one();
        Some(reading)
    }

    /// Until somebody asks.
    pub async fn asked(&self, config: &str) {
        let Some(slot) = self.0.get(config) else { return std::future::pending().await };
        while slot.state().askers.iter().all(oneshot::Sender::is_closed) {
            slot.asked.notified().await;
        }
    }

    /// A reading begins: those who asked before it wait for this one.
    #[must_use]
    pub fn begin(&self, config: &str) -> Askers {
        Askers(self.0.get(config).map(|slot| std::mem::take(&mut slot.state().askers)).unwrap_or_default())
    }

    /// The head says that the pod is to show this.
    pub fn want(&self, config: &str, wanted: Option<Proposal>) {
        if let Some(slot) = self.0.get(config) {
            slot.state().wanted = wanted;
        }
    }

    /// What the pod is to show, as far as is known.
    #[must_use]
    pub fn wanted(&self, config: &str) -> Option<Proposal> {
        self.0.get(config)?.state().wanted.clone()
    }
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reading_is_for_those_who_asked_before_it_began() {
        let readings = Readings::new(&["web".to_owned()]);
        assert!(readings.ask("db").is_none());
        let early = readings.ask("web").unwrap();
        readings.asked("web").await;
        let askers = readings.begin("web");
        let mut late = readings.ask("web").unwrap();
        askers.tell(&Err("no".into()));
        assert_eq!(early.await.unwrap(), Err("no".into()));
        assert!(late.try_recv().is_err(), "it waits for the next reading");
        readings.asked("web").await;
        drop(late);
        let nobody = tokio::time::timeout(std::time::Duration::from_millis(20), readings.asked("web"));
        assert!(nobody.await.is_err(), "nobody waits any more");
    }
}
