//! What to do, as a pure function of what was observed.
//!
//! This is the one place that says which content pods should read. It is asked again after every
//! change and every restart, and its answer depends on nothing but its arguments.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use jiff::Timestamp;
use quorate_crds::{
    DistributedConfigSpec, Instruction, Proposal, Refused, Rollout, Standing, Strategy,
    head::{Bundle, Head},
};
use quorate_resolve::Problems;

use crate::rollout::{self, Facts, Progress, Verdict};

/// The head's object, as last read or written.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are of the largest")]
pub enum Observed {
    /// There is none.
    Absent,
    /// It is this config's.
    Ours(Stored),
    /// It is this config's, but somebody changed it: its content does not verify.
    Damaged {
        /// Its version, to replace it by compare-and-swap.
        version: Version,
        /// What is wrong with it.
        reason: String,
    },
    /// It belonged to a deleted config of the same name and is about to be collected.
    Predecessor,
    /// It is somebody else's. Never overwritten.
    Foreign {
        /// What it is.
        what: String,
    },
}

/// The uid and resourceVersion that a write is based on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// metadata.uid.
    pub uid: String,
    /// metadata.resourceVersion.
    pub resource_version: String,
}

/// A head without its files.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its version.
    pub version: Version,
    /// Numbers and hashes; the bundle is empty.
    pub head: Head,
    /// SHA-256 of its provenance.
    pub provenance: [u8; 32],
}

/// A log entry without its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// The content's hash.
    pub hash: String,
    /// When it was decided.
    pub time: Timestamp,
    /// The older revision whose content it is.
    pub restored: Option<i64>,
    /// Who made the change behind it.
    pub changed_by: Option<String>,
    /// The entry's uid.
    pub uid: String,
}

/// The revisions that can be gone back to.
pub type Log = BTreeMap<i64, LogEntry>;

/// A candidate's Secret.
#[derive(Clone, Debug)]
pub enum CandidateSlot {
    /// There is none.
    Absent,
    /// It is this config's.
    Ours {
        /// Its version.
        version: Version,
        /// Numbers and hashes; the bundle is empty.
        head: Box<Head>,
        /// The pods that were ready when it was made.
        electorate: BTreeSet<String>,
    },
    /// It is this config's, but its content does not verify.
    Damaged(Version),
    /// It is somebody else's. Never overwritten.
    Foreign {
        /// What it is.
        what: String,
    },
}

/// What the layers give.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The files.
    pub bundle: Bundle,
    /// Their hash.
    pub hash: String,
    /// SHA-256 of the provenance.
    pub provenance: [u8; 32],
}

/// All that a decision depends on.
#[derive(Clone, Debug)]
pub struct Situation<'a> {
    /// What the user asks for.
    pub spec: &'a DistributedConfigSpec,
    /// The head.
    pub observed: &'a Observed,
    /// The candidate.
    pub candidate: &'a CandidateSlot,
    /// The revisions that can be gone back to.
    pub log: &'a Log,
    /// What the layers give, or why they give nothing.
    pub wanted: Result<Wanted, Problems>,
    /// What pods, gates, people and the clock say.
    pub facts: &'a Facts,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Pods read what they should.
    Hold(Why),
    /// Make this the next revision.
    Publish(Bundle),
    /// The files are the same, but other layers gave them: renew the provenance, keep the revision.
    Explain(Bundle),
    /// Make an old revision's content the next revision.
    Restore {
        /// Which.
        revision: i64,
        /// Why.
        because: Restore,
    },
    /// Store this as the candidate.
    Propose(Bundle),
    /// Say this beside the head's content: what the pods are asked, what was refused.
    Instruct(Box<Standing>),
    /// Make the candidate the next revision.
    Accept,
    /// Delete the candidate: nothing names it.
    Discard(Version),
    /// List pods and what they say by quorum, and decide again.
    Look,
    /// Leave all as it is, and say why.
    Refuse(Refusal),
}

/// An action, and where the rollout stands.
#[derive(Clone, Debug)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// The rollout under way.
    pub progress: Option<Progress>,
    /// What is wrong with the layers while an earlier wish of theirs is being rolled out.
    pub problems: Option<Problems>,
}

impl From<Action> for Decision {
    fn from(action: Action) -> Self {
        Self { action, progress: None, problems: None }
    }
}

/// Why nothing is to do.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Why {
    /// The layers give what is published.
    Current,
    /// The published content is pinned.
    Pinned(i64),
    /// spec.suspend.
    Suspended,
    /// A rollout is under way.
    Progressing,
}

