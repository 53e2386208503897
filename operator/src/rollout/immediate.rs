//! Immediate: every pod reads a revision at once, and too many refusals take it back.

use quorate_crds::{ReplicaState, Rollout, head::Head};

use super::{Facts, Replica, facts::reasons};

/// Why the published revision must be taken back, if it must.
#[must_use]
pub fn refused(rollout: &Rollout, head: &Head, facts: &Facts) -> Option<String> {
    // What people pinned, and what was brought back already, is not taken back again. What there is no
    // way back from stays refused as long as the pods say so.
    let is_young = facts.seconds_since(head.decided_at) < rollout.deadline().seconds();
    let watched = head.restored.is_none() && (is_young || head.good.is_none());
    let (asked, refusals) = refusals(head, facts);
    let budget = rollout.max_rejected().at_most(asked);
    (watched && refusals.len() > budget).then(|| {
        let rejected = refusals.len();
        format!("{rejected} of {asked} pods refused it, and {budget} may: {}", reasons(refusals.into_iter()))
    })
}

/// Whether the published revision may be gone back to: the pods run it, all but as many as may refuse. That
/// they have not refused it yet is not enough, for they may not have come to it. Pods that cannot follow
/// say nothing of it; content that was brought back was good before.
#[must_use]
pub fn is_good(rollout: &Rollout, head: &Head, facts: &Facts) -> bool {
    let (asked, refusals) = refusals(head, facts);
    if head.restored.is_some() {
        return refusals.len() <= rollout.max_rejected().at_most(asked);
    }
    let able: Vec<_> = facts.able().collect();
    let running = able.iter().filter(|(_, r)| r.runs == Some(head.revision) && !refusals.contains(r)).count();
    running > 0 && running + rollout.max_rejected().at_most(able.len()) >= able.len()
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
