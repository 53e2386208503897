//! What to do, as a pure function of what was observed.
//!
//! This is the one place that says which content pods should read. It is asked again after every
//! change and every restart, and its answer depends on nothing but its arguments.

use std::collections::BTreeMap;

use jiff::Timestamp;
use quorate_crds::{
    DistributedConfigSpec,
    head::{Bundle, Head},
};
use quorate_resolve::Problems;

/// The head's object, as last read or written.
#[derive(Clone, Debug)]
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

/// What to do.
#[derive(Debug)]
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
    /// Leave all as it is, and say why.
    Refuse(Refusal),
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
}

/// Why old content is published again.
#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Restore {
    /// spec.pin.
    Pinned,
    /// The head is gone or damaged, and the layers give nothing that could replace it.
    LastGood(Problems),
}

/// Why nothing can be done.
#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Refusal {
    /// The layers or files are wrong.
    Invalid(Problems),
    /// The pinned revision is not in the log.
    PinGone {
        /// Which.
        revision: i64,
        /// Which there are.
        available: Vec<i64>,
    },
    /// The head's name is taken.
    NameTaken {
        /// By what.
        what: String,
    },
    /// A deleted config's head is still there; it will be collected.
    AwaitingPredecessor,
}

/// Says what to do about a config whose layers resolved to `candidate`.
#[must_use]
pub fn decide(
    spec: &DistributedConfigSpec,
    observed: &Observed,
    log: &Log,
    candidate: Result<Bundle, Problems>,
    provenance_digest: impl FnOnce(&Bundle) -> [u8; 32],
) -> Action {
    match observed {
        Observed::Foreign { what } => return Action::Refuse(Refusal::NameTaken { what: what.clone() }),
        Observed::Predecessor => return Action::Refuse(Refusal::AwaitingPredecessor),
        Observed::Absent | Observed::Ours(_) | Observed::Damaged { .. } => {}
    }
    if spec.suspend {
        return Action::Hold(Why::Suspended);
    }
    let stored = match observed {
        Observed::Ours(stored) => Some(stored),
        _ => None,
    };
    if let Some(pin) = &spec.pin {
        return decide_pinned(pin.revision, stored, log);
    }
    match (candidate, stored) {
        (Ok(bundle), Some(stored)) if bundle.hash() == stored.head.hash => {
            if provenance_digest(&bundle) == stored.provenance {
                Action::Hold(Why::Current)
            } else {
                Action::Explain(bundle)
            }
        }
        (Ok(bundle), _) => Action::Publish(bundle),
        (Err(problems), Some(_)) => Action::Refuse(Refusal::Invalid(problems)),
        // Pods that start now would find nothing to read, though the log has it.
        (Err(problems), None) => match log.last_key_value() {
            Some((&revision, _)) => Action::Restore { revision, because: Restore::LastGood(problems) },
            None => Action::Refuse(Refusal::Invalid(problems)),
        },
    }
}

fn decide_pinned(revision: i64, stored: Option<&Stored>, log: &Log) -> Action {
    let held = stored.is_some_and(|s| s.head.revision == revision || s.head.restored == Some(revision));
    if held {
        Action::Hold(Why::Pinned(revision))
    } else if log.contains_key(&revision) {
        Action::Restore { revision, because: Restore::Pinned }
    } else {
        Action::Refuse(Refusal::PinGone { revision, available: log.keys().copied().collect() })
    }
}

/// Which log entries are beyond the limit, oldest first. The present and the pinned stay; without a
/// good head, all do.
#[must_use]
pub fn surplus(spec: &DistributedConfigSpec, observed: &Observed, log: &Log) -> Vec<i64> {
    let Observed::Ours(Stored { head: Head { revision: current, .. }, .. }) = observed else { return Vec::new() };
    let limit = usize::try_from(spec.revision_history_limit).unwrap_or(1).max(1);
    let pinned = spec.pin.as_ref().map(|pin| pin.revision);
    let removable = log.keys().copied().filter(|revision| revision != current && Some(*revision) != pinned);
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

    fn decided(spec: &DistributedConfigSpec, observed: &Observed, log: &Log, candidate: Result<&str, ()>) -> String {
        let candidate = candidate.map(bundle).map_err(|()| broken());
        match decide(spec, observed, log, candidate, |_| [0; 32]) {
            Action::Hold(why) => format!("hold {why:?}"),
            Action::Publish(_) => "publish".into(),
            Action::Explain(_) => "explain".into(),
            Action::Restore { revision, because: Restore::Pinned } => format!("restore {revision} pinned"),
            Action::Restore { revision, .. } => format!("restore {revision} last good"),
            Action::Refuse(Refusal::Invalid(_)) => "refuse".into(),
            Action::Refuse(Refusal::PinGone { available, .. }) => format!("pin gone {available:?}"),
            Action::Refuse(refusal) => format!("{refusal:?}"),
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
            ("taken", &free, &foreign, log(&[]), Ok("a"), r#"NameTaken { what: "an Opaque Secret" }"#),
            (
                "taken, suspended",
                &spec(None, true),
                &foreign,
                log(&[]),
                Ok("a"),
                r#"NameTaken { what: "an Opaque Secret" }"#,
            ),
            ("predecessor", &free, &Observed::Predecessor, log(&[]), Ok("a"), "AwaitingPredecessor"),
        ];
        for (name, spec, observed, log, candidate, expected) in cases {
            assert_eq!(decided(spec, observed, &log, candidate), expected, "{name}");
        }
    }

    #[test]
    fn new_provenance_alone_is_written_but_is_no_revision() {
        let action = decide(&spec(None, false), &ours(head(1, "a", None)), &log(&[1]), Ok(bundle("a")), |_| [1; 32]);
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
