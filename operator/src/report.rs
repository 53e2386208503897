//! Step 5: what people are told, as pure functions: the status, and the events.

use std::ops::Bound;

use jiff::Timestamp;
use k8s_openapi::{
    api::events::v1::Event,
    apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time},
};
use kube::{Resource, ResourceExt, api::ObjectMeta};
use quorate_crds::{
    AgreementStatus, Ask, CandidateStatus, DistributedConfig, DistributedConfigStatus, HistoryEntry, Instruction,
    PodCounts, Proposal, Refused, ReplicaState, Standing,
    head::{Head, hex},
    names,
};
use quorate_resolve::{ProblemKind, Problems, SourceKind, SourceRef};
use sha2::{Digest, Sha256};

use crate::{
    access,
    api::ApiError,
    apply::Outcome,
    decide::{LogEntry, Observed, Refusal, Restore, Stored, Why, rollout_of, surplus},
    population,
    rollout::{Facts, Progress},
    state::HeadMemory,
};

/// The longest condition message, in bytes.
const MESSAGE_BYTES: usize = 8 * 1024;
/// The longest event note, in bytes (events.k8s.io/v1 allows 1 kB).
const NOTE_BYTES: usize = 1000;
/// A pod that has not followed the head for so long is stale. Seconds.
const LATE: u64 = 60;
/// The condition of spec.access.
const ACCESS: &str = "AccessGranted";
/// The most history entries in a status.
const HISTORY: usize = 100;

/// What the conditions say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Ready.
    pub ready: bool,
    /// The operator is at it, or waits for something that others do.
    pub reconciling: bool,
    /// A person is needed.
    pub stalled: bool,
    /// A CamelCase word.
    pub reason: &'static str,
    /// The same in words.
    pub message: String,
}

/// What came of a run, in words; `progress` and `problems` are those of a rollout under way.
#[must_use]
pub fn verdict(
    outcome: &Outcome,
    memory: &HeadMemory,
    progress: Option<&Progress>,
    problems: Option<&Problems>,
) -> Verdict {
    let head = match &memory.observed {
        Observed::Ours(Stored { head, .. }) => Some(head),
        _ => None,
    };
    let stays = head.map_or("nothing is published yet".to_owned(), |head| format!("revision {} stays", head.revision));
    let revision = head.map_or(0, |head| head.revision);
    let ready = |reason, message| Verdict { ready: true, reconciling: false, stalled: false, reason, message };
    match outcome {
        Outcome::Held(Why::Current) | Outcome::Published { restored: None, .. } => {
            ready("Published", format!("revision {revision} is published"))
        }
        Outcome::Held(Why::Pinned(pin)) if *pin == revision => {
            ready("Pinned", format!("revision {revision} is held by spec.pin"))
        }
        Outcome::Held(Why::Pinned(pin)) => {
            ready("Pinned", format!("revision {revision} has the content of revision {pin}, held by spec.pin"))
        }
        Outcome::Published { restored: Some(Restore::Pinned), .. } => {
            let old = head.and_then(|head| head.restored).unwrap_or_default();
            ready("Pinned", format!("revision {revision} has the content of revision {old}, held by spec.pin"))
        }
        Outcome::Published { restored: Some(Restore::LastGood(problems)), .. } => {
            let old = head.and_then(|head| head.restored).unwrap_or_default();
            invalid(problems, &format!("revision {revision} has the last good content, that of revision {old}"))
        }
        Outcome::Published { restored: Some(Restore::HeadLost), .. } => Verdict {
            ready: false,
            reconciling: true,
            stalled: false,
            reason: "RolloutProgressing",
            message: format!("the head was lost: revision {revision} has the last good content"),
        },
        Outcome::Published { restored: Some(Restore::Refused(_)), .. } => match head {
            Some(Head { standing: Standing { refused: Some(refused), .. }, .. }) => rolled_back(refused, &stays),
            _ => stalled("RolledBack", stays),
        },
        Outcome::Refused(Refusal::RolledBack(refused)) => rolled_back(refused, &stays),
        Outcome::Refused(Refusal::NoReturn(reason)) => stalled(
            "Rejected",
            format!("revision {revision} is published, but {reason}; there is no earlier one to go back to"),
        ),
        Outcome::Refused(Refusal::RolloutInvalid(problems)) => {
            stalled("RolloutInvalid", format!("{stays}: {}", problems.join("; ")))
        }
        Outcome::Held(Why::Progressing) | Outcome::Moved => under_way(memory, progress, problems, &stays),
        Outcome::Held(Why::Suspended) => Verdict {
            ready: head.is_some(),
            reconciling: false,
            stalled: false,
            reason: "Suspended",
            message: format!("spec.suspend is true: {stays}"),
        },
        Outcome::Refused(Refusal::Invalid(problems)) => invalid(problems, &stays),
        Outcome::Refused(Refusal::PinGone { revision, available }) => stalled(
            "PinnedRevisionGone",
            format!(
                "spec.pin.revision: revision {revision} is not in the history, or does not verify; there are {available:?}; {stays}"
            ),
        ),
        Outcome::Refused(Refusal::NameTaken { whose, what }) => stalled(
            if *whose == "head" { "HeadNameTaken" } else { "CandidateNameTaken" },
            format!("the name of this config's {whose} is taken by {what}: rename or delete it; it is not overwritten"),
        ),
        Outcome::Refused(Refusal::AwaitingPredecessor) => Verdict {
            ready: false,
            reconciling: true,
            stalled: false,
            reason: "AwaitingPredecessor",
            message: "the head of a deleted config of this name is still to be collected".into(),
        },
    }
}

