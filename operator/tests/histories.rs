//! Random histories of rollouts: pods come, go, fall silent and refuse; votes arrive late, twice and
//! out of order; clocks jump; specs change midway; the operator restarts at any point. The operator's
//! decisions are the real ones ([`decide`], [`head_after`]); the API and the sidecars are modelled, and
//! every invariant is checked against what the pods really did, not against what they reported.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use proptest::prelude::*;
use quorate_crds::{
    Amount, Ask, DistributedConfigSpec, Orders, Pin, Quorum, ReplicaState, Rollout, Span, Step, Strategy as Kind,
    head::{Bundle, BundleFile, Head},
};
use quorate_operator::{
    decide::{
        Action, CandidateSlot, Log, LogEntry, Observed, Restore, Situation, Stored, Version, Wanted, decide,
        head_after, rollout_of, surplus,
    },
    rollout::{
        Facts, GateState, Pod, Replica,
        facts::{electorate, read_electorate},
    },
};

const CONTENTS: u8 = 4;
const RULES: u8 = 7;
/// Seconds.
const BAKE: i64 = 30;

#[derive(Clone, Debug)]
enum Op {
    Want(u8),
    Break,
    Rules(u8),
    Pause(bool),
    Promote,
    Force,
    Abort,
    Retry,
    Pin(bool),
    AddPod,
    EndPod(usize),
    Ready(usize, bool),
    Silent(usize, bool),
    Stale(usize),
    Gate(bool),
    Watch,
    Sidecar(usize),
    Deliver(usize, usize, bool),
    Pass(i64),
    Operator,
    OperatorRestarts,
    CandidateIsDeleted,
}

fn op() -> impl Strategy<Value = Op> {
    let pod = || 0..12_usize;
    prop_oneof![
        4 => (0..CONTENTS).prop_map(Op::Want),
        1 => Just(Op::Break),
        1 => (0..RULES).prop_map(Op::Rules),
        1 => any::<bool>().prop_map(Op::Pause),
        1 => Just(Op::Promote),
        1 => Just(Op::Force),
        1 => Just(Op::Abort),
        1 => Just(Op::Retry),
        1 => any::<bool>().prop_map(Op::Pin),
        4 => Just(Op::AddPod),
        2 => pod().prop_map(Op::EndPod),
        2 => (pod(), any::<bool>()).prop_map(|(pod, ready)| Op::Ready(pod, ready)),
        2 => (pod(), any::<bool>()).prop_map(|(pod, silent)| Op::Silent(pod, silent)),
        1 => pod().prop_map(Op::Stale),
        1 => any::<bool>().prop_map(Op::Gate),
        12 => Just(Op::Watch),
        16 => pod().prop_map(Op::Sidecar),
        16 => (pod(), 0..3_usize, any::<bool>()).prop_map(|(pod, which, twice)| Op::Deliver(pod, which, twice)),
        6 => (-5..90_i64).prop_map(Op::Pass),
        1 => (-4000..4000_i64).prop_map(Op::Pass),
        24 => Just(Op::Operator),
        2 => Just(Op::OperatorRestarts),
        1 => Just(Op::CandidateIsDeleted),
    ]
}

/// What the sidecar of a pod did, as it really was.
#[derive(Clone, Debug)]
struct ModelPod {
    pod: Pod,
    silent: bool,
    born: Timestamp,
    /// What it shows: revision and hash.
    shows: Option<(i64, String)>,
    /// The hash its check refused last, if the head or candidate it saw last was refused.
    says: Option<(ReplicaState, i64, String, String)>,
    outbox: Vec<Replica>,
}

/// What the operator remembers of a step: lost when it restarts.
#[derive(Clone, PartialEq)]
struct Stage {
    of: (String, usize, Timestamp),
    baking_since: Option<Timestamp>,
    gates: BTreeMap<String, GateState>,
}

struct World {
    spec: DistributedConfigSpec,
    orders: Orders,
    wanted: Option<u8>,
    now: Timestamp,
    uids: u32,
    /// With its bundle.
    head: Option<Head>,
    candidate: Option<(String, Head, String)>,
    log: BTreeMap<i64, (LogEntry, Bundle)>,
    highest: i64,
    pods: Vec<ModelPod>,
    replicas: BTreeMap<String, Replica>,
    /// Pods and replicas as the watches showed them last: they may lag behind.
    seen: (Vec<Pod>, BTreeMap<String, Replica>),
    stage: Option<Stage>,
    /// Content that became the last good one while no pod could say something of it.
    unseen: BTreeSet<String>,
    /// What the gate answers when it is asked.
    gate_holds: bool,
    /// Checked independently of the operator's own memory.
    blocked: Option<String>,
}

fn bundle(content: u8) -> Bundle {
    let file = BundleFile { mode: 0o444, secret: false, bytes: vec![content] };
    Bundle { files: [("f".to_owned(), file)].into(), provenance: b"{}".to_vec() }
}

/// Which pods refuse which content: content 3 nobody takes, content 2 a third refuses.
fn refuses(pod_uid: &str, hash: &str) -> bool {
    let number: u32 = pod_uid.trim_start_matches('p').parse().unwrap();
    hash == bundle(3).hash() || (hash == bundle(2).hash() && number.is_multiple_of(3))
}

fn rules(kind: u8) -> Option<Rollout> {
    let step = |pods| Step { pods, bake: Some(Span::of_seconds(BAKE.unsigned_abs())) };
    let rollout = |strategy| Rollout { strategy, deadline: Some(Span::of_seconds(300)), ..Rollout::default() };
    match kind {
        0 => None,
        1 => Some(rollout(Kind::Immediate)),
        2 => Some(rollout(Kind::Quorum)),
        3 => Some(Rollout { quorum: Some(Quorum::All), ..rollout(Kind::Quorum) }),
        4 => Some(Rollout {
            steps: vec![step(Amount::Percent(10)), step(Amount::Percent(50)), step(Amount::Percent(100))],
            ..rollout(Kind::Canary)
        }),
        5 => Some(Rollout {
            steps: vec![step(Amount::Count(2))],
            gates: serde_json::from_str(
                r#"[{"name": "ready", "podsReady": {}},
                    {"name": "smoke", "http": {"url": "http://x"}, "interval": "10s", "failureLimit": 1}]"#,
            )
            .unwrap(),
            ..rollout(Kind::Canary)
        }),
        _ => Some(Rollout {
            steps: vec![step(Amount::Count(1))],
            max_rejected: Some(Amount::Percent(50)),
            ..rollout(Kind::Canary)
        }),
    }
}

