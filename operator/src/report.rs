//! Step 5: what people are told, as pure functions: the status, and the events.

use jiff::Timestamp;
use k8s_openapi::{
    api::events::v1::Event,
    apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time},
};
use kube::{Resource, ResourceExt, api::ObjectMeta};
use quorate_crds::{DistributedConfig, DistributedConfigStatus, HistoryEntry, head::hex};
use quorate_resolve::{ProblemKind, Problems};
use sha2::{Digest, Sha256};

use crate::{
    apply::Outcome,
    decide::{Observed, Refusal, Restore, Stored, Why},
    state::HeadMemory,
};

/// The longest condition message, in bytes.
const MESSAGE_BYTES: usize = 8 * 1024;
/// The longest event note, in bytes (events.k8s.io/v1 allows 1 kB).
const NOTE_BYTES: usize = 1000;
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

/// What came of a run, in words.
#[must_use]
pub fn verdict(outcome: &Outcome, memory: &HeadMemory) -> Verdict {
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
            format!("spec.pin.revision: revision {revision} is not in the history, which has {available:?}; {stays}"),
        ),
        Outcome::Refused(Refusal::NameTaken { what }) => stalled(
            "HeadNameTaken",
            format!("the name of this config's head is taken by {what}: rename or delete it; it is not overwritten"),
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

/// A config whose layers or files are wrong. Missing sources are waited for; all else needs a person.
fn invalid(problems: &Problems, stays: &str) -> Verdict {
    let waits = problems.0.iter().all(|problem| problem.kind == ProblemKind::SourceMissing);
    Verdict {
        ready: false,
        reconciling: waits,
        stalled: !waits,
        reason: problems.0.first().map_or("Invalid", |problem| problem.kind.reason()),
        message: format!("{problems}; {stays}"),
    }
}

fn stalled(reason: &'static str, message: String) -> Verdict {
    Verdict { ready: false, reconciling: false, stalled: true, reason, message }
}

/// What is said when the API server refuses to store the result.
#[must_use]
pub fn write_refused(error: &dyn std::fmt::Display) -> Verdict {
    let message = format!("{error}; it is tried again");
    Verdict { ready: false, reconciling: true, stalled: false, reason: "WriteRefused", message }
}

/// The status to write, or `None` if it is there already.
#[must_use]
pub fn status(
    config: &DistributedConfig,
    verdict: &Verdict,
    memory: Option<&HeadMemory>,
    now: Timestamp,
) -> Option<DistributedConfigStatus> {
    let old = config.status.clone().unwrap_or_default();
    let generation = config.metadata.generation;
    let mut status = DistributedConfigStatus { observed_generation: generation, ..old.clone() };
    if let Some(memory) = memory {
        if let Observed::Ours(Stored { head, .. }) = &memory.observed {
            status.revision = Some(head.revision);
            status.hash = Some(head.hash.clone());
        }
        let entry = |(revision, entry): (&i64, &crate::decide::LogEntry)| HistoryEntry {
            revision: *revision,
            hash: entry.hash.clone(),
            // metav1.Time has whole seconds.
            time: Time(Timestamp::from_second(entry.time.as_second()).unwrap_or(entry.time)),
            restored: entry.restored,
            changed_by: entry.changed_by.clone(),
        };
        status.history = memory.log.iter().rev().take(HISTORY).map(entry).collect();
    }
    let conditions = [("Ready", verdict.ready), ("Reconciling", verdict.reconciling), ("Stalled", verdict.stalled)];
    status.conditions = conditions
        .into_iter()
        .map(|(type_, holds)| {
            let value = if holds { "True" } else { "False" };
            let before = old.conditions.iter().find(|c| c.type_ == type_ && c.status == value);
            let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
            Condition {
                type_: type_.to_owned(),
                status: value.to_owned(),
                reason: verdict.reason.to_owned(),
                message: shortened(&verdict.message, MESSAGE_BYTES),
                observed_generation: generation,
                last_transition_time: before.map_or(now, |c| c.last_transition_time.clone()),
            }
        })
        .collect();
    (status != old).then_some(status)
}

/// The events that the status does not show to have been written: of the present revision, and of a
/// verdict that needs attention.
#[must_use]
pub fn events(
    config: &DistributedConfig,
    outcome: Option<&Outcome>,
    verdict: &Verdict,
    memory: Option<&HeadMemory>,
    now: Timestamp,
) -> Vec<Event> {
    let mut events = Vec::new();
    let old = config.status.as_ref();
    let head = memory.and_then(|memory| match &memory.observed {
        Observed::Ours(stored) => Some(&stored.head),
        _ => None,
    });
    let revision = head.map(|head| head.revision);
    let published = matches!(outcome, Some(Outcome::Published { .. }));
    if let Some(head) = head
        && (published || old.and_then(|status| status.revision) != revision)
    {
        let mut note = format!("revision {} is published ({})", head.revision, head.hash);
        if let Some(restored) = head.restored {
            note += &format!(", with the content of revision {restored}");
        }
        if let Some(Outcome::Published { repaired: Some(reason), .. }) = outcome {
            note += &format!("; the head had been changed by somebody else: {reason}");
        }
        let reason = if head.restored.is_some() { "Restored" } else { "Published" };
        events.push(event(config, head.revision, "Normal", reason, &note, reason, now));
    }
    let before = old.and_then(|status| status.conditions.iter().find(|c| c.type_ == "Ready"));
    let message = shortened(&verdict.message, MESSAGE_BYTES);
    let told = before.is_some_and(|c| c.status == "False" && c.reason == verdict.reason && c.message == message);
    if !verdict.ready && !told {
        let generation = config.metadata.generation.unwrap_or_default();
        let step = format!("{}\n{generation}\n{message}", verdict.reason);
        events.push(event(config, revision.unwrap_or_default(), "Warning", verdict.reason, &message, &step, now));
    }
    events
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
        event_time: Some(MicroTime(Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now))),
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
        config.status = status(&config, &bad, None, at(1));
        assert_eq!(status(&config, &bad, None, at(2)), None);
        let other = stalled("PinnedRevisionGone", "y".into());
        let next = status(&config, &other, None, at(3)).unwrap();
        assert!(next.conditions.iter().all(|c| c.last_transition_time.0 == at(1) && c.observed_generation == Some(3)));
    }

    #[test]
    fn a_refusal_is_told_once_and_again_when_it_is_another() {
        let mut config = config();
        let bad = stalled("HeadNameTaken", "x".into());
        let first = events(&config, None, &bad, None, at(1));
        assert_eq!(first.len(), 1);
        // A crash between event and status: the same name.
        assert_eq!(events(&config, None, &bad, None, at(9))[0].metadata.name, first[0].metadata.name);
        config.status = status(&config, &bad, None, at(1));
        assert!(events(&config, None, &bad, None, at(2)).is_empty());
        let other = events(&config, None, &stalled("HeadNameTaken", "y".into()), None, at(3));
        assert_ne!(other[0].metadata.name, first[0].metadata.name);
    }

    #[test]
    fn long_texts_end_within_their_bounds() {
        let text = shortened(&"é".repeat(5000), NOTE_BYTES);
        assert!(text.len() <= NOTE_BYTES && text.ends_with('…'));
    }
}
