//! Canary: chosen pods show the candidate first, in steps.
//!
//! A step fixes a threshold: the rank of the last pod it chooses among those that report. It is only
//! ever raised, so a pod that has the candidate keeps it; pods born after the step stay on the
//! published revision until the next one. A step is done when the chosen pods have the candidate,
//! its bake time is over and every gate holds. Pods that say they are stale are not asked. Pods that say
//! nothing are waited for a while, and then left out, as long as more than half of the chosen have it:
//! one pod never speaks for all.

use jiff::Timestamp;
use quorate_crds::{Ask, Gate, Instruction, ReplicaState, Rollout, rank};

use super::{
    Facts, Judgement, Pod, Progress, Replica, Verdict,
    facts::{named, reasons, roughly},
};

/// How long a chosen pod may be silent before it is no longer waited for. Seconds.
const SILENCE: u64 = 60;

/// What the pods are asked in a step: never less than before.
pub(super) fn step(rollout: &Rollout, candidate_uid: &str, step: usize, before: Option<&Ask>, facts: &Facts) -> Ask {
    let mut ranks: Vec<u64> = facts.able().map(|(pod, _)| rank(candidate_uid, &pod.uid)).collect();
    ranks.sort_unstable();
    let wanted = rollout.steps.get(step).map_or(ranks.len(), |step| step.pods.at_least(ranks.len()).max(1));
    let last = wanted.min(ranks.len()).checked_sub(1).and_then(|index| ranks.get(index).copied());
    let youngest = facts.reporting().map(|(_, replica)| replica.born).max();
    let (old_threshold, old_birth) = match before {
        Some(Ask::Try { threshold, born_by, .. }) => (*threshold, *born_by),
        _ => (0, Timestamp::UNIX_EPOCH),
    };
    Ask::Try {
        step,
        threshold: last.unwrap_or_default().max(old_threshold),
        born_by: youngest.unwrap_or(old_birth).max(old_birth),
    }
}

/// The chosen pods, by what they say of the candidate.
struct Tally<'a> {
    chosen: usize,
    applied: Vec<&'a Pod>,
    rejected: Vec<&'a Replica>,
    /// Said nothing for so long that they are not waited for.
    silent: usize,
    waiting: Vec<&'a Pod>,
}

fn tally<'a>(instruction: &Instruction, facts: &'a Facts) -> Tally<'a> {
    let mut tally = Tally { chosen: 0, applied: Vec::new(), rejected: Vec::new(), silent: 0, waiting: Vec::new() };
    let out_of_patience = facts.seconds_since(instruction.since) >= SILENCE;
    for (pod, replica) in facts.reporting() {
        let answer = replica.answers(&instruction.proposal).then_some(replica.state);
        if answer == Some(ReplicaState::Rejected) {
            tally.rejected.push(replica);
        }
        if !instruction.chooses(&pod.uid, replica.born) || replica.is_stale() {
            continue;
        }
        tally.chosen += 1;
        match answer {
            Some(ReplicaState::Applied) => tally.applied.push(pod),
            Some(ReplicaState::Rejected) => {}
            _ if out_of_patience => tally.silent += 1,
            _ => tally.waiting.push(pod),
        }
    }
    tally
}

