//! How a new revision reaches the pods: `spec.rollout`, `spec.freshness`, and the commands that
//! people give by annotation.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    names,
    quantity::{Amount, Span},
};

/// How a new revision reaches the pods. What they refuse is taken back, remembered, and not proposed
/// again until the layers change or somebody asks for it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.quorum) || self.strategy == 'Quorum'").message("quorum goes with strategy Quorum"))]
#[x_kube(validation = Rule::new("has(self.steps) == (self.strategy == 'Canary')").message("steps go with strategy Canary, which needs at least one"))]
#[x_kube(validation = Rule::new("!has(self.gates) || self.strategy == 'Canary'").message("gates go with strategy Canary"))]
#[x_kube(validation = Rule::new("!has(self.maxRejected) || self.strategy != 'Quorum'").message("maxRejected goes with Immediate and Canary: in a Quorum the votes decide"))]
pub struct Rollout {
    /// Immediate: every pod reads a new revision at once; too many refusals bring the last good
    /// content back. Quorum: the pods check a candidate and vote; nobody reads it before the
    /// quorum accepts. Canary: chosen pods read it first, in steps.
    #[serde(default)]
    pub strategy: Strategy,

    /// Quorum: how many pods must accept: Majority (the default), All, a percentage such as "75%",
    /// or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<Quorum>,

    /// Canary: how many pods read the candidate in each step, rising. After the last step, all do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub steps: Vec<Step>,

    /// Canary: what must hold in every step besides the pods' own word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub gates: Vec<Gate>,

    /// How many pods may refuse: a number, or a percentage of those that read this config, rounded
    /// down. One more takes the revision back. By default 20% with Immediate, 0 with Canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rejected: Option<Amount>,

    /// How long the pods have: with Immediate, refusals count for so long after the publication; a
    /// Quorum must be reached within it; and a step of a Canary must be done so long after its
    /// bake time, or the candidate is given up. 10m by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
}

impl Rollout {
    /// The deadline, or its default.
    #[must_use]
    pub fn deadline(&self) -> Span {
        self.deadline.unwrap_or(Span::of_seconds(600))
    }

    /// How many may refuse, or the strategy's default.
    #[must_use]
    pub fn max_rejected(&self) -> Amount {
        self.max_rejected.unwrap_or(match self.strategy {
            Strategy::Immediate => Amount::Percent(20),
            Strategy::Quorum | Strategy::Canary => Amount::Count(0),
        })
    }

    /// What a schema cannot say. The pods are needed to count by.
    #[must_use]
    pub fn problems(&self, has_selector: bool) -> Vec<String> {
        let mut problems = Vec::new();
        let counted = self.strategy != Strategy::Immediate;
        if counted && !has_selector {
            problems.push(format!("spec.rollout.strategy {} needs spec.selector: whose pods count?", self.strategy));
        }
        if self.strategy == Strategy::Canary && self.steps.is_empty() {
            problems.push("spec.rollout.steps: a Canary needs at least one step".into());
        }
        for (index, step) in self.steps.iter().enumerate() {
            let before = index.checked_sub(1).and_then(|before| self.steps.get(before));
            let rises = match (before.map(|before| before.pods), step.pods) {
                (Some(Amount::Percent(a)), Amount::Percent(b)) | (Some(Amount::Count(a)), Amount::Count(b)) => a < b,
                _ => true,
            };
            if !rises {
                let number = index + 1;
                problems
                    .push(format!("spec.rollout.steps[{index}].pods: step {number} must be more than the one before"));
            }
            if matches!(step.pods, Amount::Count(0) | Amount::Percent(0)) {
                problems.push(format!("spec.rollout.steps[{index}].pods: a step of no pods tries nothing"));
            }
        }
        for (index, gate) in self.gates.iter().enumerate() {
            problems.extend(gate.problem().map(|problem| format!("spec.rollout.gates[{index}]: {problem}")));
        }
        problems
    }
}

/// How a new revision reaches the pods.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Strategy {
    /// All at once.
    #[default]
    Immediate,
    /// After a vote.
    Quorum,
    /// In steps.
    Canary,
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How many must accept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quorum {
    /// More than half.
    #[default]
    Majority,
    /// Every one.
    All,
    /// So many, or such a share, rounded up; at least one.
    Of(Amount),
}

