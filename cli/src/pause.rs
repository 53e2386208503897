//! Whether a pause holds anything: the operator looks at one only where pods are asked first.

use kube::ResourceExt;
use quorate_crds::{DistributedConfig, Orders, Strategy};
use serde::{Serialize, Serializer};

/// What the annotation quorate.io/paused does to a config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// It is not there.
    Off,
    /// Rollouts are held.
    Holds,
    /// It is there and holds nothing: with Immediate, there is no moment to hold a revision at.
    InVain,
}

impl Pause {
    /// Of a config.
    #[must_use]
    pub fn of(config: &DistributedConfig) -> Self {
        match (Orders::of(config.annotations()).paused, possible(config)) {
            (false, _) => Self::Off,
            (true, true) => Self::Holds,
            (true, false) => Self::InVain,
        }
    }
}

/// Whether a pause would hold the config's rollouts.
#[must_use]
pub fn possible(config: &DistributedConfig) -> bool {
    config.spec.rollout.as_ref().is_some_and(|rollout| rollout.strategy != Strategy::Immediate)
}

/// For scripts: whether rollouts are held.
impl Serialize for Pause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(*self == Self::Holds)
    }
}
