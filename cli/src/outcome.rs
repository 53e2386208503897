//! How a config stands, in one word that an exit code can say.

use quorate_crds::{DistributedConfig, DistributedConfigStatus};
use serde::Serialize;

use crate::exit::Exit;

/// How a config stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// What was asked for is published, and no rollout is under way.
    Ready,
    /// The operator is at it, a rollout is under way, or something is waited for.
    InProgress,
    /// Refused by the pods, stalled, or not ready for a reason that does not pass by itself.
    Failed,
}

impl Outcome {
    /// Of a config, by its status alone.
    #[must_use]
    pub fn of(config: &DistributedConfig) -> Self {
        let Some(status) = &config.status else { return Self::InProgress };
        if status.observed_generation < config.metadata.generation || status.candidate.is_some() {
            return Self::InProgress;
        }
        if holds(status, "Stalled") || matches!(status.phase.as_deref(), Some("RolledBack" | "Failed")) {
            return Self::Failed;
        }
        match status.phase.as_deref() {
            Some("Progressing" | "Paused") => Self::InProgress,
            _ if holds(status, "Ready") => Self::Ready,
            _ if holds(status, "Reconciling") => Self::InProgress,
            // The operator has not judged it yet.
            _ if !status.conditions.iter().any(|condition| condition.type_ == "Ready") => Self::InProgress,
            _ => Self::Failed,
        }
    }

    /// As an exit code.
    #[must_use]
    pub const fn exit(self) -> Exit {
        match self {
            Self::Ready => Exit::Ok,
            Self::InProgress => Exit::InProgress,
            Self::Failed => Exit::Failed,
        }
    }

    /// The exit code of several: what failed is told before what is under way.
    #[must_use]
    pub fn exit_of_all(all: impl IntoIterator<Item = Self>) -> Exit {
        let mut exit = Exit::Ok;
        for outcome in all {
            match outcome {
                Self::Failed => return Exit::Failed,
                Self::InProgress => exit = Exit::InProgress,
                Self::Ready => {}
            }
        }
        exit
    }
}

/// Whether a condition is true.
#[must_use]
pub fn holds(status: &DistributedConfigStatus, type_: &str) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{candidate, config, config_with};

    #[test]
    fn the_table() {
        let of = |change: &dyn Fn(&mut DistributedConfig)| Outcome::of(&config_with(change));
        let status = |change: fn(&mut DistributedConfigStatus)| of(&|c| change(c.status.as_mut().unwrap()));
        let set = |s: &mut DistributedConfigStatus, type_: &str, value: &str| {
            s.conditions.iter_mut().find(|c| c.type_ == type_).unwrap().status = value.into();
        };
        assert_eq!(Outcome::of(&config()), Outcome::Ready);
        assert_eq!(of(&|c| c.status = None), Outcome::InProgress);
        assert_eq!(of(&|c| c.metadata.generation = Some(99)), Outcome::InProgress);
        assert_eq!(status(|s| s.candidate = Some(candidate())), Outcome::InProgress);
        assert_eq!(status(|s| s.phase = Some("Paused".into())), Outcome::InProgress);
        assert_eq!(status(|s| s.conditions.clear()), Outcome::InProgress);
        // Even if what is published now is what stays.
        assert_eq!(status(|s| s.phase = Some("RolledBack".into())), Outcome::Failed);
        let not_ready = |type_: &'static str| {
            of(&|c| {
                let s = c.status.as_mut().unwrap();
                set(s, "Ready", "False");
                set(s, type_, "True");
            })
        };
        assert_eq!(not_ready("Reconciling"), Outcome::InProgress);
        assert_eq!(not_ready("Stalled"), Outcome::Failed);
        assert_eq!(of(&|c| set(c.status.as_mut().unwrap(), "Ready", "False")), Outcome::Failed);
    }

    #[test]
    fn of_several_the_worst_is_told() {
        use Outcome::{Failed, InProgress, Ready};
        assert_eq!(Outcome::exit_of_all([]), Exit::Ok);
        assert_eq!(Outcome::exit_of_all([Ready, InProgress, Ready]), Exit::InProgress);
        assert_eq!(Outcome::exit_of_all([InProgress, Failed, Ready]), Exit::Failed);
    }
}