impl Quorum {
    /// How many of `total` pods must accept.
    #[must_use]
    pub fn needed(self, total: usize) -> usize {
        match self {
            Self::Majority => total / 2 + 1,
            Self::All => total.max(1),
            Self::Of(amount) => amount.at_least(total).max(1),
        }
    }
}

impl fmt::Display for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Majority => f.write_str("Majority"),
            Self::All => f.write_str("All"),
            Self::Of(amount) => amount.fmt(f),
        }
    }
}

impl Serialize for Quorum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Majority | Self::All => serializer.collect_str(self),
            Self::Of(amount) => amount.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Quorum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u32),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(count) => Ok(Self::Of(Amount::Count(count))),
            Written::Text(text) => match text.as_str() {
                "Majority" => Ok(Self::Majority),
                "All" => Ok(Self::All),
                other => other.parse().map(Self::Of).map_err(|error| {
                    de::Error::custom(format!("quorum: {error}; Majority and All are the other choices"))
                }),
            },
        }
    }
}

impl JsonSchema for Quorum {
    fn schema_name() -> Cow<'static, str> {
        "Quorum".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": "^(Majority|All|[1-9][0-9]{0,5}|[1-9][0-9]?%|100%)$",
            "minimum": 1,
            "maximum": 999_999,
        })
    }
}

/// One step of a Canary.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// How many pods read the candidate: a number, or a percentage, rounded up.
    pub pods: Amount,

    /// How long the candidate is tried after all of them have it, before the next step. 0s by
    /// default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bake: Option<Span>,
}

/// What must hold in every step of a Canary.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.podsReady), has(self.http), has(self.prometheus)].filter(x, x).size() == 1").message("a gate has exactly one of podsReady, http, prometheus"))]
pub struct Gate {
    /// What messages call this gate; unique in the config.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// The chosen pods must be ready at the end of each step's bake time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods_ready: Option<PodsReady>,

    /// An address that must answer 2xx. It is asked by the operator. Redirects are not followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpGate>,

    /// A query of Prometheus whose every value must be within bounds. No data is a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusGate>,

    /// How often http or prometheus is asked while a step bakes; 10s by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,

    /// How many answers in a row may be failures before the candidate is given up; 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub failure_limit: Option<i32>,
}

impl Gate {
    /// How often it is asked.
    #[must_use]
    pub fn interval(&self) -> Span {
        self.interval.unwrap_or(Span::of_seconds(10)).max(Span::of_seconds(1))
    }

    fn problem(&self) -> Option<String> {
        let url = |url: &str| {
            let good = url
                .parse::<http::Uri>()
                .is_ok_and(|uri| uri.authority().is_some() && matches!(uri.scheme_str(), Some("http" | "https")));
            (!good).then(|| format!("url {url:?} is no http:// or https:// address"))
        };
        match (&self.pods_ready, &self.http, &self.prometheus) {
            (Some(_), None, None) => None,
            (None, Some(http), None) => url(&http.url),
            (None, None, Some(query)) => url(&query.url).or_else(|| query.problem()),
            _ => Some("exactly one of podsReady, http, prometheus is needed".into()),
        }
    }
}

/// The chosen pods must be ready.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodsReady {}

/// An address that must answer 2xx.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpGate {
    /// http:// or https://, as the operator reaches it.
    #[schemars(length(min = 1, max = 2048), regex(pattern = r"^https?://"))]
    pub url: String,
}

/// A query of Prometheus.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.max) || has(self.min)").message("min or max is needed"))]
pub struct PrometheusGate {
    /// Prometheus's address, without /api/v1/query.
    #[schemars(length(min = 1, max = 2048), regex(pattern = r"^https?://"))]
    pub url: String,

    /// The query, which must give a scalar or a vector.
    #[schemars(length(min = 1, max = 4096))]
    pub query: String,

    /// No value may be below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,

