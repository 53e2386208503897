//! What a head says beside its content: the rollout under way, what was refused, how fresh pods
//! must be. It changes without a new revision, and operator and sidecars judge it by the same code.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Freshness;

/// The content that is proposed. A vote names all three, so that it counts for nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proposal {
    /// The candidate Secret's uid.
    pub uid: String,
    /// The revision it will be. Never used for other content, even if it is refused.
    pub revision: i64,
    /// Its content's hash.
    pub hash: String,
}

/// What the pods are asked to do about a proposal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Ask {
    /// Quorum: fetch it, verify it, check it, say what came of it; do not show it.
    Vote,
    /// Canary: those who are chosen show it.
    Try {
        /// The step, from 0.
        step: usize,
        /// Pods whose [`rank`] is at most this are chosen.
        threshold: u64,
        /// Pods whose ConfigReplica was created later are not: they were born after the step.
        born_by: Timestamp,
    },
}

/// A rollout under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instruction {
    /// What is proposed.
    pub proposal: Proposal,
    /// What is asked.
    #[serde(flatten)]
    pub ask: Ask,
    /// Identifies the spec.rollout it runs under: another one starts another rollout.
    pub plan: String,
    /// When the step or the vote began, or was resumed.
    pub since: Timestamp,
    /// Whether it is held by a person.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

impl Instruction {
    /// Whether the pod, whose ConfigReplica was created at `born`, shows the proposal.
    #[must_use]
    pub fn chooses(&self, pod_uid: &str, born: Timestamp) -> bool {
        match self.ask {
            Ask::Vote => false,
            Ask::Try { threshold, born_by, .. } => rank(&self.proposal.uid, pod_uid) <= threshold && born <= born_by,
        }
    }
}

/// A pod's place in the order in which a candidate is tried: evenly spread, the same for everybody
/// who computes it, and another for each candidate, so that it is not always the same pods' turn.
#[must_use]
pub fn rank(candidate_uid: &str, pod_uid: &str) -> u64 {
    let digest = Sha256::digest(format!("{candidate_uid}\n{pod_uid}"));
    digest.iter().take(8).fold(0, |rank, byte| rank << 8 | u64::from(*byte))
}

/// Content that was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// The revision it was, or would have been.
    pub revision: i64,
    /// Its content's hash: the same content is not proposed again by itself.
    pub hash: String,
    /// Why, in words.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// All that a head says beside its content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// The rollout under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Instruction>,
    /// What was refused last, until the layers give something else or somebody says retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// The last candidate that made way for newer content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded: Option<i64>,
    /// The highest revision that was ever proposed: the next one is above it.
    #[serde(default)]
    pub highest: i64,
}

/// `spec.freshness` as pods read it: seconds, and what then.
#[must_use]
pub fn freshness_text(freshness: &Freshness) -> String {
    // A number and a word: it cannot fail.
    serde_json::to_string(freshness).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_chooses_by_rank_and_leaves_out_who_was_born_later() {
        let instruction = |threshold| Instruction {
            proposal: Proposal { uid: "c".into(), revision: 2, hash: "h".into() },
            ask: Ask::Try { step: 0, threshold, born_by: Timestamp::from_second(10).unwrap() },
            plan: String::new(),
            since: Timestamp::UNIX_EPOCH,
            paused: false,
        };
        let (at, place) = (|s| Timestamp::from_second(s).unwrap(), rank("c", "p"));
        assert!(instruction(place).chooses("p", at(10)) && !instruction(place).chooses("p", at(11)));
        assert!(!instruction(place - 1).chooses("p", at(1)));
        assert_ne!(rank("c", "p"), rank("d", "p"));
    }

    #[test]
    fn a_standing_reads_back_as_it_was_written() {
        let standing = Standing {
            rollout: Some(Instruction {
                proposal: Proposal { uid: "c".into(), revision: 2, hash: "h".into() },
                ask: Ask::Try { step: 1, threshold: u64::MAX, born_by: Timestamp::UNIX_EPOCH },
                plan: "p".into(),
                since: Timestamp::UNIX_EPOCH,
                paused: true,
            }),
            refused: Some(Refused { revision: 1, hash: "g".into(), reason: "no".into(), at: Timestamp::UNIX_EPOCH }),
            superseded: Some(1),
            highest: 2,
        };
        let text = serde_json::to_string(&standing).unwrap();
        assert_eq!(serde_json::from_str::<Standing>(&text).unwrap(), standing, "{text}");
    }
}
