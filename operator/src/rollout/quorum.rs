//! Quorum: the pods vote on a candidate that nobody shows yet, and the head moves only when enough of
//! them accepted it (Paxos's two phases, with the pods as acceptors).
//!
//! The denominator holds every pod that was ready when the candidate was made, is ready now or
//! has reported before, so silence is never taken for consent. It is never shrunk by what the
//! candidate does to the pods: nobody shows it.

use quorate_crds::{Instruction, ReplicaState, Rollout};

use super::{
    Facts, Judgement, Progress, Verdict,
    facts::{named, reasons, roughly},
};

pub(super) fn judge(rollout: &Rollout, instruction: &Instruction, facts: &Facts) -> Judgement {
    let proposal = &instruction.proposal;
    let voters: Vec<_> = facts.pods.iter().filter(|pod| facts.votes(pod)).collect();
    let answer = |uid: &str| facts.replicas.get(uid).filter(|replica| replica.answers(proposal));
    let state = |uid: &str| answer(uid).map(|replica| replica.state);
    let accepts = |uid: &str| matches!(state(uid), Some(ReplicaState::Staged | ReplicaState::Applied));
    let refuses = |uid: &str| state(uid) == Some(ReplicaState::Rejected);
    let accepted = voters.iter().filter(|pod| accepts(&pod.uid)).count();
    let rejected = voters.iter().filter(|pod| refuses(&pod.uid)).count();
    let silent = || voters.iter().filter(|pod| !accepts(&pod.uid) && !refuses(&pod.uid)).map(|pod| pod.name.as_str());
    let refusals = || reasons(voters.iter().filter(|pod| refuses(&pod.uid)).filter_map(|pod| answer(&pod.uid)));

    let asked = voters.len();
    let quorum = rollout.quorum.unwrap_or_default();
    let needed = quorum.needed(asked);
    let deadline = rollout.deadline();
    let left = deadline.seconds().saturating_sub(facts.seconds_since(instruction.since));
    let progress = |message: String| Progress {
        asked,
        accepted,
        rejected,
        message,
        again: Some(left.max(1)),
        ..Progress::default()
    };

    if asked == 0 {
        // There is nobody who could be late: the time of those who come begins when they do.
        let message = "spec.selector matches no pod that is ready or has reported: nobody can vote".into();
        let verdict = if left * 2 < deadline.seconds() {
            Verdict::Instruct(Instruction { since: facts.now, ..instruction.clone() })
        } else {
            Verdict::Wait
        };
        return (verdict, progress(message));
    }
    if accepted >= needed {
        return (Verdict::Accept, progress(format!("{accepted} of {asked} pods accepted it; {needed} were needed")));
    }
    if needed <= asked && asked - rejected < needed {
        let reason = format!("{rejected} of {asked} pods refused it, and {needed} must accept: {}", refusals());
        return (Verdict::Refuse(reason), progress(String::new()));
    }
    if left == 0 {
        let reason = format!(
            "only {accepted} of {asked} pods accepted it within {deadline}, and {needed} must; silent: {}",
            named(silent())
        );
        return (Verdict::Late(reason), progress(String::new()));
    }
    if needed > asked {
        let message = format!(
            "spec.rollout.quorum: {needed} pods must accept, but there are {asked}; {} are left",
            roughly(left)
        );
        return (Verdict::Wait, progress(message));
    }
    let mut message = format!(
        "{accepted} of {asked} pods accepted, {needed} must; waiting for {}; {} are left",
        named(silent()),
        roughly(left)
    );
    if rejected > 0 {
        message += &format!("; {rejected} refused: {}", refusals());
    }
    (Verdict::Wait, progress(message))
}
