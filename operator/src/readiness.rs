//! How many configs are ready, and how many are not, for which reason. Prometheus sees them as gauges.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};
use quorate_crds::DistributedConfig;

/// What a config's condition Ready says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
pub struct Readiness {
    ready: String,
    reason: String,
}

impl Readiness {
    /// As the status has it.
    #[must_use]
    pub fn of(config: &DistributedConfig) -> Self {
        let mut conditions = config.status.iter().flat_map(|status| &status.conditions);
        let said = conditions.find(|condition| condition.type_ == "Ready");
        let (ready, reason) = said.map_or(("Unknown", "NotSeenYet"), |said| (&said.status, &said.reason));
        Self { ready: ready.to_owned(), reason: reason.to_owned() }
    }
}

/// How many there are of each. All are replaced at once, so that those that no config has any more are not told on.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Mutex<BTreeMap<Readiness, i64>>>);

impl Counts {
    /// Counts anew.
    pub fn set(&self, all: impl Iterator<Item = Readiness>) {
        let mut counts = BTreeMap::new();
        all.for_each(|readiness| *counts.entry(readiness).or_default() += 1);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }
}

impl Collector for Counts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "DistributedConfigs, by status and reason of their condition Ready";
        let mut family = encoder.encode_descriptor("configs", help, None, MetricType::Gauge)?;
        for (readiness, count) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            ConstGauge::new(*count).encode(family.encode_family(readiness)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use serde_json::{Value, json};

    fn config(status: &Value) -> DistributedConfig {
        serde_json::from_value(json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig", "metadata": {"name": "web"},
            "spec": {"layers": [], "files": []}, "status": status,
        }))
        .unwrap()
    }

    fn ready(status: &str, reason: &str) -> DistributedConfig {
        let at = "2026-01-01T00:00:00Z";
        config(&json!({"conditions": [
            {"type": "AccessGranted", "status": "True", "reason": "Granted", "message": "", "lastTransitionTime": at},
            {"type": "Ready", "status": status, "reason": reason, "message": "", "lastTransitionTime": at},
        ]}))
    }

    fn told(metrics: &Metrics) -> Vec<String> {
        let text = metrics.text();
        text.lines().filter(|line| line.starts_with("quorate_operator_configs{")).map(str::to_owned).collect()
    }

    #[test]
    fn configs_are_counted_by_what_ready_says_and_why_and_only_those_that_are_so_now() {
        let metrics = Metrics::default();
        let broken = ready("False", "SourceMissing");
        let all = [ready("True", "Published"), broken, ready("True", "Published"), config(&Value::Null)];
        metrics.configs.set(all.iter().map(Readiness::of));
        assert_eq!(
            told(&metrics),
            [
                r#"quorate_operator_configs{ready="False",reason="SourceMissing"} 1"#,
                r#"quorate_operator_configs{ready="True",reason="Published"} 2"#,
                r#"quorate_operator_configs{ready="Unknown",reason="NotSeenYet"} 1"#,
            ]
        );
        metrics.configs.set([ready("True", "Published")].iter().map(Readiness::of));
        assert_eq!(told(&metrics), [r#"quorate_operator_configs{ready="True",reason="Published"} 1"#]);
    }
}