pub(super) fn judge(rollout: &Rollout, instruction: &Instruction, facts: &Facts) -> Judgement {
    let Ask::Try { step: index, .. } = instruction.ask else { return (Verdict::Wait, Progress::default()) };
    let tally = tally(instruction, facts);
    let (asked, accepted, rejected) = (tally.chosen, tally.applied.len(), tally.rejected.len());
    let bake = rollout.steps.get(index).and_then(|step| step.bake).map_or(0, quorate_crds::Span::seconds);
    let limit = bake + rollout.deadline().seconds();
    let left = limit.saturating_sub(facts.seconds_since(instruction.since));
    let has_it = tally.waiting.is_empty() && accepted > 0 && tally.silent * 2 < asked;
    // What began before the step was resumed does not count.
    let began = facts.baking_since.filter(|at| *at >= instruction.since).map_or(facts.now, |at| at.min(facts.now));
    let mut progress = Progress {
        asked,
        accepted,
        rejected,
        step: Some(index),
        steps: Some(rollout.steps.len()),
        baking_since: has_it.then_some(began),
        again: Some(left.max(1)),
        ..Progress::default()
    };
    let place = format!("step {} of {}", index + 1, rollout.steps.len());

    let budget = rollout.max_rejected().at_most(asked);
    if rejected > budget {
        let told = reasons(tally.rejected.iter().copied());
        let reason = format!("{place}: {rejected} of {asked} pods refused it, and {budget} may: {told}");
        return (Verdict::Refuse(reason), progress);
    }
    if facts.orders.promote == Some(instruction.proposal.revision) {
        return (Verdict::Accept, progress);
    }
    if asked == 0 {
        let (verdict, message) = nobody(rollout, instruction, index, left, facts);
        progress.message = format!("{place}: {message}");
        return (verdict, progress);
    }
    let step = StepUnderWay { rollout, instruction, facts, tally, index, bake, left, place };
    if has_it { step.bakes(began, progress) } else { step.waits(progress) }
}

/// Nobody is asked any more: those that were chosen ended or are stale, or nobody has reported yet.
fn nobody(rollout: &Rollout, instruction: &Instruction, index: usize, left: u64, facts: &Facts) -> (Verdict, String) {
    let was_tried = matches!(instruction.ask, Ask::Try { threshold, .. } if threshold > 0);
    if was_tried && left == 0 {
        let reason = format!("no pod that tried it was there to the end, within {}", rollout.deadline());
        return (Verdict::Late(format!("step {} of {}: {reason}", index + 1, rollout.steps.len())), String::new());
    }
    let ask = step(rollout, &instruction.proposal.uid, index, Some(&instruction.ask), facts);
    if facts.able().next().is_some() && ask != instruction.ask {
        // Content that ends the pods that try it must not go on from pod to pod for ever: the time runs on.
        let since = if was_tried { instruction.since } else { facts.now };
        let message = "other pods are to try it: those that were chosen ended, or are stale".into();
        return (Verdict::Instruct(Instruction { ask, since, ..instruction.clone() }), message);
    }
    (Verdict::Wait, "no pod of spec.selector reports that it follows the head: nobody can try it".into())
}

/// A step with pods that are asked.
struct StepUnderWay<'a> {
    rollout: &'a Rollout,
    instruction: &'a Instruction,
    facts: &'a Facts,
    tally: Tally<'a>,
    index: usize,
    /// Seconds it bakes, and seconds until it is given up.
    bake: u64,
    left: u64,
    place: String,
}

