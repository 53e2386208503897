//! The names, labels and annotations that operator, sidecar and plugin agree on.

/// The Secret type of a head: what pods read now.
pub const HEAD_TYPE: &str = "quorate.io/head";
/// The Secret type of a log entry: one published revision, immutable.
pub const REVISION_TYPE: &str = "quorate.io/revision";

/// The Secret type of a candidate: content that is proposed, while a rollout runs.
pub const CANDIDATE_TYPE: &str = "quorate.io/candidate";

/// Label on everything stored for a config: the config's name.
pub const LABEL_CONFIG: &str = "quorate.io/config";
/// Label that tells what a Secret is: [`KIND_HEAD`], [`KIND_CANDIDATE`] or [`KIND_REVISION`].
pub const LABEL_KIND: &str = "quorate.io/kind";
/// Value of [`LABEL_KIND`] on the head.
pub const KIND_HEAD: &str = "head";
/// Value of [`LABEL_KIND`] on the candidate.
pub const KIND_CANDIDATE: &str = "candidate";
/// Value of [`LABEL_KIND`] on log entries.
pub const KIND_REVISION: &str = "revision";

/// Annotation: the revision number, decimal. On a pod that mounts heads as plain volumes, those that it
/// was told of: `web=7,db=3`.
pub const REVISION: &str = "quorate.io/revision";
/// Annotation: `sha256:…` over the manifest; equal content has an equal hash.
pub const HASH: &str = "quorate.io/hash";
/// Annotation: the hash of the revision before; absent on the first.
pub const PREVIOUS_HASH: &str = "quorate.io/previous-hash";
/// Annotation: `sha256:…` over the previous chain value, the revision and the hash.
pub const CHAIN: &str = "quorate.io/chain";
/// Annotation: when the revision was decided, RFC 3339 with microseconds, by the operator's clock.
pub const DECIDED_AT: &str = "quorate.io/decided-at";
/// Annotation: the older revision whose content this is (a roll-back); absent otherwise.
pub const RESTORED: &str = "quorate.io/restored";

/// Annotation: the newest earlier revision that the pods had not refused when this one came.
pub const GOOD: &str = "quorate.io/good";
/// Annotation: who made the change behind this revision, from metadata.managedFields.
pub const CHANGED_BY: &str = "quorate.io/changed-by";
/// Annotation: the Lamport stamp, decimal.
pub const LAMPORT: &str = "quorate.io/lamport";
/// Annotation on the head: the rollout under way and what was refused, as JSON ([`crate::Standing`]).
pub const ROLLOUT: &str = "quorate.io/rollout";
/// Annotation on the head: spec.freshness as JSON.
pub const FRESHNESS: &str = "quorate.io/freshness";
/// Annotation on the candidate: the pods that were ready when it was made.
pub const POPULATION: &str = "quorate.io/population";

/// Annotation on a config: "true" holds its rollout.
pub const PAUSED: &str = "quorate.io/paused";
/// Annotation on a config: the revision of the candidate whose remaining steps are skipped.
pub const PROMOTE: &str = "quorate.io/promote";
/// Annotation on a config: the revision of the candidate to publish whatever the pods say.
pub const FORCE_PROMOTE: &str = "quorate.io/force-promote";
/// Annotation on a config: the revision of the candidate to give up.
pub const ABORT: &str = "quorate.io/abort";
/// Annotation on a config: the refused revision whose content is proposed again.
pub const RETRY: &str = "quorate.io/retry";

/// Data key of the manifest.
pub const MANIFEST_KEY: &str = "quorate.manifest.json";
/// Data key of the provenance.
pub const PROVENANCE_KEY: &str = "quorate.provenance.json";

/// The name of a config's head.
#[must_use]
pub fn head_name(config: &str) -> String {
    format!("{config}.quorate")
}

/// The name of a config's candidate.
#[must_use]
pub fn candidate_name(config: &str) -> String {
    format!("{config}.quorate-next")
}

/// The name of the Role and the RoleBinding that let pods read a config.
#[must_use]
pub fn access_name(config: &str) -> String {
    format!("{config}.quorate")
}

/// The name of a config's log entry.
#[must_use]
pub fn revision_name(config: &str, revision: i64) -> String {
    format!("{config}.quorate-r{revision}")
}