/// Why old content is published again.
#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Restore {
    /// spec.pin.
    Pinned,
    /// The head is gone or damaged, and the layers give nothing that could replace it.
    LastGood(Problems),
    /// The head is gone or damaged, and what the layers give was never rolled out.
    HeadLost,
    /// The pods refused the revision that is published.
    Refused(String),
}

/// Why nothing can be done.
#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Refusal {
    /// The layers or files are wrong.
    Invalid(Problems),
    /// spec.rollout asks for what cannot be.
    RolloutInvalid(Vec<String>),
    /// The pinned revision is not in the log.
    PinGone {
        /// Which.
        revision: i64,
        /// Which there are.
        available: Vec<i64>,
    },
    /// The name of the head or candidate is taken.
    NameTaken {
        /// Which of the two.
        whose: &'static str,
        /// By what.
        what: String,
    },
    /// A deleted config's head is still there; it will be collected.
    AwaitingPredecessor,
    /// What the layers give was refused, and nobody asked to try again.
    RolledBack(Refused),
    /// The pods refuse what is published, and there is nothing to go back to.
    NoReturn(String),
}

/// Says what to do.
#[must_use]
pub fn decide(situation: &Situation<'_>) -> Decision {
    let Situation { spec, observed, log, .. } = situation;
    match observed {
        Observed::Foreign { what } => {
            return Action::Refuse(Refusal::NameTaken { whose: "head", what: what.clone() }).into();
        }
        Observed::Predecessor => return Action::Refuse(Refusal::AwaitingPredecessor).into(),
        Observed::Absent | Observed::Ours(_) | Observed::Damaged { .. } => {}
    }
    let stored = match observed {
        Observed::Ours(stored) => Some(stored),
        _ => None,
    };
    let under_way = stored.and_then(|s| Some((s, s.head.standing.rollout.as_ref()?)));
    if spec.suspend {
        return decide_suspended(under_way).into();
    }
    let problems = rollout_of(spec).problems(spec.selector.is_some());
    let decision = match (stored, under_way, &spec.pin) {
        // A pin, and rules that cannot be, end what is under way, before they are looked at.
        (_, Some((stored, instruction)), pin) if pin.is_some() || !problems.is_empty() => {
            superseded(&stored.head, instruction).into()
        }
        (stored, _, Some(pin)) => decide_pinned(pin.revision, stored, log).into(),
        _ if !problems.is_empty() => match log.last_key_value() {
            // Pods that start now must find what those before them read.
            Some((&revision, _)) if stored.is_none() => Action::Restore { revision, because: Restore::HeadLost }.into(),
            _ => Action::Refuse(Refusal::RolloutInvalid(problems)).into(),
        },
        (None, _, None) => decide_without_head(situation).into(),
        (_, Some((stored, instruction)), None) => decide_under_way(situation, stored, instruction),
        (Some(stored), None, None) => decide_with_head(situation, stored).into(),
    };
    match stored {
        Some(stored) if matches!(decision.action, Action::Hold(_) | Action::Refuse(_)) => {
            tidied(situation, stored, decision)
        }
        _ => decision,
    }
}

/// Nothing is published and nobody is asked anything new. The time of a rollout stands still, as if a
/// person held it.
fn decide_suspended(under_way: Option<(&Stored, &Instruction)>) -> Action {
    match under_way {
        Some((stored, instruction)) if !instruction.paused => {
            let rollout = Some(Instruction { paused: true, ..instruction.clone() });
            Action::Instruct(Box::new(Standing { rollout, ..stored.head.standing.clone() }))
        }
        _ => Action::Hold(Why::Suspended),
    }
}

/// What is to be done before a decision that leaves the content as it is: pods are told how fresh they
/// must be, and a candidate that nobody is asked about goes.
fn tidied(situation: &Situation<'_>, stored: &Stored, decision: Decision) -> Decision {
    let standing = &stored.head.standing;
    if stored.head.freshness != situation.spec.freshness.clone().unwrap_or_default() {
        return Decision { action: Action::Instruct(Box::new(standing.clone())), ..decision };
    }
    match situation.candidate {
        CandidateSlot::Ours { version, .. } | CandidateSlot::Damaged(version) if standing.rollout.is_none() => {
            Action::Discard(version.clone()).into()
        }
        _ => decision,
    }
}

