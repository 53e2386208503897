//! What `/livez` and `/readyz` say.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// A follow loop that has not turned for this long is stuck.
const STUCK: Duration = Duration::from_secs(120);

struct Follower {
    turned: Instant,
    revision: Option<i64>,
    problem: Option<String>,
}

/// See the module.
pub struct Health(Mutex<BTreeMap<String, Follower>>);

impl Health {
    /// Of these configs.
    #[must_use]
    pub fn new(configs: &[String]) -> Self {
        let follower = || Follower { turned: Instant::now(), revision: None, problem: None };
        Self(Mutex::new(configs.iter().map(|config| (config.clone(), follower())).collect()))
    }

    /// The config's loop turned.
    pub fn turn(&self, config: &str) {
        if let Some(follower) = self.lock().get_mut(config) {
            follower.turned = Instant::now();
        }
    }

    /// The config's files are this revision's.
    pub fn shown(&self, config: &str, revision: i64) {
        if let Some(follower) = self.lock().get_mut(config) {
            follower.revision = Some(revision);
        }
    }

    /// What keeps the config from being up to date; `None` when nothing does. Returns whether that is news.
    pub fn problem(&self, config: &str, problem: Option<String>) -> bool {
        self.lock().get_mut(config).is_some_and(|follower| {
            let news = follower.problem != problem;
            follower.problem = problem;
            news
        })
    }

    /// The configs whose loops are stuck. An unreachable API server does not make them so.
    #[must_use]
    pub fn stuck(&self) -> Vec<String> {
        self.lock().iter().filter(|(_, f)| f.turned.elapsed() > STUCK).map(|(config, _)| config.clone()).collect()
    }

    /// The configs that have no files yet, and why.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let say = |(config, follower): (&String, &Follower)| {
            let why = follower.problem.as_deref().unwrap_or("the first reading of its head has not ended");
            follower.revision.is_none().then(|| format!("{config}: {why}"))
        };
        self.lock().iter().filter_map(say).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Follower>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
