//! Rollouts: whether a proposal is accepted, given up, taken further or waited for, as a pure
//! function of what pods, gates, people and the clock say.
//!
//! [`judge`] looks at a candidate (Quorum, Canary), [`immediate::refused`] at what was published at
//! once. A new strategy is one new file here and one line in [`judge`] and [`begin`].

mod canary;
pub mod facts;
pub mod immediate;
mod quorum;

use jiff::Timestamp;
use quorate_crds::{Ask, Instruction, Proposal, Rollout, Strategy, head::hex};
use sha2::{Digest, Sha256};

pub use facts::{Facts, GateState, Pod, Replica};

/// How far operators' clocks may be apart: a beginning that lies further ahead was set by a clock that
/// has been put back since. Seconds.
const CLOCK_STEP: i64 = 10;

/// What to do about a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Wait,
    /// Ask the pods something else: the next step, or to hold.
    Instruct(Instruction),
    /// The head becomes it.
    Accept,
    /// It is given up: it was refused.
    Refuse(String),
    /// It is given up: it took too long.
    Late(String),
}

/// Where a proposal stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// How many pods are asked.
    pub asked: usize,
    /// How many accepted it, or have it.
    pub accepted: usize,
    /// How many refused it.
    pub rejected: usize,
    /// The step of a Canary, from 0.
    pub step: Option<usize>,
    /// How many steps there are.
    pub steps: Option<usize>,
    /// Since when the step bakes.
    pub baking_since: Option<Timestamp>,
    /// The gates that are to be asked now.
    pub gates_due: Vec<String>,
    /// What is waited for, in words.
    pub message: String,
    /// When time alone may change the verdict: seconds from now.
    pub again: Option<u64>,
}

/// What is known of a proposal, and what to do.
pub type Judgement = (Verdict, Progress);

/// Judges a proposal under way.
#[must_use]
pub fn judge(rollout: &Rollout, instruction: &Instruction, facts: &Facts) -> Judgement {
    let revision = instruction.proposal.revision;
    // While somebody holds it, its time stands still.
    let held = instruction.paused.then(|| Facts { now: instruction.since, ..facts.clone() });
    let seen = held.as_ref().unwrap_or(facts);
    let (verdict, mut progress) = match instruction.ask {
        Ask::Vote => quorum::judge(rollout, instruction, seen),
        Ask::Try { .. } => canary::judge(rollout, instruction, seen),
    };
    if facts.orders.abort == Some(revision) {
        return (Verdict::Refuse("it was given up by a person".into()), progress);
    }
    if facts.orders.force_promote == Some(revision) {
        return (Verdict::Accept, progress);
    }
    // A refusal counts at any time; all else waits while somebody holds it.
    if matches!(verdict, Verdict::Refuse(_)) {
        return (verdict, progress);
    }
    if instruction.since.as_second() > facts.now.as_second() + CLOCK_STEP {
        // The clock went back: what is to last a minute must not last an hour.
        return (Verdict::Instruct(Instruction { since: facts.now, ..instruction.clone() }), progress);
    }
    if facts.orders.paused != instruction.paused {
        // The time it was held does not count.
        let since = if instruction.paused { facts.now } else { instruction.since };
        let next = Instruction { paused: facts.orders.paused, since, ..instruction.clone() };
        return (Verdict::Instruct(next), progress);
    }
    if instruction.paused {
        progress.message = format!("held by a person; {}", progress.message);
        progress.again = None;
        progress.gates_due.clear();
        return (Verdict::Wait, progress);
    }
    (verdict, progress)
}

/// The first thing the pods are asked about a proposal. `None` if the strategy asks nobody.
#[must_use]
pub fn begin(rollout: &Rollout, proposal: Proposal, facts: &Facts) -> Option<Instruction> {
    let ask = match rollout.strategy {
        Strategy::Immediate => return None,
        Strategy::Quorum => Ask::Vote,
        Strategy::Canary => canary::step(rollout, &proposal.uid, 0, None, facts),
    };
    Some(Instruction { proposal, ask, plan: plan(rollout), since: facts.now, paused: facts.orders.paused })
}

/// Identifies the rules a rollout runs under.
#[must_use]
pub fn plan(rollout: &Rollout) -> String {
    // Strings and numbers: it cannot fail.
    let text = serde_json::to_vec(rollout).unwrap_or_default();
    hex(&Sha256::digest(text))[..16].to_owned()
}
