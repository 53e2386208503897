//! DistributedCounter: one number that many add to, each exactly once.

use std::{borrow::Cow, collections::BTreeMap, num::ParseIntError};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Writers that a counter remembers: the object is not to grow without bound.
pub const MAX_COUNTER_WRITERS: usize = 512;
/// Idempotency keys that a counter remembers.
pub const MAX_COUNTER_KEYS: usize = 1024;

/// One number that many add to, each exactly once.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quorate.io",
    version = "v1alpha1",
    kind = "DistributedCounter",
    plural = "distributedcounters",
    shortname = "dctr",
    category = "quorate",
    namespaced,
    status = "DistributedCounterStatus",
    derive = "PartialEq",
    selectable = ".status.next",
    doc = "DistributedCounter is one number that many add to and compare-and-set, each operation exactly once, also when answers are lost. Its users change the status only.",
    printcolumn = r#"{"name":"Value","type":"integer","description":"Empty before the first operation: then it is spec.initial.","jsonPath":".status.value"}"#,
    printcolumn = r#"{"name":"Min","type":"integer","jsonPath":".spec.min"}"#,
    printcolumn = r#"{"name":"Max","type":"integer","jsonPath":".spec.max"}"#,
    printcolumn = r#"{"name":"Last-Writer","type":"string","priority":1,"description":"Who wrote last.","jsonPath":".status.lastWrite.by"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    validation = Rule::new("!has(self.spec.min) || self.spec.min <= (has(self.status) ? self.status.value : self.spec.initial)").message("the value, which is spec.initial before the first operation, must not be below spec.min: bring the value up first, or set spec.min lower"),
    validation = Rule::new("!has(self.spec.max) || self.spec.max >= (has(self.status) ? self.status.value : self.spec.initial)").message("the value, which is spec.initial before the first operation, must not be above spec.max: bring the value down first, or set spec.max higher"),
    validation = Rule::new("self.spec.initial == oldSelf.spec.initial").message("spec.initial never changes: to set the value, use a compare-and-set (kubectl quorate counter set)"),
    validation = Rule::new("has(self.spec.clusterSet) == has(oldSelf.spec.clusterSet) && (!has(self.spec.clusterSet) || self.spec == oldSelf.spec)").message("spec.clusterSet never changes, and with it nothing of spec: the value is in the register that it began with; make another counter"),
    validation = Rule::new("has(self.status) || !has(oldSelf.status)").message("status is never removed: it is the counter")
)]
#[serde(rename_all = "camelCase")]
pub struct DistributedCounterSpec {
    /// The value before the first operation. Never changes.
    #[serde(default)]
    pub initial: i64,

    /// No operation takes the value below this. It may be changed as long as the value is not below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<i64>,

    /// No operation takes the value above this. It may be changed as long as the value is not above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<i64>,

    /// A ClusterSet of this namespace: the counter is in a register over its clusters then, which begins with this spec, and goes
    /// on whichever minority of them is lost. Each cluster in which it is used has such a counter. Never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub cluster_set: Option<String>,
}

/// The counter itself. One write changes all of it or nothing.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.lamport >= oldSelf.lamport && self.hlc >= oldSelf.hlc").message("status.lamport and status.hlc never fall")
)]
pub struct DistributedCounterStatus {
    /// The value.
    pub value: i64,

    /// Who writes it, by a random id, and the last write of each: so a write whose answer was lost is known again.
    /// Who has not written for 24 hours is forgotten.
    // One loop, and right here, since each step from an object to its field costs the API server a little of every write.
    #[x_kube(validation = Rule::new("self.all(id, id in oldSelf ? self[id].substring(0, 19) >= oldSelf[id].substring(0, 19) : self[id].startsWith('0000000000000000000 '))").message("the sequence of a writer is 0 when it registers, before its first operation, and never falls"))]
    #[schemars(extend("maxProperties" = MAX_COUNTER_WRITERS, "x-kubernetes-map-type" = "atomic"))]
    pub writers: BTreeMap<String, CounterWriter>,

    /// What was done under idempotency keys, by a hash of the key; kept for an hour at least.
    #[x_kube(validation = Rule::new("self.all(key, !(key in oldSelf) || self[key] == oldSelf[key])").message("what was done under an idempotency key never changes"))]
    #[schemars(extend("maxProperties" = MAX_COUNTER_KEYS, "x-kubernetes-map-type" = "atomic"))]
    pub keys: BTreeMap<String, CounterKey>,

    /// The Lamport stamp of the last write.
    #[serde(default)]
    pub lamport: i64,

    /// The stamp of the last write by a hybrid logical clock, in 16 hexadecimal digits: 52 bits of microseconds
    /// since 1970 and 12 of a count.
    #[serde(default = "no_stamp")]
    #[schemars(length(max = 16), regex(pattern = r"^[0-9a-f]{16}$"))]
    pub hlc: String,

    /// Whose turn it is where many write, by the writer's id: the others let it write first. The API server tells only those
    /// who watch for their own.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub next: String,

    /// Who wrote last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_write: Option<CounterWrite>,
}

/// The lowest stamp of a hybrid logical clock.
pub(crate) fn no_stamp() -> String {
    "0".repeat(16)
}