/// spec.rollout, or its default.
#[must_use]
pub fn rollout_of(spec: &DistributedConfigSpec) -> Cow<'_, Rollout> {
    spec.rollout.as_ref().map_or_else(|| Cow::Owned(Rollout::default()), Cow::Borrowed)
}

fn decide_pinned(revision: i64, stored: Option<&Stored>, log: &Log) -> Action {
    if stored.is_some_and(|s| s.head.revision == revision || s.head.restored == Some(revision)) {
        Action::Hold(Why::Pinned(revision))
    } else if log.contains_key(&revision) {
        Action::Restore { revision, because: Restore::Pinned }
    } else {
        Action::Refuse(Refusal::PinGone { revision, available: log.keys().copied().collect() })
    }
}

/// There is no head to read. Pods that start now would find nothing, so nobody is asked.
fn decide_without_head(situation: &Situation<'_>) -> Action {
    let Situation { spec, log, wanted, .. } = situation;
    let asks = rollout_of(spec).strategy != Strategy::Immediate;
    match (wanted, log.last_key_value()) {
        (Ok(wanted), Some((&revision, entry))) if asks && entry.hash != wanted.hash => {
            Action::Restore { revision, because: Restore::HeadLost }
        }
        // The very first revision too: no pod can be ready before it.
        (Ok(wanted), _) => Action::Publish(wanted.bundle.clone()),
        (Err(problems), Some((&revision, _))) => {
            Action::Restore { revision, because: Restore::LastGood(problems.clone()) }
        }
        (Err(problems), None) => Action::Refuse(Refusal::Invalid(problems.clone())),
    }
}

fn decide_with_head(situation: &Situation<'_>, stored: &Stored) -> Action {
    let Situation { spec, wanted, facts, log, .. } = situation;
    let (head, rollout) = (&stored.head, rollout_of(spec));
    let standing = &head.standing;
    let refused = || match rollout.strategy {
        Strategy::Immediate => rollout::immediate::refused(&rollout, head, way_back(head, log).is_some(), facts),
        Strategy::Quorum | Strategy::Canary => None,
    };
    let wanted = match wanted {
        Ok(wanted) => wanted,
        // What the layers gave before they broke may still be refused.
        Err(problems) => {
            return match refused().map(|reason| take_back(head, log, reason, facts)) {
                None | Some(Action::Refuse(_)) => Action::Refuse(Refusal::Invalid(problems.clone())),
                Some(action) => action,
            };
        }
    };
    if wanted.hash == head.hash {
        if let Some(reason) = refused() {
            return take_back(head, log, reason, facts);
        }
        // The layers give something else than what was refused: it may be proposed again.
        if standing.refused.as_ref().is_some_and(|refused| refused.hash != head.hash) {
            return Action::Instruct(Box::new(Standing { refused: None, ..standing.clone() }));
        }
        return if wanted.provenance == stored.provenance {
            Action::Hold(Why::Current)
        } else {
            Action::Explain(wanted.bundle.clone())
        };
    }
    if let Some(refused) = &standing.refused
        && refused.hash == wanted.hash
        && facts.orders.retry != Some(refused.revision)
    {
        return Action::Refuse(Refusal::RolledBack(refused.clone()));
    }
    if rollout.strategy == Strategy::Immediate {
        return Action::Publish(wanted.bundle.clone());
    }
    // Who is asked depends on who is there now.
    if !facts.fresh {
        return Action::Look;
    }
    match situation.candidate {
        CandidateSlot::Foreign { what } => {
            Action::Refuse(Refusal::NameTaken { whose: "candidate", what: what.clone() })
        }
        CandidateSlot::Absent => Action::Propose(wanted.bundle.clone()),
        CandidateSlot::Damaged(version) => Action::Discard(version.clone()),
        CandidateSlot::Ours { version, head: candidate, .. } => {
            let follows = candidate.previous_hash.as_ref() == Some(&head.hash) && candidate.revision > standing.highest;
            let proposal =
                Proposal { uid: version.uid.clone(), revision: candidate.revision, hash: candidate.hash.clone() };
            match rollout::begin(&rollout, proposal, facts) {
                Some(instruction) if follows && candidate.hash == wanted.hash => Action::Instruct(Box::new(Standing {
                    rollout: Some(instruction),
                    refused: None,
                    superseded: standing.superseded,
                    highest: candidate.revision,
                })),
                _ => Action::Discard(version.clone()),
            }
        }
    }
}