/// What was refused is remembered.
fn rolled_back(refused: &Refused, stays: &str) -> Verdict {
    let Refused { revision, reason, .. } = refused;
    let way_out = format!(
        "its content is not proposed again until the layers give something else, or by annotation {}={revision}",
        names::RETRY
    );
    stalled("RolledBack", format!("{stays}: revision {revision} was taken back: {reason}; {way_out}"))
}

/// A rollout under way. Wrong layers meanwhile are told first.
fn under_way(memory: &HeadMemory, progress: Option<&Progress>, problems: Option<&Problems>, stays: &str) -> Verdict {
    let instruction = population::instruction(memory);
    let proposed = instruction.map_or(0, |instruction| instruction.proposal.revision);
    if let Some(problems) = problems {
        return invalid(problems, &format!("{stays}, and revision {proposed} is on its way"));
    }
    let paused = instruction.is_some_and(|instruction| instruction.paused);
    let waits = progress.map_or("", |progress| progress.message.as_str());
    Verdict {
        ready: false,
        reconciling: true,
        stalled: false,
        reason: if paused { "RolloutPaused" } else { "RolloutProgressing" },
        message: format!("{stays}, revision {proposed} is on its way: {waits}"),
    }
}

/// A config whose layers or files are wrong. Missing sources are waited for; all else needs a person.
fn invalid(problems: &Problems, stays: &str) -> Verdict {
    let waits = problems.0.iter().all(|problem| problem.kind == ProblemKind::SourceMissing);
    Verdict {
        ready: false,
        reconciling: waits,
        stalled: !waits,
        reason: problems.0.first().map_or("Invalid", |problem| problem.kind.reason()),
        // What pods have comes first: the list may be long, and is cut.
        message: format!("{stays}: {problems}"),
    }
}

fn stalled(reason: &'static str, message: String) -> Verdict {
    Verdict { ready: false, reconciling: false, stalled: true, reason, message }
}

/// What is said when a run cannot come to its end: when the API server refuses to read or to write.
#[must_use]
pub fn failed(
    config: &DistributedConfig,
    reason: &'static str,
    source: Option<&SourceRef>,
    error: &dyn std::fmt::Display,
) -> Verdict {
    let revision = config.status.as_ref().and_then(|status| status.revision);
    let stays = revision.map_or("nothing is published yet".to_owned(), |revision| format!("revision {revision} stays"));
    let place = source.map(|source| places(config, source)).unwrap_or_default();
    let message = format!("{stays}: {place}{error}; it is tried again");
    Verdict { ready: false, reconciling: true, stalled: false, reason, message }
}