fn stored(head: &Head) -> Observed {
    let version = Version { uid: "head".into(), resource_version: "1".into() };
    Observed::Ours(Stored { version, head: Head { bundle: Bundle::default(), ..head.clone() }, provenance: [0; 32] })
}

impl World {
    fn new(kind: u8) -> Self {
        let mut spec: DistributedConfigSpec = serde_json::from_str(r#"{"layers":[],"files":[]}"#).unwrap();
        spec.selector = Some(LabelSelector::default());
        spec.rollout = rules(kind);
        spec.revision_history_limit = 4;
        Self {
            spec,
            orders: Orders::default(),
            wanted: Some(0),
            now: Timestamp::from_second(1_000_000).unwrap(),
            uids: 0,
            head: None,
            candidate: None,
            log: BTreeMap::new(),
            highest: 0,
            pods: Vec::new(),
            replicas: BTreeMap::new(),
            seen: (Vec::new(), BTreeMap::new()),
            stage: None,
            unseen: BTreeSet::new(),
            gate_holds: true,
            blocked: None,
        }
    }

    fn uid(&mut self, kind: &str) -> String {
        self.uids += 1;
        format!("{kind}{}", self.uids)
    }

    fn proposed(&self) -> Option<i64> {
        self.head.as_ref()?.standing.rollout.as_ref().map(|i| i.proposal.revision)
    }

    fn apply(&mut self, op: &Op) {
        let index = |pods: &Vec<ModelPod>, n: usize| (!pods.is_empty()).then(|| n % pods.len());
        match *op {
            Op::Want(content) => self.wanted = Some(content),
            Op::Break => self.wanted = None,
            Op::Rules(kind) => self.spec.rollout = rules(kind),
            Op::Pause(paused) => self.orders.paused = paused,
            Op::Promote => self.orders.promote = self.proposed(),
            Op::Force => self.orders.force_promote = self.proposed(),
            Op::Abort => self.orders.abort = self.proposed(),
            Op::Retry => {
                self.orders.retry =
                    self.head.as_ref().and_then(|head| head.standing.refused.as_ref()).map(|refused| refused.revision);
            }
            Op::Pin(pin) => {
                let oldest = self.log.keys().next().copied();
                self.spec.pin = oldest.filter(|_| pin).map(|revision| Pin { revision });
            }
            Op::AddPod => {
                if self.pods.len() < 12 {
                    let uid = self.uid("p");
                    let pod = Pod { name: uid.clone(), uid, ready: false, ending: false };
                    let born = self.now;
                    self.pods.push(ModelPod { pod, silent: false, born, shows: None, says: None, outbox: Vec::new() });
                }
            }
            Op::EndPod(n) => {
                if let Some(n) = index(&self.pods, n) {
                    // First it is being deleted; on a node that is cut off it stays so.
                    if !self.pods[n].pod.ending {
                        self.pods[n].pod.ending = true;
                        return;
                    }
                    let gone = self.pods.remove(n);
                    // The garbage collector comes later, or never in this history.
                    if n % 2 == 0 {
                        self.replicas.remove(&gone.pod.uid);
                    }
                }
            }
            Op::Ready(n, ready) => {
                if let Some(n) = index(&self.pods, n) {
                    self.pods[n].pod.ready = ready && self.pods[n].shows.is_some();
                }
            }
            Op::Silent(n, silent) => {
                if let Some(n) = index(&self.pods, n) {
                    self.pods[n].silent = silent;
                }
            }
            Op::Stale(n) => {
                if let Some(n) = index(&self.pods, n) {
                    self.stale(n);
                }
            }
            Op::Gate(holds) => self.gate_holds = holds,
            Op::Watch => self.watch(),
            Op::Sidecar(n) => {
                if let Some(n) = index(&self.pods, n) {
                    self.sidecar(n);
                }
            }
            Op::Deliver(n, which, twice) => {
                if let Some(n) = index(&self.pods, n) {
                    let outbox = &mut self.pods[n].outbox;
                    if !outbox.is_empty() {
                        let which = which % outbox.len();
                        let replica = if twice { outbox[which].clone() } else { outbox.remove(which) };
                        self.replicas.insert(replica.pod_uid.clone(), replica);
                    }
                }
            }
            Op::Pass(seconds) => {
                self.now = Timestamp::from_second((self.now.as_second() + seconds).max(1)).unwrap();
            }
            Op::Operator => drop(self.operator()),
            Op::OperatorRestarts => {
                self.stage = None;
                self.watch();
            }
            Op::CandidateIsDeleted => self.candidate = None,
        }
    }

    /// The sidecar's turn: it reads the head, and does and says what it is asked.
    fn sidecar(&mut self, n: usize) {
        let Some(head) = &self.head else { return };
        let model = &mut self.pods[n];
        if model.silent || model.pod.ending {
            return;
        }
        let uid = model.pod.uid.clone();
        let born = self.replicas.get(&uid).map(|replica| replica.born);
        let candidate = self.candidate.as_ref().map(|(uid, candidate, _)| (uid.clone(), candidate));
        let asked = head
            .standing
            .rollout
            .as_ref()
            .filter(|instruction| candidate.as_ref().is_some_and(|(uid, _)| *uid == instruction.proposal.uid));
        let tries = asked.filter(|i| born.is_some_and(|born| i.chooses(&uid, born)));
        let votes = asked.filter(|i| i.ask == Ask::Vote);
        let before = model.says.clone();
        let speaks_of =
            |i: &quorate_crds::Instruction| (i.proposal.revision, i.proposal.hash.clone(), i.proposal.uid.clone());
        let (revision, hash, proposal) = tries.map_or((head.revision, head.hash.clone(), "head".to_owned()), speaks_of);
        if refuses(&uid, &hash) && model.shows.as_ref().is_none_or(|(_, shown)| *shown != hash) {
            model.says = Some((ReplicaState::Rejected, revision, hash, proposal));
            if tries.is_some() && !refuses(&uid, &head.hash) {
                model.shows = Some((head.revision, head.hash.clone()));
            }
        } else {
            model.shows = Some((revision, hash.clone()));
            // A refusal stays readable until there is something new.
            let keeps = before.as_ref().is_some_and(|(state, r, ..)| *state == ReplicaState::Rejected && *r > revision);
            if !keeps {
                model.says = Some((ReplicaState::Applied, revision, hash, proposal));
            }
        }
        if let Some(instruction) = votes {
            let (revision, hash, proposal) = speaks_of(instruction);
            let state = if refuses(&uid, &hash) { ReplicaState::Rejected } else { ReplicaState::Staged };
            model.says = Some((state, revision, hash, proposal));
        }
        if model.says != before {
            let (state, revision, hash, proposal) = model.says.clone().unwrap();
            let replica = Replica {
                pod_uid: uid.clone(),
                pod: uid,
                runs: model.shows.as_ref().map(|(revision, _)| *revision),
                state,
                revision: Some(revision),
                hash: Some(hash),
                proposal: Some(proposal),
                message: None,
                lamport: 0,
                born: born.unwrap_or(self.now.max(model.born)),
            };
            model.outbox.push(replica);
        }
    }

    /// The sidecar cannot confirm the head any more, and its last word says so.
    fn stale(&mut self, n: usize) {
        let model = &mut self.pods[n];
        let Some((revision, hash)) = model.shows.clone() else { return };
        let Some(replica) = self.replicas.get_mut(&model.pod.uid) else { return };
        model.says = Some((ReplicaState::Stale, revision, hash.clone(), "head".into()));
        model.silent = true;
        let (state, revision, hash) = (ReplicaState::Stale, Some(revision), Some(hash));
        *replica = Replica { state, revision, hash, proposal: Some("head".into()), ..replica.clone() };
    }

    /// The operator's watches catch up.
    fn watch(&mut self) {
        self.seen = (self.pods.iter().map(|model| model.pod.clone()).collect(), self.replicas.clone());
    }

    fn step(&self) -> Option<(String, usize, Timestamp)> {
        let instruction = self.head.as_ref()?.standing.rollout.as_ref()?;
        match instruction.ask {
            Ask::Vote => None,
            Ask::Try { step, .. } => Some((instruction.proposal.uid.clone(), step, instruction.since)),
        }
    }

    fn facts(&self) -> Facts {
        let (pods, replicas) = self.seen.clone();
        let alive: BTreeSet<&String> = pods.iter().map(|pod| &pod.uid).collect();
        let replicas = replicas.iter().filter(|(uid, _)| alive.contains(uid));
        let stage = self.stage.as_ref().filter(|stage| self.step().as_ref() == Some(&stage.of));
        Facts {
            replicas: replicas.map(|(uid, replica)| (uid.clone(), replica.clone())).collect(),
            told: BTreeMap::new(),
            electorate: self.candidate.as_ref().map(|(_, _, text)| read_electorate(text)).unwrap_or_default(),
            gates: stage.map(|stage| stage.gates.clone()).unwrap_or_default(),
            baking_since: stage.and_then(|stage| stage.baking_since),
            changed_by: None,
            term: 0,
            orders: self.orders,
            now: self.now,
            fresh: false,
            pods,
        }
    }

    /// One run of the operator, as reconcile does it. Returns whether it changed anything.
    fn operator(&mut self) -> bool {
        let mut facts = self.facts();
        let observed = self.head.as_ref().map_or(Observed::Absent, stored);
        let candidate =
            self.candidate.as_ref().map_or(CandidateSlot::Absent, |(uid, head, text)| CandidateSlot::Ours {
                version: Version { uid: uid.clone(), resource_version: "1".into() },
                head: Box::new(head.clone()),
                electorate: read_electorate(text),
            });
        let log: Log = self.log.iter().map(|(revision, (entry, _))| (*revision, entry.clone())).collect();
        let wanted = self.wanted.map(bundle).map(|bundle| Wanted { hash: bundle.hash(), bundle, provenance: [0; 32] });
        // Only what the operator was asked to look at counts as asked for.
        if let (Some(wanted), false, None) = (&wanted, self.spec.suspend, &self.spec.pin)
            && self.blocked.as_ref().is_some_and(|blocked| *blocked != wanted.hash)
        {
            self.blocked = None;
        }
        let wanted = wanted.ok_or_else(|| quorate_resolve::Problems(Vec::new()));
        let decision = loop {
            let situation = Situation {
                spec: &self.spec,
                observed: &observed,
                candidate: &candidate,
                log: &log,
                wanted: wanted.clone(),
                facts: &facts,
            };
            let decision = decide(&situation);
            if !matches!(decision.action, Action::Look) {
                break decision;
            }
            assert!(!facts.fresh, "it looks for ever");
            self.watch();
            facts = Facts { fresh: true, ..self.facts() };
        };
        let rollout = self.head.as_ref().and_then(|head| head.standing.rollout.clone());
        self.stage = self.step().zip(decision.progress.as_ref()).map(|(of, progress)| {
            let mut gates = facts.gates.clone();
            for due in &progress.gates_due {
                let answer = if self.gate_holds { Ok(()) } else { Err("503".to_owned()) };
                let failures = if self.gate_holds { 0 } else { gates.get(due).map_or(0, |gate| gate.failures) + 1 };
                gates.insert(due.clone(), GateState { failures, last: Some((self.now, answer)) });
            }
            Stage { of, baking_since: progress.baking_since, gates }
        });
        let before = self.head.clone();
        let source = match &decision.action {
            Action::Accept => self.candidate.as_ref().map(|(_, head, _)| head.clone()),
            Action::Restore { revision, .. } => {
                Some(Head::next(None, *revision, self.log[revision].1.clone(), self.now))
            }
            _ => None,
        };
        let highest = self.log.keys().next_back().copied().unwrap_or(0).max(self.highest);
        match &decision.action {
            Action::Propose(bundle) => {
                assert!(self.candidate.is_none(), "two candidates");
                let uid = self.uid("c");
                let known = before.as_ref().map_or(0, |head| head.standing.highest);
                let head = Head::next(before.as_ref(), highest.max(known) + 1, bundle.clone(), self.now);
                self.not_blocked(&head.hash);
                self.candidate = Some((uid, head, electorate(&facts.pods)));
            }
            Action::Discard(version) => {
                let (uid, ..) = self.candidate.take().unwrap();
                assert_eq!(uid, version.uid);
                assert!(rollout.is_none_or(|i| i.proposal.uid != uid), "the candidate that pods are asked about");
            }
            Action::Hold(_) | Action::Refuse(_) => return false,
            action => {
                let known = before.as_ref().map_or(0, |head| head.standing.highest);
                let head = head_after(&self.spec, before.as_ref(), highest.max(known), action, source, &facts).unwrap();
                self.check_move(before.as_ref(), &head, action, &facts);
                if before.as_ref().is_none_or(|before| before.revision != head.revision) {
                    let entry = LogEntry {
                        hash: head.hash.clone(),
                        time: head.decided_at,
                        restored: head.restored,
                        changed_by: None,
                        uid: String::new(),
                    };
                    let bundle =
                        if head.bundle.files.is_empty() { before.unwrap().bundle } else { head.bundle.clone() };
                    assert_eq!(bundle.hash(), head.hash);
                    self.log.insert(head.revision, (entry, bundle.clone()));
                    self.highest = self.highest.max(head.revision);
                    let log: Log = self.log.iter().map(|(revision, (entry, _))| (*revision, entry.clone())).collect();
                    for revision in surplus(&self.spec, &stored(&head), &log) {
                        self.log.remove(&revision);
                    }
                    self.head = Some(Head { bundle, ..head });
                } else {
                    let bundle = before.map(|before| before.bundle).unwrap_or_default();
                    self.head = Some(Head { bundle, ..head });
                }
            }
        }
        true
    }

    fn not_blocked(&self, hash: &str) {
        let retried = self.head.as_ref().and_then(|head| head.standing.refused.as_ref());
        let retried = retried.is_some_and(|refused| self.orders.retry == Some(refused.revision));
        assert!(retried || self.blocked.as_deref() != Some(hash), "refused content is proposed again by itself");
    }

    /// What must hold when the head changes.
    fn check_move(&mut self, before: Option<&Head>, after: &Head, action: &Action, facts: &Facts) {
        let Some(before) = before else { return };
        if after.good == Some(before.revision) && facts.able().next().is_none() {
            self.unseen.insert(before.hash.clone());
        }
        assert!(after.revision >= before.revision, "revisions rise");
        assert!(after.standing.highest >= before.standing.highest, "numbers are never used twice");
        assert!(after.revision > before.revision || after.hash == before.hash, "a revision has one content");
        if let (Some(old), Some(new)) = (&before.standing.rollout, &after.standing.rollout) {
            assert_eq!(old.proposal, new.proposal, "another candidate without an end of the first");
            if let (Ask::Try { step: a, threshold: t, born_by: b }, Ask::Try { step: c, threshold: u, born_by: d }) =
                (&old.ask, &new.ask)
            {
                assert!(u >= t && d >= b, "the chosen set shrinks");
                assert!(c == a || *c == a + 1, "a step is skipped");
                let had_chosen = facts.able().any(|(pod, replica)| old.chooses(&pod.uid, replica.born));
                assert!(c != a || u == t || !had_chosen, "the chosen set grows within a step");
            }
        }
        if let (None, Some(new)) = (&before.standing.rollout, &after.standing.rollout) {
            self.not_blocked(&new.proposal.hash);
            // Proposed again by somebody's word, or something else.
            self.blocked = None;
        }
        match action {
            Action::Publish(_) => {
                assert_eq!(rollout_of(&self.spec).strategy, Kind::Immediate, "nobody was asked");
                self.not_blocked(&after.hash);
                self.blocked = None;
            }
            Action::Accept => self.check_acceptance(before, after, facts),
            Action::Restore { because: Restore::Refused(_), .. } => {
                // What lasted without a pod is taken for good.
                let seen = !self.unseen.contains(&after.hash);
                assert!(!seen || after.hash != bundle(3).hash(), "what nobody takes is no last good content");
                self.blocked = Some(before.hash.clone());
            }
            Action::Instruct(standing) => {
                if let Some(refused) = standing.refused.as_ref().filter(|_| before.standing.rollout.is_some()) {
                    self.blocked = Some(refused.hash.clone());
                }
            }
            _ => {}
        }
    }

    /// The rule, once more and from what the pods really did.
    fn check_acceptance(&mut self, before: &Head, after: &Head, facts: &Facts) {
        let instruction = before.standing.rollout.as_ref().unwrap();
        let revision = instruction.proposal.revision;
        assert_eq!((after.revision, &after.hash), (revision, &instruction.proposal.hash));
        self.blocked = None;
        let by_order = self.orders.force_promote == Some(revision);
        let promoted = self.orders.promote == Some(revision);
        if by_order {
            return;
        }
        let said = |model: &ModelPod, state: ReplicaState| {
            model.says.as_ref().is_some_and(|(s, r, h, p)| {
                *s == state && *r == revision && *h == after.hash && *p == instruction.proposal.uid
            })
        };
        // What a pod said once of this very proposal, it may have taken over meanwhile.
        let voted = |model: &ModelPod, state: ReplicaState| {
            said(model, state)
                || self
                    .replicas
                    .get(&model.pod.uid)
                    .is_some_and(|r| r.state == state && r.answers(&instruction.proposal))
        };
        let rollout = rollout_of(&self.spec);
        match instruction.ask {
            Ask::Vote => {
                let (_, _, text) = self.candidate.as_ref().unwrap();
                let then: BTreeSet<String> = read_electorate(text);
                let asked = self.pods.iter().filter(|model| {
                    let ready_then = electorate(&[Pod { ready: true, ending: false, ..model.pod.clone() }]);
                    let ready_now = model.pod.ready && !model.pod.ending;
                    ready_now || self.replicas.contains_key(&model.pod.uid) || then.contains(&ready_then)
                });
                let asked: Vec<_> = asked.collect();
                let accepted = asked.iter().filter(|model| voted(model, ReplicaState::Staged)).count();
                let liars = asked.iter().filter(|m| voted(m, ReplicaState::Staged) && refuses(&m.pod.uid, &after.hash));
                assert_eq!(liars.count(), 0, "a vote that no pod gave");
                let needed = rollout.quorum.unwrap_or_default().needed(asked.len());
                assert!(accepted >= needed, "{accepted} of {} accepted, {needed} must", asked.len());
            }
            Ask::Try { step, .. } => {
                let chosen: Vec<_> = self
                    .pods
                    .iter()
                    .filter(|m| !m.pod.ending && self.replicas.get(&m.pod.uid).is_some_and(|r| !r.is_stale()))
                    .filter(|m| self.replicas.get(&m.pod.uid).is_some_and(|r| instruction.chooses(&m.pod.uid, r.born)))
                    .collect();
                let applied = chosen.iter().filter(|model| voted(model, ReplicaState::Applied)).count();
                let rejected = chosen.iter().filter(|model| {
                    self.replicas[&model.pod.uid].state == ReplicaState::Rejected
                        && self.replicas[&model.pod.uid].answers(&instruction.proposal)
                });
                let rejected = rejected.count();
                assert!(rejected <= rollout.max_rejected().at_most(chosen.len()), "the budget");
                if promoted {
                    return;
                }
                assert!(step + 1 == rollout.steps.len(), "before the last step");
                assert!(applied > 0, "nobody tried it");
                let silent = chosen.len() - applied - rejected;
                assert!(silent * 2 < chosen.len(), "{silent} of {} say nothing", chosen.len());
                let lasted = self.now.as_second() - instruction.since.as_second();
                assert!(lasted >= BAKE, "it baked {lasted} s");
                if rollout.gates.is_empty() {
                    return;
                }
                let tried = chosen.iter().filter(|m| voted(m, ReplicaState::Applied));
                assert!(tried.clone().all(|m| m.pod.ready), "not ready");
                let (at, answer) = facts.gates["smoke"].last.clone().unwrap();
                assert!(
                    answer.is_ok() && at.as_second() >= instruction.since.as_second() + BAKE,
                    "the gate's last word"
                );
            }
        }
    }

    /// From here on nothing is changed any more and everybody does what it should: it ends.
    fn settle(&mut self) {
        self.orders.paused = false;
        self.gate_holds = true;
        for model in &mut self.pods {
            model.silent = false;
        }
        for _ in 0..200 {
            let mut changed = false;
            for n in 0..self.pods.len() {
                self.sidecar(n);
                for replica in std::mem::take(&mut self.pods[n].outbox) {
                    changed |= self.replicas.insert(replica.pod_uid.clone(), replica.clone()) != Some(replica);
                }
                self.pods[n].pod.ready = self.pods[n].shows.is_some() && !self.pods[n].pod.ending;
            }
            self.watch();
            changed |= self.operator();
            self.now = Timestamp::from_second(self.now.as_second() + 10).unwrap();
            let under_way = self.head.as_ref().is_some_and(|head| head.standing.rollout.is_some());
            if !changed && (!under_way || self.pods.iter().all(|model| model.pod.ending)) {
                return self.check_end();
            }
        }
        panic!("it does not end: {:?}", self.head.as_ref().map(|head| &head.standing));
    }

    fn check_end(&self) {
        let Some(head) = &self.head else {
            assert!(self.wanted.is_none());
            return;
        };
        if head.standing.rollout.is_none() {
            assert!(self.candidate.is_none(), "a candidate is left behind");
            for model in self.pods.iter().filter(|model| !model.pod.ending) {
                let shown = model.shows.as_ref().map(|(revision, hash)| (*revision, hash.as_str()));
                assert!(
                    shown == Some((head.revision, head.hash.as_str())) || refuses(&model.pod.uid, &head.hash),
                    "{} shows {shown:?}, but the head is {} {}",
                    model.pod.uid,
                    head.revision,
                    head.hash
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_rules_and_ends(kind in 0..RULES, ops in prop::collection::vec(op(), 1..250)) {
        let mut world = World::new(kind);
        for op in &ops {
            world.apply(op);
        }
        world.settle();
    }
}

/// Pods that all have the first revision and reported it.
fn running(kind: u8, pods: usize) -> World {
    let mut world = World::new(kind);
    assert!(world.operator());
    for _ in 0..pods {
        let uid = world.uid("p");
        let pod = Pod { name: uid.clone(), uid, ready: true, ending: false };
        let born = world.now;
        world.pods.push(ModelPod { pod, silent: false, born, shows: None, says: None, outbox: Vec::new() });
    }
    all_speak(&mut world, |_| true);
    world
}

fn all_speak(world: &mut World, who: impl Fn(usize) -> bool) {
    for n in (0..world.pods.len()).filter(|n| who(*n)) {
        world.sidecar(n);
        for replica in std::mem::take(&mut world.pods[n].outbox) {
            world.replicas.insert(replica.pod_uid.clone(), replica);
        }
    }
}

fn revision(world: &World) -> i64 {
    world.head.as_ref().unwrap().revision
}

fn until_idle(world: &mut World) {
    for _ in 0..20 {
        world.watch();
        if !world.operator() {
            return;
        }
    }
    panic!("the operator does not come to rest");
}

#[test]
fn one_reachable_pod_of_a_hundred_never_decides() {
    for kind in [2, 3, 4] {
        let mut world = running(kind, 100);
        world.wanted = Some(1);
        until_idle(&mut world);
        for _ in 0..100 {
            all_speak(&mut world, |n| n == 0);
            until_idle(&mut world);
            // The others are cut off, and their node is given up by the cluster.
            for model in world.pods.iter_mut().skip(1) {
                model.pod.ready = false;
            }
            world.now = Timestamp::from_second(world.now.as_second() + 10).unwrap();
        }
        assert_eq!(revision(&world), 1, "rules {kind}");
        assert!(world.head.as_ref().unwrap().standing.rollout.is_none(), "the deadline gave it up");
    }
}

#[test]
fn the_canary_goes_step_by_step_and_what_it_refuses_is_taken_back_and_remembered() {
    let mut world = running(4, 10);
    world.wanted = Some(1);
    let mut chosen = Vec::new();
    for _ in 0..40 {
        until_idle(&mut world);
        all_speak(&mut world, |_| true);
        let has_it = world.pods.iter().filter(|model| model.shows.as_ref().is_some_and(|(r, _)| *r == 2)).count();
        if chosen.last() != Some(&has_it) {
            chosen.push(has_it);
        }
        world.now = Timestamp::from_second(world.now.as_second() + 10).unwrap();
    }
    assert_eq!((chosen, revision(&world)), (vec![1, 5, 10], 2));

    // Content 3 nobody takes: the first pod that tries it says so, and nobody else ever has it.
    world.wanted = Some(3);
    until_idle(&mut world);
    all_speak(&mut world, |_| true);
    until_idle(&mut world);
    all_speak(&mut world, |_| true);
    assert_eq!(revision(&world), 2);
    let refused = world.head.as_ref().unwrap().standing.refused.clone().unwrap();
    assert!(refused.reason.contains("step 1 of 3: 1 of 1 pods refused it"), "{}", refused.reason);
    assert!(world.pods.iter().all(|model| model.shows.as_ref().unwrap().0 == 2));
    assert!(!world.operator(), "proposed again by itself");
    world.orders.retry = Some(refused.revision);
    assert!(world.operator(), "retry was asked for");
    until_idle(&mut world);
    assert_eq!(world.proposed(), Some(4), "a number is never used twice");
}

#[test]
fn immediate_refusals_beyond_the_budget_bring_the_last_good_content_back() {
    let mut world = running(1, 10);
    world.wanted = Some(1);
    until_idle(&mut world);
    all_speak(&mut world, |_| true);
    // A third refuses content 2; a fifth may.
    world.wanted = Some(2);
    until_idle(&mut world);
    assert_eq!(revision(&world), 3);
    all_speak(&mut world, |_| true);
    until_idle(&mut world);
    let head = world.head.clone().unwrap();
    assert_eq!((head.revision, head.restored, head.hash), (4, Some(2), bundle(1).hash()));
    assert!(!world.operator(), "it comes to rest on the good content");
    world.wanted = Some(0);
    until_idle(&mut world);
    assert_eq!(world.head.as_ref().unwrap().standing.refused, None);
}

#[test]
fn votes_of_an_older_proposal_or_of_a_pod_made_again_count_for_nothing() {
    let mut world = running(3, 3);
    world.wanted = Some(1);
    until_idle(&mut world);
    all_speak(&mut world, |n| n < 2);
    // A newer wish: the same pods' votes are for what is gone.
    world.wanted = Some(2);
    until_idle(&mut world);
    world.wanted = Some(1);
    until_idle(&mut world);
    all_speak(&mut world, |n| n == 2);
    until_idle(&mut world);
    assert_eq!(revision(&world), 1, "two of the three votes were for an earlier candidate of the same content");
    // Pod 0 is made again under its name: the old one's vote does not speak for it.
    all_speak(&mut world, |n| n == 0);
    let old = world.pods.remove(0);
    let uid = world.uid("p");
    let pod = Pod { uid, ..old.pod };
    world.pods.insert(0, ModelPod { pod, shows: None, says: None, ..old });
    all_speak(&mut world, |n| n == 1);
    until_idle(&mut world);
    assert_eq!(revision(&world), 1);
    all_speak(&mut world, |n| n == 0);
    until_idle(&mut world);
    assert_eq!(world.head.as_ref().unwrap().hash, bundle(1).hash());
}

#[test]
fn impossible_quorums_and_selectors_that_match_nothing_wait_and_say_why() {
    let mut world = running(2, 2);
    world.spec.rollout = Some(Rollout { quorum: Some(Quorum::Of(Amount::Count(3))), ..rules(2).unwrap() });
    world.wanted = Some(1);
    until_idle(&mut world);
    all_speak(&mut world, |_| true);
    let told = |world: &World| {
        let facts = Facts { fresh: true, ..world.facts() };
        let head = world.head.as_ref().unwrap();
        let i = head.standing.rollout.as_ref().unwrap();
        quorate_operator::rollout::judge(world.spec.rollout.as_ref().unwrap(), i, &facts)
    };
    let (_, progress) = told(&world);
    assert!(progress.message.contains("3 pods must accept, but there are 2"), "{}", progress.message);
    until_idle(&mut world);
    assert_eq!(revision(&world), 1);

    let mut world = running(2, 0);
    world.wanted = Some(1);
    until_idle(&mut world);
    world.now = Timestamp::from_second(world.now.as_second() + 100_000).unwrap();
    until_idle(&mut world);
    assert!(told(&world).1.message.contains("matches no pod"), "{}", told(&world).1.message);
    let mut world = running(1, 0);
    world.wanted = Some(1);
    until_idle(&mut world);
    assert_eq!(revision(&world), 2, "Immediate goes on");
}

#[test]
fn rules_that_cannot_be_are_refused_and_publish_nothing() {
    let mut world = running(2, 2);
    world.spec.selector = None;
    world.wanted = Some(1);
    assert!(!world.operator());
    assert_eq!((revision(&world), world.candidate.is_none()), (1, true));
}

fn pass(world: &mut World, seconds: i64) {
    world.now = Timestamp::from_second(world.now.as_second() + seconds).unwrap();
}

fn standing(world: &World) -> &quorate_crds::Standing {
    &world.head.as_ref().unwrap().standing
}

#[test]
fn good_is_what_pods_run_not_what_they_have_not_refused_yet() {
    let mut world = running(1, 10);
    // Two bad revisions, the second before any pod has come to the first.
    for bad in [3, 2] {
        world.wanted = Some(bad);
        until_idle(&mut world);
    }
    all_speak(&mut world, |_| true);
    until_idle(&mut world);
    let head = world.head.clone().unwrap();
    assert_eq!((head.revision, head.restored, head.hash), (4, Some(1), bundle(0).hash()));
}

#[test]
fn a_refusal_counts_while_the_layers_are_broken_too() {
    let mut world = running(1, 3);
    world.wanted = Some(3);
    until_idle(&mut world);
    world.wanted = None;
    all_speak(&mut world, |_| true);
    until_idle(&mut world);
    assert_eq!(world.head.as_ref().unwrap().restored, Some(1));
}

#[test]
fn pods_of_nodes_that_are_cut_off_keep_their_voices_while_they_are_being_deleted() {
    let mut world = running(2, 100);
    world.wanted = Some(1);
    until_idle(&mut world);
    for model in world.pods.iter_mut().skip(1) {
        (model.pod.ready, model.pod.ending) = (false, true);
    }
    for _ in 0..100 {
        all_speak(&mut world, |n| n == 0);
        until_idle(&mut world);
        pass(&mut world, 10);
    }
    assert_eq!(revision(&world), 1, "one pod decided for a hundred");
    assert!(standing(&world).refused.as_ref().unwrap().reason.contains("of 100 pods"), "{:?}", standing(&world));
}

#[test]
fn a_vote_that_waited_for_pods_gives_those_who_come_their_time() {
    let mut world = running(2, 0);
    world.wanted = Some(1);
    for _ in 0..200 {
        until_idle(&mut world);
        pass(&mut world, 100);
    }
    until_idle(&mut world);
    let uid = world.uid("p");
    let pod = Pod { name: uid.clone(), uid, ready: true, ending: false };
    world.pods.push(ModelPod { pod, silent: false, born: world.now, shows: None, says: None, outbox: Vec::new() });
    until_idle(&mut world);
    assert!(standing(&world).rollout.is_some(), "given up before anybody could vote");
    all_speak(&mut world, |_| true);
    until_idle(&mut world);
    assert_eq!(revision(&world), 2);
}

#[test]
fn content_that_ends_the_pods_that_try_it_does_not_go_on_from_pod_to_pod() {
    let mut world = running(6, 3);
    world.wanted = Some(1);
    for _ in 0..60 {
        until_idle(&mut world);
        all_speak(&mut world, |_| true);
        // Whoever shows it is replaced.
        for n in 0..world.pods.len() {
            if world.pods[n].shows.as_ref().is_some_and(|(revision, _)| *revision == 2) {
                let uid = world.uid("p");
                let pod = Pod { name: uid.clone(), uid, ready: true, ending: false };
                let old = world.pods[n].pod.uid.clone();
                world.replicas.remove(&old);
                let born = world.now;
                world.pods[n] = ModelPod { pod, silent: false, born, shows: None, says: None, outbox: Vec::new() };
            }
        }
        pass(&mut world, 10);
    }
    assert!(standing(&world).refused.is_some(), "still under way after ten minutes");
    assert_eq!(revision(&world), 1);
}

#[test]
fn rules_that_become_impossible_and_a_pin_end_what_is_under_way() {
    for end in 0..2 {
        let mut world = running(6, 3);
        world.wanted = Some(1);
        until_idle(&mut world);
        all_speak(&mut world, |_| true);
        assert_eq!(world.pods.iter().filter(|model| model.shows.as_ref().unwrap().0 == 2).count(), 1);
        if end == 0 {
            world.spec.rollout.as_mut().unwrap().steps.clear();
        } else {
            world.spec.pin = Some(Pin { revision: 1 });
        }
        until_idle(&mut world);
        assert_eq!((standing(&world).superseded, world.candidate.is_none()), (Some(2), true));
        all_speak(&mut world, |_| true);
        assert!(world.pods.iter().all(|model| model.shows.as_ref().unwrap().0 == 1));
    }
}

#[test]
fn suspension_and_pause_stop_a_rollouts_time_and_its_words_do_not_change() {
    for suspended in [true, false] {
        let mut world = running(6, 3);
        world.wanted = Some(1);
        until_idle(&mut world);
        all_speak(&mut world, |_| true);
        until_idle(&mut world);
        let hold = |world: &mut World, held| {
            if suspended { world.spec.suspend = held } else { world.orders.paused = held }
        };
        hold(&mut world, true);
        until_idle(&mut world);
        let told = |world: &World| {
            let i = standing(world).rollout.clone().unwrap();
            let progress = quorate_operator::rollout::judge(&rollout_of(&world.spec), &i, &world.facts()).1;
            (i.paused, progress.message)
        };
        let before = told(&world);
        assert!(before.0);
        for _ in 0..100 {
            pass(&mut world, 100);
            assert!(!world.operator());
            assert!(suspended || told(&world) == before, "{:?}", told(&world));
        }
        hold(&mut world, false);
        until_idle(&mut world);
        assert!(standing(&world).rollout.is_some(), "its time ran out while it was held");
        pass(&mut world, BAKE);
        until_idle(&mut world);
        assert_eq!(revision(&world), 2);
    }
}

#[test]
fn a_canary_chooses_no_stale_pod_and_waits_for_none() {
    let mut world = running(6, 4);
    for n in 0..3 {
        world.stale(n);
    }
    world.wanted = Some(1);
    for _ in 0..8 {
        until_idle(&mut world);
        all_speak(&mut world, |_| true);
        pass(&mut world, 10);
    }
    assert_eq!(revision(&world), 2);

    // The one that was chosen becomes stale: another is chosen.
    let mut world = running(6, 4);
    world.wanted = Some(1);
    until_idle(&mut world);
    let instruction = standing(&world).rollout.clone().unwrap();
    let chosen = world.pods.iter().position(|model| instruction.chooses(&model.pod.uid, model.born)).unwrap();
    world.stale(chosen);
    for _ in 0..8 {
        until_idle(&mut world);
        all_speak(&mut world, |_| true);
        pass(&mut world, 10);
    }
    assert_eq!(revision(&world), 2);
}

#[test]
fn how_fresh_pods_must_be_is_told_under_a_pin_too() {
    let mut world = running(1, 1);
    world.spec.pin = Some(Pin { revision: 1 });
    until_idle(&mut world);
    let freshness: quorate_crds::Freshness = serde_json::from_str(r#"{"maxAge": "1m"}"#).unwrap();
    world.spec.freshness = Some(freshness.clone());
    until_idle(&mut world);
    assert_eq!(world.head.as_ref().unwrap().freshness, freshness);
}

#[test]
fn refusals_without_a_way_back_are_told_as_long_as_they_stand() {
    let mut world = World::new(1);
    world.wanted = Some(3);
    assert!(world.operator());
    for _ in 0..3 {
        world.apply(&Op::AddPod);
    }
    all_speak(&mut world, |_| true);
    pass(&mut world, 100_000);
    world.watch();
    let facts = world.facts();
    let reason = quorate_operator::rollout::immediate::refused(
        &rollout_of(&world.spec),
        world.head.as_ref().unwrap(),
        false,
        &facts,
    );
    assert!(reason.unwrap().contains("3 of 3 pods refused it"));
}

#[test]
fn a_gate_that_fails_too_often_gives_it_up_and_its_last_word_comes_after_the_bake() {
    let mut world = running(5, 4);
    world.wanted = Some(1);
    let turn = |world: &mut World| {
        until_idle(world);
        all_speak(world, |_| true);
        until_idle(world);
        pass(world, 5);
    };
    // It is asked while the step bakes, and once more after it: both before the head moves.
    while revision(&world) == 1 {
        turn(&mut world);
        assert!(standing(&world).refused.is_none() && world.now.as_second() < 1_000_200, "{:?}", standing(&world));
    }
    world.wanted = Some(0);
    world.gate_holds = false;
    for _ in 0..10 {
        turn(&mut world);
    }
    let refused = standing(&world).refused.clone().unwrap();
    assert!(refused.reason.contains("gate smoke: 503"), "{}", refused.reason);
    assert_eq!(revision(&world), 2);
}

/// The pod's check of the candidate gives no answer: it says so, which is no word on the candidate.
fn hangs(world: &mut World, n: usize) {
    let instruction = standing(world).rollout.clone().unwrap();
    let model = &mut world.pods[n];
    model.silent = true;
    let replica = world.replicas.get_mut(&model.pod.uid).unwrap();
    let quorate_crds::Proposal { uid, revision, hash } = instruction.proposal;
    let (state, revision, hash) = (ReplicaState::Stale, Some(revision), Some(hash));
    *replica = Replica { state, revision, hash, proposal: Some(uid), ..replica.clone() };
}

fn chosen(world: &World) -> Vec<usize> {
    let instruction = standing(world).rollout.clone().unwrap();
    let is_chosen = |n: &usize| {
        let uid = &world.pods[*n].pod.uid;
        instruction.chooses(uid, world.replicas[uid].born)
    };
    (0..world.pods.len()).filter(is_chosen).collect()
}

#[test]
fn a_check_that_hangs_makes_a_canary_neither_grow_nor_hurry() {
    // One pod is asked, and hangs: nobody else is.
    let mut world = running(6, 4);
    world.wanted = Some(1);
    until_idle(&mut world);
    let first = chosen(&world);
    hangs(&mut world, first[0]);
    for _ in 0..20 {
        until_idle(&mut world);
        pass(&mut world, 10);
        assert_eq!(chosen(&world), first);
    }
    // One of five applies it, four hang: that is no majority.
    let mut world = running(4, 10);
    let step = Step { pods: Amount::Percent(50), bake: None };
    world.spec.rollout = Some(Rollout { steps: vec![step], ..rules(4).unwrap() });
    world.wanted = Some(1);
    until_idle(&mut world);
    let asked = chosen(&world);
    assert_eq!(asked.len(), 5);
    for n in &asked[1..] {
        hangs(&mut world, *n);
    }
    all_speak(&mut world, |n| n == asked[0]);
    for _ in 0..20 {
        until_idle(&mut world);
        pass(&mut world, 10);
    }
    assert_eq!(revision(&world), 1);
}

#[test]
fn what_lasted_is_good_where_nobody_is_left_to_say_so() {
    let mut world = running(1, 3);
    world.wanted = Some(1);
    until_idle(&mut world);
    all_speak(&mut world, |_| true);
    // Scaled to nothing for a night, and changed meanwhile.
    world.pods.clear();
    world.replicas.clear();
    pass(&mut world, 30_000);
    world.wanted = Some(3);
    until_idle(&mut world);
    assert_eq!(world.head.as_ref().unwrap().good, Some(2));
}

#[test]
fn a_canary_that_is_accepted_leaves_the_revision_before_as_the_last_good_one() {
    let mut world = running(4, 10);
    world.wanted = Some(1);
    for _ in 0..40 {
        until_idle(&mut world);
        all_speak(&mut world, |_| true);
        pass(&mut world, 10);
    }
    assert_eq!((revision(&world), world.head.as_ref().unwrap().good), (2, Some(1)));
}

#[test]
fn a_lost_head_is_made_again_under_rules_that_cannot_be() {
    let mut world = running(6, 1);
    world.spec.rollout.as_mut().unwrap().steps.clear();
    world.head = None;
    assert!(world.operator());
    assert_eq!(world.head.as_ref().unwrap().hash, bundle(0).hash());
}
