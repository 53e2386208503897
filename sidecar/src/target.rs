//! What a pod should do about what a head says: the one place where that is decided.

use jiff::Timestamp;
use quorate_crds::{Ask, Instruction, Proposal};

use crate::publish::Published;

/// What a pod should do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Show the head's content.
    Head,
    /// Show the head's content, and say what it makes of this proposal.
    Vote(Proposal),
    /// Show this proposal.
    Try(Proposal),
}

/// The pod, as far as it matters.
#[derive(Clone, Copy, Debug)]
pub struct Pod<'a> {
    /// Its uid; empty when it is not known.
    pub uid: &'a str,
    /// When its ConfigReplica was created, by the API server's clock, once that is known.
    pub born: Option<Timestamp>,
    /// What it shows.
    pub shown: Option<&'a Published>,
}

/// See the module. `head` is the head's content, `rollout` what it says beside it.
#[must_use]
pub fn target(head: &Proposal, rollout: Option<&Instruction>, pod: Pod<'_>) -> Target {
    let Some(instruction) = rollout else { return Target::Head };
    let proposal = &instruction.proposal;
    let is_decided = (proposal.revision, &proposal.hash) == (head.revision, &head.hash);
    if pod.uid.is_empty() || is_decided {
        return Target::Head;
    }
    match instruction.ask {
        Ask::Vote => Target::Vote(proposal.clone()),
        Ask::Try { .. } if is_chosen(instruction, pod) => Target::Try(proposal.clone()),
        Ask::Try { .. } => Target::Head,
    }
}

fn is_chosen(instruction: &Instruction, pod: Pod<'_>) -> bool {
    match pod.born {
        Some(born) => instruction.chooses(pod.uid, born),
        // The container was started again while the API server told nothing yet. What is shown was
        // chosen for once, and a choice is only taken back with the candidate.
        None => pod.shown.is_some_and(|shown| shown.candidate.as_ref() == Some(&instruction.proposal.uid)),
    }
}

#[cfg(test)]
mod tests {
    use quorate_crds::rank;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn proposal(revision: i64) -> Proposal {
        Proposal { uid: format!("c{revision}"), revision, hash: format!("h{revision}") }
    }

    fn instruction(revision: i64, ask: Ask) -> Instruction {
        Instruction { proposal: proposal(revision), ask, plan: String::new(), since: at(0), paused: false }
    }

    fn chosen(revision: i64) -> Instruction {
        instruction(revision, Ask::Try { step: 0, threshold: rank(&proposal(revision).uid, "p"), born_by: at(10) })
    }

    fn shown(revision: i64, candidate: Option<&str>) -> Published {
        Published { revision, hash: format!("h{revision}"), candidate: candidate.map(str::to_owned), files: Vec::new() }
    }

    #[test]
    fn what_a_pod_does() {
        let head = Proposal { uid: "head".into(), revision: 4, hash: "h4".into() };
        let not_chosen = instruction(5, Ask::Try { step: 0, threshold: rank("c5", "p") - 1, born_by: at(10) });
        let (stable, candidate) = (shown(4, None), shown(5, Some("c5")));
        let other = shown(3, Some("c3"));
        let pod = |born: Option<i64>, shown| Pod { uid: "p", born: born.map(at), shown };
        let (try_it, vote) = (Target::Try(proposal(5)), Target::Vote(proposal(5)));
        let nobody = Pod { uid: "", born: Some(at(1)), shown: Some(&stable) };
        for (what, rollout, pod, expected) in [
            ("nothing is asked", None, pod(Some(1), Some(&stable)), &Target::Head),
            ("aborted", None, pod(Some(1), Some(&candidate)), &Target::Head),
            ("a vote", Some(instruction(5, Ask::Vote)), pod(Some(1), Some(&stable)), &vote),
            ("a vote at the start", Some(instruction(5, Ask::Vote)), pod(None, None), &vote),
            ("a vote of a program that is no pod", Some(instruction(5, Ask::Vote)), nobody, &Target::Head),
            ("chosen", Some(chosen(5)), pod(Some(10), Some(&stable)), &try_it),
            ("chosen, without files", Some(chosen(5)), pod(Some(10), None), &try_it),
            ("not chosen", Some(not_chosen.clone()), pod(Some(1), Some(&stable)), &Target::Head),
            ("not chosen any more", Some(not_chosen), pod(Some(1), Some(&candidate)), &Target::Head),
            ("born later", Some(chosen(5)), pod(Some(11), Some(&stable)), &Target::Head),
            ("birth unknown", Some(chosen(5)), pod(None, Some(&stable)), &Target::Head),
            ("birth unknown, another candidate shown", Some(chosen(5)), pod(None, Some(&other)), &Target::Head),
            ("birth unknown again, shown already", Some(chosen(5)), pod(None, Some(&candidate)), &try_it),
            ("decided", Some(instruction(4, Ask::Vote)), pod(Some(1), Some(&stable)), &Target::Head),
        ] {
            assert_eq!(&target(&head, rollout.as_ref(), pod), expected, "{what}");
        }
    }
}
