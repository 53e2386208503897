//! What Prometheus reads.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::readiness;

/// Seconds from a millisecond to a minute.
const SECONDS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0];

/// An error's label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Category {
    category: String,
}

/// A rollout's label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    outcome: &'static str,
}

/// The operator's metrics.
pub struct Metrics {
    registry: Registry,
    /// From the event that told of a change to the head that answers it.
    pub propagation: Histogram,
    /// One run of one config.
    pub reconcile: Histogram,
    /// Revisions written.
    pub publications: Counter,
    /// Pods that were told to look for a head.
    pub nudges: Counter,
    /// Configs that exist, by what their condition Ready says.
    pub configs: readiness::Counts,
    /// Claims on locks that were taken back, as their process has ended.
    pub locks_passed_on: Counter,
    /// 1 if this operator leads.
    pub leads: Gauge,
    errors: Family<Category, Counter>,
    rollouts: Family<Ended, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("quorate_operator");
        let metrics = Self {
            propagation: Histogram::new(SECONDS),
            reconcile: Histogram::new(SECONDS),
            publications: Counter::default(),
            nudges: Counter::default(),
            configs: readiness::Counts::default(),
            locks_passed_on: Counter::default(),
            leads: Gauge::default(),
            errors: Family::default(),
            rollouts: Family::default(),
            registry: Registry::default(),
        };
        let seconds = || Unit::Seconds;
        let m = &metrics;
        registry.register_with_unit(
            "propagation",
            "From the watch event of a change to the head that answers it",
            seconds(),
            m.propagation.clone(),
        );
        registry.register_with_unit("reconcile_duration", "One run of one config", seconds(), m.reconcile.clone());
        registry.register("publications", "Revisions written", m.publications.clone());
        registry.register("nudges", "Pods without a sidecar that were told to look for a head", m.nudges.clone());
        registry.register_collector(Box::new(m.configs.clone()));
        registry.register(
            "locks_passed_on",
            "Claims on locks that were taken back, as their process has ended",
            m.locks_passed_on.clone(),
        );
        registry.register("leads", "1 if this operator leads, and so writes", m.leads.clone());
        registry.register("errors", "What went wrong, by category", m.errors.clone());
        registry.register("rollouts", "Rollouts that ended, by outcome", m.rollouts.clone());
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// Counts an error.
    pub fn error(&self, category: &str) {
        self.errors.get_or_create(&Category { category: category.to_owned() }).inc();
    }

    /// Counts a rollout that ended: accepted, refused or superseded.
    pub fn rollout(&self, outcome: &'static str) {
        self.rollouts.get_or_create(&Ended { outcome }).inc();
    }

    /// In the `OpenMetrics` text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