/// The layers and files of this config that refer to it: `layer db, file a.key: `.
fn places(config: &DistributedConfig, source: &SourceRef) -> String {
    let is = |kind, name: Option<&String>| source.kind == kind && name == Some(&source.name);
    let own = Some(&source.namespace) == config.namespace().as_ref();
    let layers = config.spec.layers.iter().filter(|layer| {
        is(SourceKind::ConfigMap, layer.config_map_ref.as_ref().map(|r| &r.name))
            || is(SourceKind::Secret, layer.secret_ref.as_ref().map(|r| &r.name))
    });
    let files = config.spec.files.iter().filter(|file| {
        is(SourceKind::ConfigMap, file.config_map_key_ref.as_ref().map(|r| &r.name))
            || is(SourceKind::Secret, file.secret_key_ref.as_ref().map(|r| &r.name))
    });
    let layers = layers.map(|layer| format!("layer {}", layer.name));
    let places: Vec<String> = layers.chain(files.map(|file| format!("file {}", file.path))).collect();
    if own && !places.is_empty() { places.join(", ") + ": " } else { String::new() }
}

/// Where the rollout stands, in a word.
fn phase(verdict: &Verdict) -> &'static str {
    match verdict.reason {
        "Published" => "Published",
        "Pinned" => "Pinned",
        "Suspended" => "Suspended",
        "RolloutProgressing" => "Progressing",
        "RolloutPaused" => "Paused",
        "RolledBack" => "RolledBack",
        _ => "Failed",
    }
}

/// A run's knowledge of pods and rollout.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What pods, gates and people say.
    pub facts: &'a Facts,
    /// Where the rollout stands.
    pub progress: Option<&'a Progress>,
}

/// What the pods say of the published revision.
fn pod_counts(config: &DistributedConfig, head: &Head, facts: &Facts) -> Option<PodCounts> {
    let (mut applied, mut rejected, mut stale, mut delivered) = (0, 0, 0, 0);
    let late = facts.seconds_since(head.decided_at) >= LATE;
    let staying = || facts.pods.iter().filter(|pod| !pod.ending);
    for pod in staying() {
        let replica = facts.replicas.get(&pod.uid);
        match replica.map(|replica| replica.state) {
            Some(ReplicaState::Rejected) if replica.and_then(|r| r.revision) == Some(head.revision) => rejected += 1,
            Some(ReplicaState::Stale | ReplicaState::Orphaned) => stale += 1,
            _ if replica.and_then(|r| r.runs) == Some(head.revision) => applied += 1,
            // It cannot say so, but was told of it.
            None if facts.told.get(&pod.uid) == Some(&head.revision) => delivered += 1,
            // A pod that tries a candidate is not late with the head.
            Some(_) if replica.and_then(|r| r.runs) > Some(head.revision) => {}
            _ if late => stale += 1,
            _ => {}
        }
    }
    let desired = count(staying().count());
    let mut summary = format!("{applied}/{desired}");
    if delivered > 0 {
        summary += &format!(" ({delivered} delivered)");
    }
    let counts = PodCounts { desired, applied, rejected, stale, delivered, summary };
    (desired > 0 || config.spec.selector.is_some()).then_some(counts)
}

