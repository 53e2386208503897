//! Step 5: what people are told, as pure functions: the status, and the events.

use std::ops::Bound;

use jiff::Timestamp;
use k8s_openapi::{
    api::events::v1::Event,
    apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time},
};
use kube::{Resource, ResourceExt, api::ObjectMeta};
use quorate_crds::{DistributedConfig, DistributedConfigStatus, HistoryEntry, head::hex};
use quorate_resolve::{ProblemKind, Problems, SourceKind, SourceRef};
use sha2::{Digest, Sha256};

use crate::{
    apply::Outcome,
    decide::{LogEntry, Observed, Refusal, Restore, Stored, Why, surplus},
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
            format!(
                "spec.pin.revision: revision {revision} is not in the history, or does not verify; there are {available:?}; {stays}"
            ),
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
        let entry = |(revision, entry): (&i64, &LogEntry)| HistoryEntry {
            revision: *revision,
            hash: entry.hash.clone(),
            // metav1.Time has whole seconds.
            time: Time(Timestamp::from_second(entry.time.as_second()).unwrap_or(entry.time)),
            restored: entry.restored,
            changed_by: entry.changed_by.clone(),
        };
        // Those are about to be deleted.
        let surplus = surplus(&config.spec, &memory.observed, &memory.log);
        let kept = memory.log.iter().rev().filter(|(revision, _)| !surplus.contains(revision));
        status.history = kept.take(HISTORY).map(entry).collect();
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
    let told = before.is_some_and(|c| c.status == "False" && c.reason == verdict.reason && c.message == message);
    if verdict.ready || told {
        return None;
    }
    let generation = config.metadata.generation.unwrap_or_default();
    let step = format!("{}\n{generation}\n{message}", verdict.reason);
    let revision = memory.and_then(present).unwrap_or_default();
    Some(event(config, revision, "Warning", verdict.reason, &message, &step, now))
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
        let first = warning(&config, &bad, None, at(1)).unwrap();
        // A crash between event and status: the same name.
        assert_eq!(warning(&config, &bad, None, at(9)).unwrap().metadata.name, first.metadata.name);
        config.status = status(&config, &bad, None, at(1));
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
        config.status = status(&config, &verdict(&held, &memory(1..=1)), Some(&memory(1..=1)), at(1));
        let rest = publications(&config, Some(&held), Some(&memory(1..=3)), at(9));
        let names = |events: &[Event]| events.iter().map(|e| e.metadata.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&rest), names(&told[1..]));
    }

    #[test]
    fn the_history_does_not_show_what_is_about_to_be_deleted() {
        let mut config = config();
        config.spec.revision_history_limit = 2;
        let held = verdict(&Outcome::Held(Why::Current), &memory(1..=5));
        let history = status(&config, &held, Some(&memory(1..=5)), at(1)).unwrap().history;
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