impl StepUnderWay<'_> {
    fn counts(&self) -> String {
        format!("{}: {} of {} applied", self.place, self.tally.applied.len(), self.tally.chosen)
    }

    /// Not all that are waited for have it.
    fn waits(&self, mut progress: Progress) -> Judgement {
        let (counts, left_out) = (self.counts(), self.tally.silent);
        let silent = named(self.tally.waiting.iter().map(|pod| pod.name.as_str()));
        if self.left == 0 {
            let within = self.rollout.deadline();
            let also = if silent.is_empty() { String::new() } else { format!("; silent: {silent}") };
            return (Verdict::Late(format!("{counts} within {within}; {left_out} say nothing{also}")), progress);
        }
        progress.message = if silent.is_empty() {
            format!("{counts}; {left_out} say nothing: too many to leave out; {} are left", roughly(self.left))
        } else {
            format!("{counts}; waiting for {silent}")
        };
        let patience = SILENCE.saturating_sub(self.facts.seconds_since(self.instruction.since));
        progress.again = Some(patience.clamp(1, self.left));
        (Verdict::Wait, progress)
    }

    /// All that are waited for have it.
    fn bakes(&self, baking_since: Timestamp, mut progress: Progress) -> Judgement {
        let (rollout, facts, bake, counts) = (self.rollout, self.facts, self.bake, self.counts());
        let baked_for = facts.seconds_since(baking_since);
        let gates = Gates { baking_since, bake, baked: baked_for >= bake, applied: &self.tally.applied };
        let mut unmet = Vec::new();
        for gate in &rollout.gates {
            match gates.ask(gate, facts) {
                GateVerdict::Holds => {}
                GateVerdict::Failed(why) => {
                    return (Verdict::Refuse(format!("{}: gate {}: {why}", self.place, gate.name)), progress);
                }
                GateVerdict::Unmet { why, due } => {
                    progress.gates_due.extend(due.then(|| gate.name.clone()));
                    unmet.push(format!("gate {}: {why}", gate.name));
                }
            }
        }
        if baked_for < bake {
            let more = bake - baked_for;
            progress.message = format!("{counts}, baking {} more", roughly(more));
            let intervals = rollout.gates.iter().filter(|gate| is_external(gate)).map(|gate| gate.interval().seconds());
            progress.again = Some(intervals.min().unwrap_or(more).min(more).max(1));
            return (Verdict::Wait, progress);
        }
        if !unmet.is_empty() {
            let unmet = unmet.join("; ");
            if self.left == 0 {
                let within = rollout.deadline();
                return (Verdict::Late(format!("{counts} and baked, but not within {within}: {unmet}")), progress);
            }
            progress.message = format!("{counts} and baked; {unmet}");
            progress.again = Some(1);
            return (Verdict::Wait, progress);
        }
        progress.message = format!("{counts}: done");
        if self.index + 1 >= rollout.steps.len() {
            return (Verdict::Accept, progress);
        }
        let before = Some(&self.instruction.ask);
        let ask = step(rollout, &self.instruction.proposal.uid, self.index + 1, before, facts);
        (Verdict::Instruct(Instruction { ask, since: facts.now, ..self.instruction.clone() }), progress)
    }
}

fn is_external(gate: &Gate) -> bool {
    gate.pods_ready.is_none()
}

/// The gates of a step that bakes.
struct Gates<'a> {
    baking_since: Timestamp,
    bake: u64,
    baked: bool,
    applied: &'a [&'a Pod],
}

enum GateVerdict {
    Holds,
    Unmet { why: String, due: bool },
    Failed(String),
}

impl Gates<'_> {
    fn ask(&self, gate: &Gate, facts: &Facts) -> GateVerdict {
        if !is_external(gate) {
            let unready = || self.applied.iter().filter(|pod| !pod.ready).map(|pod| pod.name.as_str());
            return match unready().next() {
                None => GateVerdict::Holds,
                Some(_) => GateVerdict::Unmet { why: format!("not ready: {}", named(unready())), due: false },
            };
        }
        let state = facts.gates.get(&gate.name).cloned().unwrap_or_default();
        let limit = u32::try_from(gate.failure_limit.unwrap_or_default()).unwrap_or_default();
        let Some((at, answer)) = state.last.filter(|(at, _)| *at >= self.baking_since) else {
            return GateVerdict::Unmet { why: "not asked yet".into(), due: true };
        };
        let age = facts.seconds_since(at);
        let is_old = age >= gate.interval().seconds();
        match answer {
            Err(why) if state.failures > limit => GateVerdict::Failed(why),
            Err(why) => GateVerdict::Unmet { why, due: is_old },
            // What it said before the end of the bake time is not the last word.
            Ok(()) => {
                let end = self.baking_since.as_second().saturating_add_unsigned(self.bake);
                if self.baked && at.as_second() >= end {
                    GateVerdict::Holds
                } else {
                    let why = "to be asked again at the end of the bake time".into();
                    GateVerdict::Unmet { why, due: self.baked || is_old }
                }
            }
        }
    }
}
