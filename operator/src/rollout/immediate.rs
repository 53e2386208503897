//! Immediate: every pod reads a revision at once, and too many refusals take it back.

use quorate_crds::{ReplicaState, Rollout, head::Head};

use super::{Facts, Replica, facts::reasons};

/// Why the published revision must be taken back, if it must. What there is no way back from stays refused as
/// long as the pods say so.
#[must_use]
pub fn refused(rollout: &Rollout, head: &Head, has_way_back: bool, facts: &Facts) -> Option<String> {
    // What people pinned, and what was brought back already, is not taken back again.
    let watched = head.restored.is_none() && (is_young(rollout, head, facts) || !has_way_back);
    let (asked, refusals) = refusals(head, facts);
    let budget = rollout.max_rejected().at_most(asked);
    (watched && refusals.len() > budget).then(|| {
        let rejected = refusals.len();
        format!("{rejected} of {asked} pods refused it, and {budget} may: {}", reasons(refusals.into_iter()))
    })
}

/// Whether the published revision may be gone back to: the pods run it, or came from it to the candidate, all
/// but as many as may refuse. That they have not refused it yet is not enough, for they may not have come to
/// it. Pods that cannot follow say nothing of it. Where there is nobody to say something, what has lasted is
/// good; and content that was brought back was good before.
#[must_use]
pub fn is_good(rollout: &Rollout, head: &Head, facts: &Facts) -> bool {
    let (asked, refusals) = refusals(head, facts);
    if head.restored.is_some() {
        return refusals.len() <= rollout.max_rejected().at_most(asked);
    }
    let able: Vec<_> = facts.able().collect();
    if able.is_empty() {
        return !is_young(rollout, head, facts);
    }
    let proposed = head.standing.rollout.as_ref().map(|instruction| instruction.proposal.revision);
    let runs = |replica: &Replica| replica.runs.is_some_and(|runs| runs == head.revision || Some(runs) == proposed);
    let running = able.iter().filter(|(_, replica)| runs(replica) && !refusals.contains(replica)).count();
    running > 0 && running + rollout.max_rejected().at_most(able.len()) >= able.len()
}

/// Whether refusals may still come.
fn is_young(rollout: &Rollout, head: &Head, facts: &Facts) -> bool {
    facts.seconds_since(head.decided_at) < rollout.deadline().seconds()
}

/// Of how many pods, and who of them refuses the published revision.
fn refusals<'a>(head: &Head, facts: &'a Facts) -> (usize, Vec<&'a Replica>) {
    let is_refusal = |replica: &Replica| {
        replica.state == ReplicaState::Rejected
            && replica.revision == Some(head.revision)
            && replica.hash.as_ref() == Some(&head.hash)
    };
    let asked = facts.reporting().count();
    (asked, facts.reporting().map(|(_, replica)| replica).filter(|replica| is_refusal(replica)).collect())
}
