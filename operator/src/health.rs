//! Whether the operator is alive and ready, and if not, what is missing.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// A loop that has not turned for this long is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// See the module.
pub struct Health {
    watches: Mutex<BTreeMap<String, Option<String>>>,
    turned: Mutex<Instant>,
}

impl Health {
    /// Not ready until each of these watches is [`Health::well`].
    #[must_use]
    pub fn new(watches: impl IntoIterator<Item = String>) -> Self {
        let watches = watches.into_iter().map(|name| (name, Some("its first listing has not ended".into()))).collect();
        Self { watches: Mutex::new(watches), turned: Mutex::new(Instant::now()) }
    }

    /// The watch is complete and up. Returns whether it was not before.
    pub fn well(&self, watch: &str) -> bool {
        self.set(watch, None)
    }

    /// The watch is down. Returns whether that is news.
    pub fn unwell(&self, watch: &str, why: &str) -> bool {
        self.set(watch, Some(why.to_owned()))
    }

    fn set(&self, watch: &str, problem: Option<String>) -> bool {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.insert(watch.to_owned(), problem.clone()) != Some(problem)
    }

    /// The main loop turned.
    pub fn turn(&self) {
        *self.turned.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether the main loop turns. An API server that is away does not matter here.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.turned.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < STUCK
    }

    /// One line for each thing that is missing; none when ready.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.iter().filter_map(|(name, problem)| Some(format!("{name}: {}", problem.as_ref()?))).collect()
    }
}