    /// No value may be above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

impl PrometheusGate {
    fn problem(&self) -> Option<String> {
        match (self.min, self.max) {
            (None, None) => Some("min or max is needed".into()),
            (Some(min), Some(max)) if min > max => Some(format!("min {min} is above max {max}")),
            _ => None,
        }
    }
}

/// How old a pod's knowledge of its head may become.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Freshness {
    /// How long ago the pod's last confirmed reading of the head may be; 5m by default, at least
    /// 3s.
    // A part of three seconds or more makes the whole so. CEL's durations are not known everywhere.
    #[serde(default = "five_minutes")]
    #[x_kube(validation = Rule::new("self.matches('[3-9]s|[1-9][0-9]+s|[1-9][0-9]*[mh]')").message("must be at least 3s: pods confirm what they know three times within it"))]
    pub max_age: Span,

    /// What a pod beyond it does besides telling so: Keep its files and serve on, or be Unready.
    #[serde(default)]
    pub on_stale: OnStale,
}

impl Freshness {
    /// The shortest `maxAge`: a reading each second is as often as pods ask.
    pub const SHORTEST: Span = Span::of_seconds(3);
}

const fn five_minutes() -> Span {
    Span::of_seconds(300)
}

impl Default for Freshness {
    fn default() -> Self {
        Self { max_age: five_minutes(), on_stale: OnStale::Keep }
    }
}

/// What a stale pod does.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnStale {
    /// Serves on with what it has.
    #[default]
    Keep,
    /// Fails the sidecar's readiness.
    Unready,
}

/// What people ask for by annotation. Each command but `paused` names the revision it is meant for,
/// so that one which is left behind does nothing to later ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Hold the rollout where it is.
    pub paused: bool,
    /// Skip the rest of this candidate's steps.
    pub promote: Option<i64>,
    /// Publish this candidate, whatever the pods say.
    pub force_promote: Option<i64>,
    /// Give this candidate up.
    pub abort: Option<i64>,
    /// Propose the content of this refused revision again.
    pub retry: Option<i64>,
}

impl Orders {
    /// Of a config's annotations. What is malformed asks for nothing.
    #[must_use]
    pub fn of(annotations: &BTreeMap<String, String>) -> Self {
        let revision = |name: &str| annotations.get(name).and_then(|text| text.trim().parse().ok());
        Self {
            paused: annotations.get(names::PAUSED).is_some_and(|text| text.trim() == "true"),
            promote: revision(names::PROMOTE),
            force_promote: revision(names::FORCE_PROMOTE),
            abort: revision(names::ABORT),
            retry: revision(names::RETRY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(yaml: &str) -> Rollout {
        serde_yaml::from_str(yaml).unwrap()
    }

    #[test]
    fn a_quorum_is_more_than_half_all_or_a_share() {
        let needed =
            |text: &str, total| rollout(&format!("{{strategy: Quorum, quorum: {text}}}")).quorum.unwrap().needed(total);
        assert_eq!([1, 2, 3, 4, 5].map(|total| needed("Majority", total)), [1, 2, 2, 3, 3]);
        assert_eq!((needed("All", 4), needed("All", 0), needed("75%", 5), needed("3", 2)), (4, 1, 4, 3));
        assert!(serde_yaml::from_str::<Rollout>("{strategy: Quorum, quorum: most}").is_err());
    }

    #[test]
    fn what_cannot_work_is_told() {
        let canary = |rest: &str| rollout(&format!("{{strategy: Canary, {rest}}}")).problems(true).join("; ");
        assert_eq!(canary("steps: [{pods: 1}, {pods: 10%}, {pods: 50%}]"), "");
        assert!(canary("steps: [{pods: 50%}, {pods: 50%}]").contains("steps[1].pods: step 2 must be more"));
        assert!(canary("steps: [{pods: 0}]").contains("tries nothing"));
        assert!(canary("steps: []").contains("at least one step"));
        assert!(canary("steps: [{pods: 1}], gates: [{name: a, http: {url: 'ftp://x'}}]").contains("gates[0]: url"));
        assert!(canary("steps: [{pods: 1}], gates: [{name: a}]").contains("exactly one"));
        assert!(rollout("{strategy: Quorum}").problems(false)[0].contains("spec.selector"));
    }
}