fn candidate_status(
    config: &DistributedConfig,
    instruction: &Instruction,
    progress: Option<&Progress>,
    verdict: &Verdict,
) -> CandidateStatus {
    let progress = progress.cloned().unwrap_or_default();
    let step = match instruction.ask {
        Ask::Vote => None,
        Ask::Try { step, .. } => Some(step),
    };
    CandidateStatus {
        revision: instruction.proposal.revision,
        hash: instruction.proposal.hash.clone(),
        uid: instruction.proposal.uid.clone(),
        strategy: rollout_of(&config.spec).strategy,
        step: step.map(|step| count(step + 1)),
        steps: step.map(|_| count(rollout_of(&config.spec).steps.len())),
        since: Time(whole_seconds(instruction.since)),
        baking_since: progress.baking_since.map(|at| MicroTime(microseconds(at))),
        asked: count(progress.asked),
        accepted: count(progress.accepted),
        rejected: count(progress.rejected),
        message: shortened(if progress.message.is_empty() { &verdict.message } else { &progress.message }, NOTE_BYTES),
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn microseconds(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

/// The status to write, or `None` if it is there already.
#[must_use]
pub fn status(
    config: &DistributedConfig,
    verdict: &Verdict,
    access: Option<&access::Word>,
    memory: Option<&HeadMemory>,
    view: Option<View<'_>>,
    agreement: Option<AgreementStatus>,
    now: Timestamp,
) -> Option<DistributedConfigStatus> {
    let old = config.status.clone().unwrap_or_default();
    let generation = config.metadata.generation;
    let mut status = DistributedConfigStatus { observed_generation: generation, ..old.clone() };
    status.phase = Some(phase(verdict).to_owned());
    // What was known before an operator that has just begun is better than nothing.
    status.agreement = agreement.or(old.agreement.clone().filter(|_| config.spec.agreement.is_some()));
    if let Some(memory) = memory {
        if let Observed::Ours(Stored { head, .. }) = &memory.observed {
            status.revision = Some(head.revision);
            status.hash = Some(head.hash.clone());
            status.refused = head.standing.refused.as_ref().map(|refused| refused.revision);
            status.superseded = head.standing.superseded;
            let progress = view.and_then(|view| view.progress);
            let under_way = head.standing.rollout.as_ref();
            status.candidate = under_way.map(|i| candidate_status(config, i, progress, verdict));
            status.pods = view.and_then(|view| pod_counts(config, head, view.facts));
        }
        let entry = |(revision, entry): (&i64, &LogEntry)| HistoryEntry {
            revision: *revision,
            hash: entry.hash.clone(),
            // metav1.Time has whole seconds.
            time: Time(whole_seconds(entry.time)),
            restored: entry.restored,
            changed_by: entry.changed_by.clone(),
        };
        // Those are about to be deleted.
        let surplus = surplus(&config.spec, &memory.observed, &memory.log);
        let kept = memory.log.iter().rev().filter(|(revision, _)| !surplus.contains(revision));
        status.history = kept.take(HISTORY).map(entry).collect();
    }
    let of_verdict = [("Ready", verdict.ready), ("Reconciling", verdict.reconciling), ("Stalled", verdict.stalled)];
    let of_verdict = of_verdict.map(|(type_, holds)| (type_, holds, verdict.reason, &verdict.message));
    let of_access = access.map(|access| (ACCESS, access.granted, access.reason, &access.message));
    status.conditions = of_verdict
        .into_iter()
        .chain(of_access)
        .map(|(type_, holds, reason, message)| {
            let value = if holds { "True" } else { "False" };
            let before = old.conditions.iter().find(|c| c.type_ == type_ && c.status == value);
            let now = Time(whole_seconds(now));
            Condition {
                type_: type_.to_owned(),
                status: value.to_owned(),
                reason: reason.to_owned(),
                message: shortened(message, MESSAGE_BYTES),
                observed_generation: generation,
                last_transition_time: before.map_or(now, |c| c.last_transition_time.clone()),
            }
        })
        .collect();
    (status != old).then_some(status)
}

/// The events of the revisions that the status does not show: of each, since the operator may have
/// ended before it told of one, and published another since.
#[must_use]
pub fn publications(
    config: &DistributedConfig,
    outcome: Option<&Outcome>,
    memory: Option<&HeadMemory>,
    now: Timestamp,
) -> Vec<Event> {
    let Some(memory) = memory else { return Vec::new() };
    let told = config.status.as_ref().and_then(|status| status.revision).unwrap_or_default();
    let present = present(memory);
    let published = |(revision, entry): (&i64, &LogEntry)| {
        let mut note = format!("revision {revision} is published ({})", entry.hash);
        if let Some(restored) = entry.restored {
            note += &format!(", with the content of revision {restored}");
        }
        if let Some(Outcome::Published { repaired: Some(reason), .. }) = outcome
            && present == Some(*revision)
        {
            note += &format!("; the head had been changed by somebody else: {reason}");
        }
        let reason = if entry.restored.is_some() { "Restored" } else { "Published" };
        event(config, *revision, "Normal", reason, &note, reason, now)
    };
    memory.log.range((Bound::Excluded(told), Bound::Unbounded)).map(published).collect()
}

/// The events of a rollout's steps that the status does not show: of each, since the operator may have
/// ended between a step and its event.
#[must_use]
pub fn steps(config: &DistributedConfig, memory: &HeadMemory, now: Timestamp) -> Vec<Event> {
    let Observed::Ours(Stored { head, .. }) = &memory.observed else { return Vec::new() };
    let Standing { rollout, refused, superseded, .. } = &head.standing;
    let status = config.status.clone().unwrap_or_default();
    let mut events = Vec::new();
    if let Some(revision) = superseded.filter(|revision| status.superseded != Some(*revision)) {
        let note = format!(
            "revision {revision} makes way for another wish (content, rules, a pin); nothing of it was published"
        );
        events.push(event(config, revision, "Normal", "Superseded", &note, "Superseded", now));
    }
    if let Some(refused) = refused.as_ref().filter(|refused| status.refused != Some(refused.revision)) {
        let Refused { revision, reason, .. } = refused;
        let note = format!("revision {revision} was taken back: {reason}");
        events.push(event(config, *revision, "Warning", "RolledBack", &note, "RolledBack", now));
    }
    let Some(instruction) = rollout else { return events };
    let Proposal { revision, hash, .. } = &instruction.proposal;
    let told = status.candidate.filter(|told| told.uid == instruction.proposal.uid);
    let strategy = rollout_of(&config.spec).strategy;
    if told.is_none() {
        let note = format!("revision {revision} is proposed ({hash}), strategy {strategy}");
        events.push(event(config, *revision, "Normal", "Proposed", &note, "Proposed", now));
    }
    if let Ask::Try { step, .. } = instruction.ask {
        let told = told.and_then(|told| told.step).and_then(|step| usize::try_from(step).ok()).unwrap_or_default();
        let count = rollout_of(&config.spec).steps.len();
        for number in told + 1..=step + 1 {
            let note = format!("revision {revision}: step {number} of {count} begins");
            events.push(event(config, *revision, "Normal", "StepStarted", &note, &format!("step {number}"), now));
        }
    }
    // The status of before tells of it already, even when the event has been forgotten.
    if instruction.paused && !matches!(status.phase.as_deref(), Some("Paused" | "Suspended")) {
        let by = if config.spec.suspend { "spec.suspend" } else { "a person" };
        let note = format!("revision {revision} is held by {by}");
        let step = format!("paused {}", instruction.since);
        events.push(event(config, *revision, "Normal", "Paused", &note, &step, now));
    }
    events
}

/// The event of a verdict that needs attention, unless the status shows that it was written.
#[must_use]
pub fn warning(
    config: &DistributedConfig,
    verdict: &Verdict,
    memory: Option<&HeadMemory>,
    now: Timestamp,
) -> Option<Event> {
    let before = config.status.as_ref().and_then(|status| status.conditions.iter().find(|c| c.type_ == "Ready"));
    let message = shortened(&verdict.message, MESSAGE_BYTES);
    let revision = memory.and_then(present).unwrap_or_default();
    // Each further pod that refuses changes the words, but it is the same refusal.
    let (words, same) = if verdict.reason == "Rejected" {
        (revision.to_string(), config.status.as_ref().and_then(|status| status.revision) == Some(revision))
    } else {
        (message.clone(), before.is_some_and(|c| c.message == message))
    };
    let told = same && before.is_some_and(|c| c.status == "False" && c.reason == verdict.reason);
    // What was rolled back is told by its step; what is on its way needs no attention.
    if verdict.ready || told || matches!(verdict.reason, "RolledBack" | "RolloutProgressing" | "RolloutPaused") {
        return None;
    }
    let generation = config.metadata.generation.unwrap_or_default();
    let step = format!("{}\n{generation}\n{words}", verdict.reason);
    Some(event(config, revision, "Warning", verdict.reason, &message, &step, now))
}

/// The event of accounts that have not the rights they should, unless the status shows that it was written.
#[must_use]
pub fn access_warning(config: &DistributedConfig, access: &access::Word, now: Timestamp) -> Option<Event> {
    let before = config.status.as_ref().and_then(|status| status.conditions.iter().find(|c| c.type_ == ACCESS));
    let message = shortened(&access.message, MESSAGE_BYTES);
    let told = before.is_some_and(|c| c.reason == access.reason && c.message == message);
    if access.granted || told {
        return None;
    }
    let generation = config.metadata.generation.unwrap_or_default();
    let step = format!("{}\n{generation}\n{message}", access.reason);
    Some(event(config, 0, "Warning", access.reason, &message, &step, now))
}

/// The event of pods that could not be told of a revision.
#[must_use]
pub fn nudge_warning(config: &DistributedConfig, memory: &HeadMemory, error: &ApiError, now: Timestamp) -> Event {
    let revision = present(memory).unwrap_or_default();
    let note = format!(
        "pods that mount the head and have no sidecar see revision {revision} only when kubelet looks, within two minutes: \
         {error}; for --nudge-pods the operator needs the right to patch pods (nudge.enabled of the chart)"
    );
    event(config, revision, "Warning", "NudgeRefused", &note, "NudgeRefused", now)
}

/// The revision that pods read.
fn present(memory: &HeadMemory) -> Option<i64> {
    match &memory.observed {
        Observed::Ours(stored) => Some(stored.head.revision),
        _ => None,
    }
}

/// An event whose name is made of the config's uid, the revision and the step: written twice, it is one.
fn event(
    config: &DistributedConfig,
    revision: i64,
    type_: &str,
    reason: &str,
    note: &str,
    step: &str,
    now: Timestamp,
) -> Event {
    let uid = config.uid().unwrap_or_default();
    let id = hex(&Sha256::digest(format!("{uid}\n{revision}\n{step}")));
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{}", config.name_any(), &id[..16])),
            namespace: config.namespace(),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(microseconds(now))),
        action: Some("Reconcile".into()),
        reason: Some(reason.to_owned()),
        note: Some(shortened(note, NOTE_BYTES)),
        type_: Some(type_.to_owned()),
        regarding: Some(config.object_ref(&())),
        reporting_controller: Some("quorate.io/operator".into()),
        reporting_instance: Some("quorate-operator".into()),
        ..Event::default()
    }
}

fn shortened(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let end = (0..=bytes - 4).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    format!("{} …", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_crds::head::{Bundle, Head};

    use crate::decide::Version;

    fn config() -> DistributedConfig {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "generation": 3},
            "spec": {"layers": [{"name": "a", "inline": {}}], "files": [{"path": "a.yaml"}]}
        }))
        .unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn a_status_is_written_once_and_transitions_keep_their_time() {
        let mut config = config();
        let bad = stalled("HeadNameTaken", "x".into());
        config.status = status(&config, &bad, None, None, None, None, at(1));
        assert_eq!(status(&config, &bad, None, None, None, None, at(2)), None);
        let other = stalled("PinnedRevisionGone", "y".into());
        let next = status(&config, &other, None, None, None, None, at(3)).unwrap();
        assert!(next.conditions.iter().all(|c| c.last_transition_time.0 == at(1) && c.observed_generation == Some(3)));
    }

    #[test]
    fn a_refusal_is_told_once_and_again_when_it_is_another() {
        let mut config = config();
        let bad = stalled("HeadNameTaken", "x".into());
        let first = warning(&config, &bad, None, at(1)).unwrap();
        // A crash between event and status: the same name.
        assert_eq!(warning(&config, &bad, None, at(9)).unwrap().metadata.name, first.metadata.name);
        config.status = status(&config, &bad, None, None, None, None, at(1));
        assert_eq!(warning(&config, &bad, None, at(2)), None);
        let other = warning(&config, &stalled("HeadNameTaken", "y".into()), None, at(3)).unwrap();
        assert_ne!(other.metadata.name, first.metadata.name);
    }

    fn memory(revisions: std::ops::RangeInclusive<i64>) -> HeadMemory {
        let version = Version { uid: "h".into(), resource_version: "1".into() };
        let head = Head::next(None, *revisions.end(), Bundle::default(), at(0));
        let entry = |revision: i64| {
            let entry = LogEntry {
                hash: format!("sha256:{revision}"),
                time: at(0),
                restored: (revision == 2).then_some(1),
                changed_by: None,
                uid: revision.to_string(),
            };
            (revision, entry)
        };
        HeadMemory {
            candidate: crate::decide::CandidateSlot::Absent,
            config_uid: "u1".into(),
            highest: *revisions.end(),
            observed: Observed::Ours(Stored { version, head, provenance: [0; 32] }),
            log: revisions.map(entry).collect(),
        }
    }

    #[test]
    fn every_revision_that_the_status_does_not_show_is_told_under_its_own_name() {
        let mut config = config();
        let told = publications(&config, None, Some(&memory(1..=3)), at(1));
        let reasons: Vec<_> = told.iter().filter_map(|event| event.reason.as_deref()).collect();
        assert_eq!(reasons, ["Published", "Restored", "Published"]);
        let held = Outcome::Held(Why::Current);
        config.status =
            status(&config, &verdict(&held, &memory(1..=1), None, None), None, Some(&memory(1..=1)), None, None, at(1));
        let rest = publications(&config, Some(&held), Some(&memory(1..=3)), at(9));
        let names = |events: &[Event]| events.iter().map(|e| e.metadata.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&rest), names(&told[1..]));
    }

    #[test]
    fn the_history_does_not_show_what_is_about_to_be_deleted() {
        let mut config = config();
        config.spec.revision_history_limit = 2;
        let held = verdict(&Outcome::Held(Why::Current), &memory(1..=5), None, None);
        let history = status(&config, &held, None, Some(&memory(1..=5)), None, None, at(1)).unwrap().history;
        assert_eq!(history.iter().map(|entry| entry.revision).collect::<Vec<_>>(), [5, 4]);
    }

    #[test]
    fn a_failure_names_layer_and_revision_and_a_long_list_does_not_hide_the_latter() {
        let mut config = config();
        config.spec.layers[0].secret_ref = serde_json::from_value(serde_json::json!({"name": "db"})).unwrap();
        let source = SourceRef { kind: SourceKind::Secret, namespace: "shop".into(), name: "db".into() };
        let verdict = failed(&config, "ReadRefused", Some(&source), &"get Secret shop/db: forbidden (403)");
        let expected = "nothing is published yet: layer a: get Secret shop/db: forbidden (403); it is tried again";
        assert_eq!(verdict.message, expected);
        let problem = quorate_resolve::Problem {
            kind: ProblemKind::SourceMissing,
            layer: None,
            file: None,
            pointer: None,
            reason: "x".repeat(MESSAGE_BYTES),
        };
        let message = invalid(&Problems(vec![problem]), "revision 4 stays").message;
        assert!(shortened(&message, MESSAGE_BYTES).contains("revision 4 stays"));
    }

    #[test]
    fn long_texts_end_within_their_bounds() {
        let text = shortened(&"é".repeat(5000), NOTE_BYTES);
        assert!(text.len() <= NOTE_BYTES && text.ends_with('…'));
    }
}
