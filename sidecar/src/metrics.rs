//! What Prometheus reads.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Seconds from a millisecond to a minute.
const SECONDS: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0];

/// A config's label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Config {
    config: String,
}

/// An error's label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Category {
    category: String,
}

/// The sidecar's metrics.
pub struct Metrics {
    registry: Registry,
    /// From the operator's decision to the switched files, by both clocks.
    pub propagation: Histogram,
    /// Sets shown.
    pub publications: Counter,
    /// Watches begun after the first.
    pub reconnects: Counter,
    revision: Family<Config, Gauge>,
    stale: Family<Config, Gauge>,
    age: Family<Config, Gauge<f64, AtomicU64>>,
    errors: Family<Category, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let (propagation, publications, reconnects) = (Histogram::new(SECONDS), Counter::default(), Counter::default());
        let (revision, errors) = (Family::default(), Family::default());
        let (stale, age) = (Family::default(), Family::default());
        let mut registry = Registry::with_prefix("quorate_sidecar");
        let help = "From the operator's decision to the switched files, by both clocks";
        registry.register_with_unit("propagation", help, Unit::Seconds, Histogram::clone(&propagation));
        registry.register("publications", "Sets shown", Counter::clone(&publications));
        registry.register("watch_reconnects", "Watches begun after the first", Counter::clone(&reconnects));
        registry.register("revision", "The revision shown", Family::clone(&revision));
        let help = "Whether the last quorum read of the head is older than spec.freshness.maxAge";
        registry.register("stale", help, Family::clone(&stale));
        let help = "Since the sending of the last quorum read of the head that succeeded";
        registry.register_with_unit("age", help, Unit::Seconds, Family::clone(&age));
        registry.register("errors", "What went wrong, by category", Family::clone(&errors));
        Self { registry, propagation, publications, reconnects, revision, stale, age, errors }
    }
}

impl Metrics {
    /// Counts an error.
    pub fn error(&self, category: &str) {
        self.errors.get_or_create(&Category { category: category.to_owned() }).inc();
    }

    /// The revision shown.
    pub fn shown(&self, config: &str, revision: i64) {
        self.revision.get_or_create(&Config { config: config.to_owned() }).set(revision);
    }

    /// How old the knowledge of a config is.
    pub fn aged(&self, config: &str, age: Duration, stale: bool) {
        let config = Config { config: config.to_owned() };
        self.age.get_or_create(&config).set(age.as_secs_f64());
        self.stale.get_or_create(&config).set(i64::from(stale));
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
