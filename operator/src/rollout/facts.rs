//! What a rollout is judged by: the pods, what they say, what the gates answered, and the time.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use quorate_crds::{Orders, Proposal, ReplicaState, rank};

/// A pod that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// metadata.uid.
    pub uid: String,
    /// metadata.name.
    pub name: String,
    /// Whether its Ready condition holds.
    pub ready: bool,
    /// Whether it is being deleted. On a node that is cut off that may take for ever, so its voice in a
    /// vote is not gone yet; nothing else is asked of it.
    pub ending: bool,
}

/// What a pod says: its ConfigReplica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The pod's uid.
    pub pod_uid: String,
    /// The pod's name.
    pub pod: String,
    /// The revision whose files it has.
    pub runs: Option<i64>,
    /// What it says …
    pub state: ReplicaState,
    /// … of which revision …
    pub revision: Option<i64>,
    /// … with which content …
    pub hash: Option<String>,
    /// … read from which Secret.
    pub proposal: Option<String>,
    /// Why.
    pub message: Option<String>,
    /// Its Lamport stamp.
    pub lamport: i64,
    /// metadata.creationTimestamp, by the API server's clock.
    pub born: Timestamp,
}

impl Replica {
    /// Whether it speaks of exactly this proposal: an answer to another one, or another pod's, is none.
    #[must_use]
    pub fn answers(&self, proposal: &Proposal) -> bool {
        self.proposal.as_deref() == Some(proposal.uid.as_str())
            && self.revision == Some(proposal.revision)
            && self.hash.as_deref() == Some(proposal.hash.as_str())
    }

    /// Whether it says that it cannot follow the head. A check of other content that has not answered yet
    /// is none of that: it may be that content that hangs.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        match self.state {
            ReplicaState::Orphaned => true,
            ReplicaState::Stale => self.revision == self.runs,
            ReplicaState::Staged | ReplicaState::Applied | ReplicaState::Rejected => false,
        }
    }
}

/// What a gate answered in the present step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GateState {
    /// Failures in a row.
    pub failures: u32,
    /// When it was asked last, and what it answered.
    pub last: Option<(Timestamp, Result<(), String>)>,
}

/// All that a rollout is judged by.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The pods of the selector; without a selector, those that report.
    pub pods: Vec<Pod>,
    /// These pods' ConfigReplicas, by pod uid.
    pub replicas: BTreeMap<String, Replica>,
    /// By pod uid, the published revision that pods without a sidecar were told to look for.
    pub told: BTreeMap<String, i64>,
    /// The pods that were ready when the candidate was made, as [`electorate`] writes them.
    pub electorate: BTreeSet<String>,
    /// What the gates answered in this step.
    pub gates: BTreeMap<String, GateState>,
    /// Since when the step bakes.
    pub baking_since: Option<Timestamp>,
    /// What people ask for.
    pub orders: Orders,
    /// Who made the change that the layers show.
    pub changed_by: Option<String>,
    /// The term of the operator that decides; 0 if none is elected.
    pub term: u64,
    /// The time.
    pub now: Timestamp,
    /// Whether pods and replicas were listed by quorum just now: before that nothing is decided.
    pub fresh: bool,
}

impl Facts {
    /// The pods that report and stay, with what they say.
    pub fn reporting(&self) -> impl Iterator<Item = (&Pod, &Replica)> {
        let staying = self.pods.iter().filter(|pod| !pod.ending);
        staying.filter_map(|pod| Some((pod, self.replicas.get(&pod.uid)?)))
    }

    /// Those of them that follow the head, as far as they know.
    pub fn able(&self) -> impl Iterator<Item = (&Pod, &Replica)> {
        self.reporting().filter(|(_, replica)| !replica.is_stale())
    }

    /// Whether the pod votes: it was ready when the candidate was made, is ready now, or has said
    /// something before. Who is silent stays, until the pod ends.
    #[must_use]
    pub fn votes(&self, pod: &Pod) -> bool {
        pod.ready && !pod.ending || self.replicas.contains_key(&pod.uid) || self.electorate.contains(&voter(&pod.uid))
    }

    /// The term of what is written over something of this term. Its own, even if that is lower: then it is not for this
    /// operator to write, and the API server says so.
    #[must_use]
    pub const fn term_after(&self, before: u64) -> u64 {
        if self.term == 0 { before } else { self.term }
    }

    /// The next Lamport stamp: above all that was seen.
    #[must_use]
    pub fn lamport(&self, own: i64) -> i64 {
        let seen = self.replicas.values().map(|replica| replica.lamport).max().unwrap_or_default();
        seen.max(own).saturating_add(1)
    }

    /// Whole seconds since then; none if the clock went back.
    #[must_use]
    pub fn seconds_since(&self, then: Timestamp) -> u64 {
        u64::try_from(self.now.duration_since(then).as_secs()).unwrap_or_default()
    }
}

/// The pods that are ready, as the candidate keeps them: some 13 bytes a pod.
#[must_use]
pub fn electorate(pods: &[Pod]) -> String {
    let voters: Vec<String> = pods.iter().filter(|pod| pod.ready && !pod.ending).map(|pod| voter(&pod.uid)).collect();
    voters.join(",")
}

/// Reads what [`electorate`] wrote.
#[must_use]
pub fn read_electorate(text: &str) -> BTreeSet<String> {
    text.split(',').filter(|voter| !voter.is_empty()).map(str::to_owned).collect()
}

/// Twelve digits tell a million pods apart.
fn voter(uid: &str) -> String {
    format!("{:012x}", rank("voter", uid) >> 16)
}

/// How long, for people to read: coarse, so that what says it does not change every second.
#[must_use]
pub fn roughly(seconds: u64) -> String {
    match seconds {
        0..=10 => format!("{seconds} s"),
        11..=120 => format!("{} s", seconds.div_ceil(10) * 10),
        121..=7200 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3600)),
    }
}

/// At most three names, and how many more.
#[must_use]
pub fn named<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.len() {
        0..=3 => names.join(", "),
        more => format!("{} and {} more", names.get(..3).unwrap_or_default().join(", "), more - 3),
    }
}

/// What pods that refuse say, at most three of them.
#[must_use]
pub fn reasons<'a>(refusals: impl Iterator<Item = &'a Replica>) -> String {
    let refusals: Vec<&Replica> = refusals.collect();
    let told = refusals
        .iter()
        .take(3)
        .map(|replica| format!("{}: {}", replica.pod, replica.message.as_deref().unwrap_or("it gives no reason")));
    let told = told.collect::<Vec<_>>().join("; ");
    if refusals.len() > 3 { format!("{told}; and {} more", refusals.len() - 3) } else { told }
}
