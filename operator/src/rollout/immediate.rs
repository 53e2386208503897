//! Immediate: every pod reads a revision at once, and too many refusals take it back.

use quorate_crds::{ReplicaState, Rollout, head::Head};

use super::{Facts, Replica, facts::reasons};

/// Why the published revision must be taken back, if it must.
#[must_use]
pub fn refused(rollout: &Rollout, head: &Head, facts: &Facts) -> Option<String> {
    // What people pinned, and what was brought back already, is not taken back again.
    let watched = head.restored.is_none() && facts.seconds_since(head.decided_at) < rollout.deadline().seconds();
    let (asked, refusals) = refusals(head, facts);
    let budget = rollout.max_rejected().at_most(asked);
    (watched && refusals.len() > budget).then(|| {
        let rejected = refusals.len();
        format!("{rejected} of {asked} pods refused it, and {budget} may: {}", reasons(refusals.into_iter()))
    })
}

/// Whether the published revision may be gone back to: the pods did not refuse it.
#[must_use]
pub fn is_good(rollout: &Rollout, head: &Head, facts: &Facts) -> bool {
    let (asked, refusals) = refusals(head, facts);
    refusals.len() <= rollout.max_rejected().at_most(asked)
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
