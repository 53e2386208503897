//! What `/livez` and `/readyz` say, and how old each config's knowledge is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use quorate_coordination::Clock;
use quorate_crds::Freshness;
use tokio::time::Instant;

use crate::freshness::Knowledge;

/// A follow loop that has not turned for this long is stuck.
const STUCK: Duration = Duration::from_secs(120);

struct Follower {
    turned: Instant,
    revision: Option<i64>,
    problem: Option<String>,
    knowledge: Knowledge,
}

/// See the module.
pub struct Health {
    clock: Arc<dyn Clock>,
    followers: Mutex<BTreeMap<String, Follower>>,
}

impl Health {
    /// Of these configs.
    #[must_use]
    pub fn new(configs: &[String], clock: Arc<dyn Clock>) -> Self {
        let knowledge = Knowledge::new(clock.now(), Freshness::default());
        let follower =
            || Follower { turned: Instant::now(), revision: None, problem: None, knowledge: knowledge.clone() };
        let followers = configs.iter().map(|config| (config.clone(), follower())).collect();
        Self { clock, followers: Mutex::new(followers) }
    }

    /// The config's loop turned.
    pub fn turn(&self, config: &str) {
        self.with(config, |follower| follower.turned = Instant::now());
    }

    /// The config's files are this revision's.
    pub fn shown(&self, config: &str, revision: i64) {
        self.with(config, |follower| follower.revision = Some(revision));
    }

    /// What keeps the config from being up to date; `None` when nothing does. Returns whether that is news.
    pub fn problem(&self, config: &str, problem: Option<String>) -> bool {
        let news = self.with(config, |follower| {
            let news = follower.problem != problem;
            follower.problem = problem;
            news
        });
        news.unwrap_or_default()
    }

    /// A quorum read of the config's head, sent at `sent`, succeeded.
    pub fn confirmed(&self, config: &str, sent: Duration) {
        self.with(config, |follower| follower.knowledge.confirm(sent));
    }

    /// The head says how fresh the config must be.
    pub fn demand(&self, config: &str, freshness: Freshness) {
        self.with(config, |follower| follower.knowledge.demand(freshness));
    }

    /// The time by which knowledge ages.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.clock.now()
    }

    /// How often the config is to be confirmed.
    #[must_use]
    pub fn interval(&self, config: &str) -> Duration {
        self.with(config, |follower| follower.knowledge.interval()).unwrap_or(STUCK)
    }

    /// How long until the config is stale, or what to say of it when it is.
    ///
    /// # Errors
    /// The complaint.
    pub fn fresh(&self, config: &str) -> Result<Duration, String> {
        let now = self.now();
        let left = |follower: &mut Follower| follower.knowledge.left(now).ok_or_else(|| follower.knowledge.complaint());
        self.with(config, left).unwrap_or(Ok(STUCK))
    }

    /// The config's age.
    #[must_use]
    pub fn age(&self, config: &str) -> Option<Duration> {
        let now = self.now();
        self.with(config, |follower| follower.knowledge.age(now))
    }

    /// What keeps the config from being up to date.
    #[must_use]
    pub fn trouble(&self, config: &str) -> Option<String> {
        self.with(config, |follower| follower.problem.clone()).flatten()
    }

    /// Each config's age, and whether it is stale.
    #[must_use]
    pub fn ages(&self) -> Vec<(String, Duration, bool)> {
        let now = self.now();
        let age = |(config, follower): (&String, &Follower)| {
            (config.clone(), follower.knowledge.age(now), follower.knowledge.left(now).is_none())
        };
        self.lock().iter().map(age).collect()
    }

    /// The configs whose loops are stuck. An unreachable API server does not make them so.
    #[must_use]
    pub fn stuck(&self) -> Vec<String> {
        self.lock().iter().filter(|(_, f)| f.turned.elapsed() > STUCK).map(|(config, _)| config.clone()).collect()
    }

    /// The configs that have no files yet, or too old ones, and why.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let now = self.now();
        let say = |(config, follower): (&String, &Follower)| {
            let why = match (follower.revision, &follower.problem) {
                (None, Some(problem)) => problem.clone(),
                (None, None) => "the first reading of its head has not ended".into(),
                (Some(_), _) => follower.knowledge.unready(now)?,
            };
            Some(format!("{config}: {why}"))
        };
        self.lock().iter().filter_map(say).collect()
    }

    fn with<T>(&self, config: &str, change: impl FnOnce(&mut Follower) -> T) -> Option<T> {
        self.lock().get_mut(config).map(change)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Follower>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