fn decide_under_way(situation: &Situation<'_>, stored: &Stored, instruction: &Instruction) -> Decision {
    let Situation { spec, wanted, facts, .. } = situation;
    let (head, rollout, proposal) = (&stored.head, rollout_of(spec), &instruction.proposal);
    let is_there = matches!(situation.candidate, CandidateSlot::Ours { version, head, .. }
        if version.uid == proposal.uid && head.hash == proposal.hash);
    let is_wanted = wanted.as_ref().map_or(true, |wanted| wanted.hash == proposal.hash);
    if !is_there || !is_wanted || instruction.plan != rollout::plan(&rollout) {
        return superseded(head, instruction).into();
    }
    let standing =
        |rollout, refused| Action::Instruct(Box::new(Standing { rollout, refused, ..head.standing.clone() }));
    let (verdict, progress) = rollout::judge(&rollout, instruction, facts);
    let action = match verdict {
        Verdict::Wait => Action::Hold(Why::Progressing),
        _ if !facts.fresh => Action::Look,
        Verdict::Instruct(next) => standing(Some(next), None),
        Verdict::Accept => Action::Accept,
        Verdict::Refuse(reason) | Verdict::Late(reason) => {
            let (revision, hash) = (proposal.revision, proposal.hash.clone());
            standing(None, Some(Refused { revision, hash, reason, at: facts.now }))
        }
    };
    Decision { action, progress: Some(progress), problems: wanted.as_ref().err().cloned() }
}

/// The candidate makes way: for newer content, other rules, or because it is gone.
fn superseded(head: &Head, instruction: &Instruction) -> Action {
    let superseded = Some(instruction.proposal.revision);
    Action::Instruct(Box::new(Standing { rollout: None, superseded, ..head.standing.clone() }))
}

/// The last good content comes back in place of what the pods refuse.
fn take_back(head: &Head, log: &Log, reason: String, facts: &Facts) -> Action {
    if !facts.fresh {
        return Action::Look;
    }
    match way_back(head, log) {
        Some(revision) => Action::Restore { revision, because: Restore::Refused(reason) },
        None => Action::Refuse(Refusal::NoReturn(reason)),
    }
}

/// The revision to go back to: the newest good one with other content.
fn way_back(head: &Head, log: &Log) -> Option<i64> {
    head.good.filter(|good| log.get(good).is_some_and(|entry| entry.hash != head.hash))
}

/// The head that an action makes of the one before; `source` is the candidate or the old revision, files
/// included, where the action needs it.
#[must_use]
pub fn head_after(
    spec: &DistributedConfigSpec,
    before: Option<&Head>,
    highest: i64,
    action: &Action,
    source: Option<Head>,
    facts: &Facts,
) -> Option<Head> {
    let rollout = rollout_of(spec);
    let next = |bundle: Bundle| {
        let mut head = Head::next(before, highest.saturating_add(1), bundle, facts.now);
        head.good = before.and_then(|before| {
            if rollout::immediate::is_good(&rollout, before, facts) { Some(before.revision) } else { before.good }
        });
        head
    };
    let mut head = match action {
        Action::Publish(bundle) => {
            let mut head = next(bundle.clone());
            head.standing.refused = None;
            head.changed_by.clone_from(&facts.changed_by);
            head
        }
        Action::Explain(bundle) => Head { bundle: bundle.clone(), ..before?.clone() },
        Action::Instruct(standing) => Head { standing: (**standing).clone(), ..before?.clone() },
        Action::Accept => {
            let proposal = &before?.standing.rollout.as_ref()?.proposal;
            let candidate = source?;
            let mut head = Head::next(before, proposal.revision, candidate.bundle, facts.now);
            head.good = next(Bundle::default()).good;
            head.standing.refused = None;
            // Whoever changed the config since may only have promoted it.
            head.changed_by = candidate.changed_by;
            head
        }
        Action::Restore { revision, because } => {
            let mut head = next(source?.bundle);
            head.restored = Some(*revision);
            if let (Restore::Refused(reason), Some(before)) = (because, before) {
                let (revision, hash) = (before.revision, before.hash.clone());
                head.standing.refused = Some(Refused { revision, hash, reason: reason.clone(), at: facts.now });
            }
            head
        }
        Action::Hold(_) | Action::Propose(_) | Action::Discard(_) | Action::Look | Action::Refuse(_) => return None,
    };
    head.freshness = spec.freshness.clone().unwrap_or_default();
    head.lamport = facts.lamport(before.map_or(0, |before| before.lamport));
    head.term = facts.term_after(before.map_or(0, |before| before.term));
    Some(head)
}