/// A writer's last write.
///
/// In the object it is one string: the API server checks each field by itself in each write of the counter, and there may be
/// hundreds of entries. It begins with the number in 19 digits, which sort as numbers do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct CounterWriter {
    /// The number of its last write; 0 when it registered.
    pub sequence: i64,
    /// The value before that write.
    pub before: i64,
    /// spec.min as of that write.
    pub min: Option<i64>,
    /// spec.max as of that write.
    pub max: Option<i64>,
    /// The Lamport stamp of that write: whose is lower has waited longer for its turn.
    pub lamport: i64,
    /// Whether the others wait for it when its turn has come. Not after it has missed one, until it writes again.
    pub awaited: bool,
    /// When that was, by the writer's clock. Whole seconds are kept.
    pub at: Time,
    /// What people know the writer by: the pod's name.
    pub by: String,
}

/// What was done under an idempotency key. In the object it is one string, as [`CounterWriter`] is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct CounterKey {
    /// The value before it: with the bounds below, it tells the result.
    pub before: i64,
    /// spec.min as of then.
    pub min: Option<i64>,
    /// spec.max as of then.
    pub max: Option<i64>,
    /// When that was, by the writer's clock. Whole seconds are kept.
    pub at: Time,
    /// The operation: `add 5`, or `set 3 to 4`.
    pub operation: String,
}

/// A text that is no entry of a counter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no entry of a counter's status, which is {form:?}: something else wrote it")]
pub struct NoEntry {
    text: String,
    form: &'static str,
}

const WRITER: &str = "SEQUENCE BEFORE MIN MAX LAMPORT awaited|late TIME NAME";
const KEY: &str = "BEFORE MIN MAX TIME OPERATION";

impl From<CounterWriter> for String {
    fn from(writer: CounterWriter) -> Self {
        let CounterWriter { sequence, before, min, max, lamport, awaited, at, by } = writer;
        let (min, max, at, turn) = (bound(min), bound(max), seconds(&at), if awaited { "awaited" } else { "late" });
        format!("{sequence:019} {before} {min} {max} {lamport} {turn} {at} {by}")
    }
}

impl TryFrom<String> for CounterWriter {
    type Error = NoEntry;

    fn try_from(text: String) -> Result<Self, NoEntry> {
        let parsed = || {
            let mut words = text.splitn(8, ' ');
            let writer = Self {
                sequence: words.next()?.parse().ok()?,
                before: words.next()?.parse().ok()?,
                min: parse_bound(words.next()?).ok()?,
                max: parse_bound(words.next()?).ok()?,
                lamport: words.next()?.parse().ok()?,
                awaited: match words.next()? {
                    "awaited" => true,
                    "late" => false,
                    _ => return None,
                },
                at: Time(words.next()?.parse().ok()?),
                by: words.next()?.to_owned(),
            };
            Some(writer)
        };
        parsed().ok_or_else(|| NoEntry { text: text.chars().take(80).collect(), form: WRITER })
    }
}

impl From<CounterKey> for String {
    fn from(key: CounterKey) -> Self {
        let CounterKey { before, min, max, at, operation } = key;
        format!("{before} {} {} {} {operation}", bound(min), bound(max), seconds(&at))
    }
}

impl TryFrom<String> for CounterKey {
    type Error = NoEntry;

    fn try_from(text: String) -> Result<Self, NoEntry> {
        let parsed = || {
            let mut words = text.splitn(5, ' ');
            let key = Self {
                before: words.next()?.parse().ok()?,
                min: parse_bound(words.next()?).ok()?,
                max: parse_bound(words.next()?).ok()?,
                at: Time(words.next()?.parse().ok()?),
                operation: words.next()?.to_owned(),
            };
            Some(key)
        };
        parsed().ok_or_else(|| NoEntry { text: text.chars().take(80).collect(), form: KEY })
    }
}

fn bound(bound: Option<i64>) -> String {
    bound.map_or_else(|| "-".to_owned(), |bound| bound.to_string())
}

fn parse_bound(text: &str) -> Result<Option<i64>, ParseIntError> {
    if text == "-" { Ok(None) } else { text.parse().map(Some) }
}

fn seconds(at: &Time) -> Timestamp {
    Timestamp::from_second(at.0.as_second()).unwrap_or(at.0)
}

impl JsonSchema for CounterWriter {
    fn schema_name() -> Cow<'static, str> {
        "CounterWriter".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": format!("A writer's last write: `{WRITER}`. The number of the write, 0 when it registered; the value before it; spec.min and spec.max as of then, or -; its Lamport stamp: whose is lower has waited longer for its turn; whether the others wait for it when its turn has come, or it has missed one; when it was, by the writer's clock; what people know the writer by: the pod's name."),
            "pattern": r"^[0-9]{19} -?[0-9]{1,19} (-|-?[0-9]{1,19}) (-|-?[0-9]{1,19}) -?[0-9]{1,19} (awaited|late) [-0-9:TZ]{20} .*$",
            "maxLength": 420,
        })
    }
}

impl JsonSchema for CounterKey {
    fn schema_name() -> Cow<'static, str> {
        "CounterKey".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": format!("What was done under an idempotency key: `{KEY}`. The value before it; spec.min and spec.max as of then, or -; when it was, by the writer's clock; the operation, which is `get`, `add 5` or `set 3 to 4`."),
            "pattern": r"^-?[0-9]{1,19} (-|-?[0-9]{1,19}) (-|-?[0-9]{1,19}) [-0-9:TZ]{20} (get|(add|set) [-0-9to ]{1,60})$",
            "maxLength": 160,
        })
    }
}

/// Who wrote last.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CounterWrite {
    /// What people know the writer by: the pod's name.
    #[schemars(length(max = 253))]
    pub by: String,

    /// The uid of the writer's pod, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub uid: Option<String>,

    /// When that was, by the writer's clock.
    pub at: Time,
}
