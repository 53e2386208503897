//! The names, labels and annotations that operator, sidecar and plugin agree on.

/// The Secret type of a head: what pods read now.
pub const HEAD_TYPE: &str = "quorate.io/head";
/// The Secret type of a log entry: one published revision, immutable.
pub const REVISION_TYPE: &str = "quorate.io/revision";

/// The Secret type of a candidate: content that is proposed, while a rollout runs.
pub const CANDIDATE_TYPE: &str = "quorate.io/candidate";

/// The Secret type of what a set of clusters agrees on: content by its hash, and the entries of their log; immutable.
pub const AGREED_TYPE: &str = "quorate.io/agreed";

/// Label on everything stored for a config: the config's name.
pub const LABEL_CONFIG: &str = "quorate.io/config";
/// Label on an item of a queue: the queue's name.
pub const LABEL_QUEUE: &str = "quorate.io/queue";
/// Label that tells what a Secret is: [`KIND_HEAD`], [`KIND_CANDIDATE`] or [`KIND_REVISION`].
pub const LABEL_KIND: &str = "quorate.io/kind";
/// Value of [`LABEL_KIND`] on the head.
pub const KIND_HEAD: &str = "head";
/// Value of [`LABEL_KIND`] on the candidate.
pub const KIND_CANDIDATE: &str = "candidate";
/// Value of [`LABEL_KIND`] on log entries.
pub const KIND_REVISION: &str = "revision";

/// Value of [`LABEL_KIND`] on content that clusters agree on.
pub const KIND_AGREED_CONTENT: &str = "agreed-content";
/// Value of [`LABEL_KIND`] on the entries of clusters' log.
pub const KIND_AGREED: &str = "agreed";
/// The data key of an entry of clusters' log.
pub const AGREED_KEY: &str = "entry";

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
/// Annotation: the term of the leader that wrote it, decimal. The API server refuses a lower one.
pub const FENCING_TOKEN: &str = "quorate.io/fencing-token";
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

/// Annotation on a Lease: who holds the lock and who waits, as JSON.
pub const LOCK: &str = "quorate.io/lock";
/// Annotation of a Lease: what one member of a lock on many clusters (`RedLock`) knows, but for its token, which is its [`FENCING_TOKEN`].
pub const REDLOCK: &str = "quorate.io/redlock";
/// Label on a Lease: the client whom its last grant went to, so that only that one is told of it.
pub const LOCK_GRANTED: &str = "quorate.io/granted";
/// Annotation on what coordination writes: the uid of the pod that wrote this version.
pub const WRITER: &str = "quorate.io/writer";

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

/// The name of the content with this hash (`sha256:…`) that clusters agree on.
#[must_use]
pub fn agreed_content_name(config: &str, hash: &str) -> String {
    let digits = hash.rsplit(':').next().unwrap_or_default();
    format!("{config}.quorate-c{}", digits.get(..32).unwrap_or(digits))
}

/// The name of an entry of the log that clusters agree on.
#[must_use]
pub fn agreed_name(config: &str, revision: i64) -> String {
    format!("{config}.quorate-a{revision}")
}

/// The name of the register in which clusters agree on a config.
#[must_use]
pub fn config_register(config: &str) -> String {
    format!("config.{config}")
}

/// The register in which a set of clusters keeps which registers were made. Those of configs are in another one than the rest,
/// since only who has the verb `decide` may write it (chart: `policies.heads`).
#[must_use]
pub fn registry(cluster_set: &str, register: &str) -> String {
    let prefix = if register.starts_with("config.") { CONFIG_REGISTRY } else { REGISTRY };
    format!("{prefix}{cluster_set}")
}

/// Whether a register of this name is a registry.
#[must_use]
pub fn is_registry(register: &str) -> bool {
    register.starts_with(REGISTRY) || register.starts_with(CONFIG_REGISTRY)
}

const REGISTRY: &str = "registry.";
const CONFIG_REGISTRY: &str = "config-registry.";

/// The name of the register of a counter over several clusters.
#[must_use]
pub fn counter_register(counter: &str) -> String {
    format!("counter.{counter}")
}

/// The name of the register of a lock over several clusters.
#[must_use]
pub fn lock_register(lock: &str) -> String {
    format!("lock.{lock}")
}
