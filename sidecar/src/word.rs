//! A pod's word on a config: what its ConfigReplica says, and when another word is worth a write.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use quorate_crds::{ConfigReplicaSpec, Proposal, ReplicaState};

/// The longest message, in bytes.
const MESSAGE: usize = 1024;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The revision whose files the pod has.
    pub runs: Option<i64>,
    /// What it says …
    pub state: ReplicaState,
    /// … of this content.
    pub of: Option<Proposal>,
    /// Why.
    pub message: Option<String>,
    /// Whether the content is a candidate's.
    pub on_candidate: bool,
    /// Whether a rollout is under way.
    pub in_rollout: bool,
}

impl Word {
    /// On the head's content, outside of any rollout, with nothing to explain.
    #[must_use]
    pub const fn new(state: ReplicaState, of: Proposal) -> Self {
        Self { runs: None, state, of: Some(of), message: None, on_candidate: false, in_rollout: false }
    }

    /// With a reason.
    #[must_use]
    pub fn because(self, message: &str) -> Self {
        let mut end = message.len().min(MESSAGE);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        Self { message: message.get(..end).map(str::to_owned), ..self }
    }

    /// What was written before.
    #[must_use]
    pub fn written(spec: &ConfigReplicaSpec) -> Self {
        let of = spec.revision.map(|revision| Proposal {
            uid: spec.proposal.clone().unwrap_or_default(),
            revision,
            hash: spec.hash.clone().unwrap_or_default(),
        });
        Self {
            runs: spec.runs,
            state: spec.state,
            of,
            message: spec.message.clone(),
            on_candidate: false,
            in_rollout: false,
        }
    }

    /// What to say after `last`: that a candidate was refused stays, so that people can read why,
    /// until there is another proposal or a newer head.
    #[must_use]
    pub fn after(self, last: Option<&Self>) -> Self {
        let revision = |word: &Self| word.of.as_ref().map(|of| of.revision);
        match last {
            Some(last)
                if last.state == ReplicaState::Rejected
                    && self.state == ReplicaState::Applied
                    && !self.in_rollout
                    && revision(last) > revision(&self) =>
            {
                Self { runs: self.runs, ..last.clone() }
            }
            _ => self,
        }
    }

    /// The same, of a pod that does not know any more whether it is the latest.
    #[must_use]
    pub fn stale(self, why: &str) -> Self {
        Self { state: ReplicaState::Stale, ..self }.because(why)
    }

    /// Whether it says more than what is written. Where content was read from matters for a vote only:
    /// it counts for one proposal, whatever it holds.
    #[must_use]
    pub fn is_news(&self, written: &ConfigReplicaSpec) -> bool {
        let old = Self::written(written);
        let is_vote = self.on_candidate || matches!(self.state, ReplicaState::Staged | ReplicaState::Rejected);
        let content = |word: &Self| word.of.as_ref().map(|of| (of.revision, of.hash.clone()));
        let uid = |word: &Self| word.of.as_ref().map(|of| of.uid.clone());
        (self.runs, self.state, &self.message) != (old.runs, old.state, &old.message)
            || content(self) != content(&old)
            || (is_vote && uid(self) != uid(&old))
    }

    /// Whether the state that is written goes on, and only what is told beside it changed.
    #[must_use]
    pub fn continues(&self, written: &ConfigReplicaSpec) -> bool {
        let old = Self::written(written);
        self.state == old.state && self.of == old.of
    }

    /// As it is written by this pod, at this time.
    #[must_use]
    pub fn spec(&self, who: Who<'_>, lamport: i64, since: MicroTime) -> ConfigReplicaSpec {
        let of = self.of.as_ref();
        ConfigReplicaSpec {
            config: who.config.to_owned(),
            pod: who.pod.to_owned(),
            pod_uid: who.pod_uid.to_owned(),
            node: Some(who.node.to_owned()).filter(|node| !node.is_empty()),
            runs: self.runs,
            state: self.state,
            revision: of.map(|of| of.revision),
            hash: of.map(|of| of.hash.clone()),
            proposal: of.map(|of| of.uid.clone()),
            message: self.message.clone(),
            lamport,
            since,
        }
    }
}