/// Which log entries are beyond the limit, oldest first. The present one, the pinned one and the
/// one to go back to stay; without a good head, all do.
#[must_use]
pub fn surplus(spec: &DistributedConfigSpec, observed: &Observed, log: &Log) -> Vec<i64> {
    let Observed::Ours(Stored { head: Head { revision: current, good, .. }, .. }) = observed else { return Vec::new() };
    let limit = usize::try_from(spec.revision_history_limit).unwrap_or(1).max(1);
    let pinned = spec.pin.as_ref().map(|pin| pin.revision);
    let removable = log
        .keys()
        .copied()
        .filter(|revision| revision != current && Some(*revision) != *good && Some(*revision) != pinned);
    removable.take(log.len().saturating_sub(limit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_crds::{Pin, head::BundleFile};
    use quorate_resolve::{Problem, ProblemKind};

    fn bundle(text: &str) -> Bundle {
        let file = BundleFile { mode: 0o444, secret: false, bytes: text.into() };
        Bundle { files: [("f".to_owned(), file)].into(), provenance: b"{}".to_vec() }
    }

    fn head(revision: i64, text: &str, restored: Option<i64>) -> Head {
        Head { restored, ..Head::next(None, revision, bundle(text), Timestamp::UNIX_EPOCH) }
    }

    fn ours(head: Head) -> Observed {
        let version = Version { uid: "u".into(), resource_version: "1".into() };
        Observed::Ours(Stored { version, head, provenance: [0; 32] })
    }

    fn log(revisions: &[i64]) -> Log {
        let entry = |n: &i64| LogEntry {
            hash: format!("sha256:{n}"),
            time: Timestamp::UNIX_EPOCH,
            restored: None,
            changed_by: None,
            uid: n.to_string(),
        };
        revisions.iter().map(|n| (*n, entry(n))).collect()
    }

    fn spec(pin: Option<i64>, suspend: bool) -> DistributedConfigSpec {
        let mut spec: DistributedConfigSpec = serde_json::from_str(r#"{"layers":[],"files":[]}"#).unwrap();
        spec.pin = pin.map(|revision| Pin { revision });
        spec.suspend = suspend;
        spec
    }

    fn broken() -> Problems {
        Problems(vec![Problem {
            kind: ProblemKind::SourceMissing,
            layer: Some("a".into()),
            file: None,
            pointer: None,
            reason: "ConfigMap shop/a does not exist".into(),
        }])
    }

    fn wanted(bundle: Bundle) -> Wanted {
        Wanted { hash: bundle.hash(), bundle, provenance: [0; 32] }
    }

    fn facts() -> Facts {
        Facts {
            pods: Vec::new(),
            replicas: BTreeMap::new(),
            told: std::collections::BTreeMap::new(),
            electorate: BTreeSet::new(),
            gates: BTreeMap::new(),
            baking_since: None,
            orders: quorate_crds::Orders::default(),
            changed_by: None,
            term: 0,
            now: Timestamp::UNIX_EPOCH,
            fresh: false,
        }
    }

    fn decision(
        spec: &DistributedConfigSpec,
        observed: &Observed,
        log: &Log,
        wanted: Result<Wanted, Problems>,
    ) -> Action {
        let candidate = &CandidateSlot::Absent;
        decide(&Situation { spec, observed, candidate, log, wanted, facts: &facts() }).action
    }

    fn decided(spec: &DistributedConfigSpec, observed: &Observed, log: &Log, candidate: Result<&str, ()>) -> String {
        let candidate = candidate.map(bundle).map(wanted).map_err(|()| broken());
        match decision(spec, observed, log, candidate) {
            Action::Hold(why) => format!("hold {why:?}"),
            Action::Publish(_) => "publish".into(),
            Action::Explain(_) => "explain".into(),
            Action::Restore { revision, because: Restore::Pinned } => format!("restore {revision} pinned"),
            Action::Restore { revision, .. } => format!("restore {revision} last good"),
            Action::Refuse(Refusal::Invalid(_)) => "refuse".into(),
            Action::Refuse(Refusal::PinGone { available, .. }) => format!("pin gone {available:?}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn the_table() {
        let free = spec(None, false);
        let damaged = Observed::Damaged {
            version: Version { uid: "u".into(), resource_version: "1".into() },
            reason: "file f: its bytes are not those of the manifest".into(),
        };
        let foreign = Observed::Foreign { what: "an Opaque Secret".into() };
        let at = |revision, text| ours(head(revision, text, None));
        let cases = [
            ("first", &free, &Observed::Absent, log(&[]), Ok("a"), "publish"),
            ("same", &free, &at(1, "a"), log(&[1]), Ok("a"), "hold Current"),
            ("changed", &free, &at(1, "a"), log(&[1]), Ok("b"), "publish"),
            ("broken", &free, &at(1, "a"), log(&[1]), Err(()), "refuse"),
            ("broken from the start", &free, &Observed::Absent, log(&[]), Err(()), "refuse"),
            ("head deleted", &free, &Observed::Absent, log(&[1, 2]), Ok("a"), "publish"),
            ("head deleted, layers broken", &free, &Observed::Absent, log(&[1, 2]), Err(()), "restore 2 last good"),
            ("head damaged", &free, &damaged, log(&[1]), Ok("a"), "publish"),
            ("head damaged, layers broken", &free, &damaged, log(&[1]), Err(()), "restore 1 last good"),
            ("suspended", &spec(None, true), &at(1, "a"), log(&[1]), Ok("b"), "hold Suspended"),
            ("suspended and pinned", &spec(Some(1), true), &at(2, "b"), log(&[1, 2]), Ok("b"), "hold Suspended"),
            ("pin present", &spec(Some(2), false), &at(2, "b"), log(&[1, 2]), Ok("c"), "hold Pinned(2)"),
            ("pin old", &spec(Some(1), false), &at(2, "b"), log(&[1, 2]), Ok("c"), "restore 1 pinned"),
            ("pin old, layers broken", &spec(Some(1), false), &at(2, "b"), log(&[1, 2]), Err(()), "restore 1 pinned"),
            ("pin done", &spec(Some(1), false), &ours(head(3, "a", Some(1))), log(&[1, 3]), Ok("c"), "hold Pinned(1)"),
            ("pin gone", &spec(Some(9), false), &at(2, "b"), log(&[1, 2]), Ok("b"), "pin gone [1, 2]"),
            ("pin, head deleted", &spec(Some(1), false), &Observed::Absent, log(&[1]), Ok("b"), "restore 1 pinned"),
            ("unpinned", &free, &ours(head(3, "a", Some(1))), log(&[1, 3]), Ok("c"), "publish"),
            ("unpinned, same content", &free, &ours(head(3, "a", Some(1))), log(&[1]), Ok("a"), "hold Current"),
            (
                "taken",
                &free,
                &foreign,
                log(&[]),
                Ok("a"),
                r#"Refuse(NameTaken { whose: "head", what: "an Opaque Secret" })"#,
            ),
            (
                "taken, suspended",
                &spec(None, true),
                &foreign,
                log(&[]),
                Ok("a"),
                r#"Refuse(NameTaken { whose: "head", what: "an Opaque Secret" })"#,
            ),
            ("predecessor", &free, &Observed::Predecessor, log(&[]), Ok("a"), "Refuse(AwaitingPredecessor)"),
        ];
        for (name, spec, observed, log, candidate, expected) in cases {
            assert_eq!(decided(spec, observed, &log, candidate), expected, "{name}");
        }
    }

    #[test]
    fn new_provenance_alone_is_written_but_is_no_revision() {
        let other = Wanted { provenance: [1; 32], ..wanted(bundle("a")) };
        let action = decision(&spec(None, false), &ours(head(1, "a", None)), &log(&[1]), Ok(other));
        assert!(matches!(action, Action::Explain(_)), "{action:?}");
    }

    #[test]
    fn the_oldest_go_first_and_the_present_and_the_pinned_stay() {
        let mut spec = spec(None, false);
        spec.revision_history_limit = 2;
        let at_5 = ours(head(5, "a", None));
        assert_eq!(surplus(&spec, &at_5, &log(&[1, 2, 3, 5])), [1, 2]);
        assert_eq!(surplus(&spec, &at_5, &log(&[4, 5])), [0; 0]);
        assert_eq!(surplus(&spec, &Observed::Absent, &log(&[1, 2, 3, 5])), [0; 0], "they are what there is");
        spec.pin = Some(Pin { revision: 1 });
        assert_eq!(surplus(&spec, &at_5, &log(&[1, 2, 3, 5])), [2, 3]);
        spec.revision_history_limit = 1;
        assert_eq!(surplus(&spec, &at_5, &log(&[1, 5])), [0; 0]);
    }
}