/// Whose word it is.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// The config.
    pub config: &'a str,
    /// The pod's name.
    pub pod: &'a str,
    /// The pod's uid.
    pub pod_uid: &'a str,
    /// Its node's name, if it is known.
    pub node: &'a str,
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    const WHO: Who<'_> = Who { config: "web", pod: "web-1", pod_uid: "p", node: "" };

    fn of(uid: &str, revision: i64) -> Proposal {
        Proposal { uid: uid.into(), revision, hash: format!("h{revision}") }
    }

    fn applied(revision: i64) -> Word {
        Word { runs: Some(revision), ..Word::new(ReplicaState::Applied, of("head", revision)) }
    }

    fn refused(revision: i64, runs: i64) -> Word {
        let word = Word::new(ReplicaState::Rejected, of("c", revision)).because("no");
        Word { runs: Some(runs), on_candidate: true, in_rollout: true, ..word }
    }

    fn spec(word: &Word) -> ConfigReplicaSpec {
        word.spec(WHO, 1, MicroTime(Timestamp::UNIX_EPOCH))
    }

    #[test]
    fn what_is_written_is_news_only_when_it_says_something_else() {
        let known = applied(4);
        assert!(!known.is_news(&spec(&known)));
        let later = known.spec(WHO, 99, MicroTime(Timestamp::from_second(9).unwrap()));
        assert!(!known.is_news(&later), "neither the stamp nor the time is news");
        assert!(applied(5).is_news(&spec(&known)));
        assert!(known.clone().stale("old").is_news(&spec(&known)));
        let lagging = Word { runs: Some(3), ..known.clone() };
        assert!(known.is_news(&spec(&lagging)));
    }

    #[test]
    fn where_content_was_read_from_is_news_in_a_vote_only() {
        let tried = Word { on_candidate: true, of: Some(of("c", 5)), ..applied(5) };
        assert!(!applied(5).is_news(&spec(&tried)), "promoted: the same content, now the head's");
        assert!(tried.is_news(&spec(&applied(5))));
        let again = Word { of: Some(of("d", 5)), ..tried.clone() };
        assert!(again.is_news(&spec(&tried)), "another proposal of the same content");
        let staged = |uid| Word { runs: Some(4), ..Word::new(ReplicaState::Staged, of(uid, 5)) };
        assert!(staged("d").is_news(&spec(&staged("c"))) && !staged("c").is_news(&spec(&staged("c"))));
    }

    #[test]
    fn a_refusal_outlives_its_rollout_until_there_is_something_newer() {
        let last = refused(5, 4);
        assert_eq!(applied(4).after(Some(&last)).message.as_deref(), Some("no"));
        assert_eq!(applied(6).after(Some(&last)), applied(6), "a newer head");
        let asked = Word { in_rollout: true, ..applied(4) };
        assert_eq!(asked.clone().after(Some(&last)), asked, "another proposal, for which it is not chosen");
        assert_eq!(applied(4).after(Some(&refused(4, 3))), applied(4), "the head's own, accepted now");
        let staged = Word { in_rollout: true, ..Word::new(ReplicaState::Staged, of("c", 5)) };
        assert_eq!(applied(4).after(Some(&staged)), applied(4), "aborted");
        let other_runs = Word { runs: Some(3), ..applied(4) };
        assert_eq!(other_runs.after(Some(&last)).runs, Some(3), "what the pod has is always said");
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        let word = applied(1).because(&"ä".repeat(800)).message.unwrap();
        assert!(word.len() <= MESSAGE && word.chars().all(|c| c == 'ä') && word.len() > MESSAGE - 4);
    }
}
