//! DistributedQueue and QueueItem: work that is handed out one by one, and redelivered until it is acknowledged.

use k8s_openapi::ByteString;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{counter::no_stamp, quantity::Span};

/// The longest queue that may be allowed: etcd is no bulk store.
pub const MAX_QUEUE_LENGTH: u32 = 10_000;
/// The largest payload, in bytes.
pub const MAX_QUEUE_PAYLOAD: usize = 64 * 1024;
/// The longest visibility time, in seconds: 12 hours.
pub const MAX_VISIBILITY_SECONDS: i64 = 43_200;

/// Work that is handed out one by one, and redelivered until it is acknowledged.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quorate.io",
    version = "v1alpha1",
    kind = "DistributedQueue",
    plural = "distributedqueues",
    shortname = "dq",
    category = "quorate",
    namespaced,
    status = "DistributedQueueStatus",
    derive = "PartialEq",
    doc = "DistributedQueue is a queue of QueueItems: each is handed out in the order of its sequence, and again until it is acknowledged or has failed too often. At least once, never exactly once. Its users change the status only.",
    printcolumn = r#"{"name":"Ready","type":"integer","description":"To be handed out, as of the last count.","jsonPath":".status.counts.ready"}"#,
    printcolumn = r#"{"name":"Claimed","type":"integer","description":"Handed out and not acknowledged yet, as of the last count.","jsonPath":".status.counts.claimed"}"#,
    printcolumn = r#"{"name":"Dead","type":"integer","description":"Handed out too often, as of the last count.","jsonPath":".status.counts.dead"}"#,
    printcolumn = r#"{"name":"Sequence","type":"integer","description":"The last number that was given to an item.","jsonPath":".status.sequence"}"#,
    printcolumn = r#"{"name":"Max-Length","type":"integer","priority":1,"jsonPath":".spec.maxLength"}"#,
    printcolumn = r#"{"name":"Visibility","type":"string","priority":1,"jsonPath":".spec.visibilityTimeout"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    validation = Rule::new("self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')").message("the name of a queue has 63 characters at most and no '.': the names of its items begin with it"),
    validation = Rule::new("has(self.status) || !has(oldSelf.status)").message("status is never removed: it says which numbers were given out")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("duration(self.visibilityTimeout) >= duration('1s') && duration(self.visibilityTimeout) <= duration('12h')").message("spec.visibilityTimeout is from 1s to 12h"),
    validation = Rule::new("duration(self.keepAcknowledged) >= duration('2m') && duration(self.keepAcknowledged) <= duration('168h')").message("spec.keepAcknowledged is from 2m, so that a request that was long on its way finds the name taken, to 168h"),
    validation = Rule::new("!has(self.keepDead) || (duration(self.keepDead) >= duration('2m') && duration(self.keepDead) <= duration('8760h'))").message("spec.keepDead is from 2m to 8760h; without it dead letters stay")
)]
pub struct DistributedQueueSpec {
    /// For how long an item that was handed out is kept from others, unless its consumer asks for another time: 1s to 12h.
    #[serde(default = "thirty_seconds")]
    pub visibility_timeout: Span,

    /// So often an item is handed out. When the time of the last is up, or it is given back, the item is dead.
    #[serde(default = "five")]
    #[schemars(with = "i32", range(min = 1, max = 1000))]
    pub max_attempts: u32,

    /// With so many items that are ready or claimed nothing more is sent. A soft bound: those who send at the
    /// same time do not see each other's items yet, and may exceed it by as many.
    #[serde(default = "one_thousand")]
    #[schemars(with = "i32", range(min = 1, max = 10_000))]
    pub max_length: u32,

    /// For how long an acknowledged item that was sent under a name is kept, so that nothing is sent again under that name:
    /// 2m to 168h. Others are kept for two minutes.
    #[serde(default = "one_hour")]
    pub keep_acknowledged: Span,

    /// For how long dead letters are kept: 2m to 8760h. Without it they stay until somebody purges or redrives them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_dead: Option<Span>,
}

const fn thirty_seconds() -> Span {
    Span::of_seconds(30)
}

const fn one_hour() -> Span {
    Span::of_seconds(3600)
}

const fn five() -> u32 {
    5
}

const fn one_thousand() -> u32 {
    1000
}

impl Default for DistributedQueueSpec {
    fn default() -> Self {
        Self {
            visibility_timeout: thirty_seconds(),
            max_attempts: five(),
            max_length: one_thousand(),
            keep_acknowledged: one_hour(),
            keep_dead: None,
        }
    }
}

/// Which numbers were given out, and how many items there were when they were last counted.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.sequence >= oldSelf.sequence && self.lamport >= oldSelf.lamport && self.hlc >= oldSelf.hlc").message("status.sequence, status.lamport and status.hlc never fall")
)]
pub struct DistributedQueueStatus {
    /// The last number that was given to an item. There are gaps: a number whose item was not made is lost.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub sequence: i64,

    /// The Lamport stamp of the last item.
    #[serde(default)]
    pub lamport: i64,

    /// The stamp of the last item by a hybrid logical clock.
    #[serde(default = "no_stamp", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 16), regex(pattern = r"^[0-9a-f]{16}$"))]
    pub hlc: String,

    /// How many items there are, as the operator counted them last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<QueueCounts>,
}

/// How many items there were at some time.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueCounts {
    /// To be handed out.
    #[schemars(range(min = 0))]
    pub ready: i64,

    /// Handed out, and not acknowledged yet.
    #[schemars(range(min = 0))]
    pub claimed: i64,

    /// Handed out too often.
    #[schemars(range(min = 0))]
    pub dead: i64,

    /// Acknowledged, and kept for a while.
    #[schemars(range(min = 0))]
    pub acknowledged: i64,

    /// The highest number that was among them.
    #[schemars(range(min = 0))]
    pub sequence: i64,
}

/// One piece of work.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quorate.io",
    version = "v1alpha1",
    kind = "QueueItem",
    plural = "queueitems",
    shortname = "qi",
    category = "quorate",
    namespaced,
    status = "QueueItemStatus",
    derive = "PartialEq",
    selectable = ".spec.queue",
    selectable = ".status.state",
    doc = "QueueItem is one piece of work in a DistributedQueue, which owns it. It is made by who sends it and never changes; who works on it writes the status only. Acknowledged items stay for a while, so that their name is not used again.",
    printcolumn = r#"{"name":"Queue","type":"string","jsonPath":".spec.queue"}"#,
    printcolumn = r#"{"name":"Sequence","type":"integer","jsonPath":".spec.sequence"}"#,
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.state"}"#,
    printcolumn = r#"{"name":"Attempts","type":"integer","description":"How often it was handed out.","jsonPath":".status.attempts"}"#,
    printcolumn = r#"{"name":"Claimed-By","type":"string","description":"Who has it, or had it when it was acknowledged.","jsonPath":".status.claimedBy"}"#,
    printcolumn = r#"{"name":"Message","type":"string","priority":1,"description":"Why it was given back, or is dead.","jsonPath":".status.message"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    validation = Rule::new("self.spec == oldSelf.spec").message("spec never changes: send another item"),
    validation = Rule::new("self.metadata.name.startsWith(self.spec.queue + '.')").message("the name of an item is that of its queue, a '.', and the item's own"),
    validation = Rule::new("has(self.status) || !has(oldSelf.status)").message("status is never removed")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.payload) != has(self.binaryPayload)").message("an item has either spec.payload or spec.binaryPayload")
)]
pub struct QueueItemSpec {
    /// The queue's name.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub queue: String,

    /// Items are handed out in the order of this number.
    #[schemars(range(min = 1))]
    pub sequence: i64,

    /// The name it was sent under: while an item of this name is there, also as acknowledged or dead, no other is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub name: Option<String>,

    /// What it says, if that is text: 64 KiB at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65_536))]
    pub payload: Option<String>,

    /// What it says, if that is no text: 64 KiB at most, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // Not of format byte: the API server's rules take that for the alphabet of URLs.
    #[schemars(with = "Option<String>", length(max = 87_384), regex(pattern = r"^[A-Za-z0-9+/]*={0,2}$"))]
    pub binary_payload: Option<ByteString>,

    /// What people know the sender by: the pod's name.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub sent_by: String,

    /// The random id of the sending, by which a request whose answer was lost is known again.
    #[schemars(length(min = 1, max = 64))]
    pub operation: String,

    /// The sender's Lamport stamp.
    #[serde(default)]
    pub lamport: i64,

    /// The sender's stamp by a hybrid logical clock, in 16 hexadecimal digits: 52 bits of microseconds since 1970 and 12 of a
    /// count.
    #[serde(default = "no_stamp", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 16), regex(pattern = r"^[0-9a-f]{16}$"))]
    pub hlc: String,
}

/// Where a QueueItem stands.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum QueueItemState {
    /// To be handed out.
    #[default]
    Ready,
    /// Handed out. When its time is up without a sign of life, it is handed out again.
    Claimed,
    /// Done. Kept for a while, so that its name is not used again. Final.
    Acknowledged,
    /// Handed out too often. It stays until somebody redrives or purges it.
    Dead,
}

/// What has become of a QueueItem.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("default" = serde_json::json!({"state": "Ready", "attempts": 0, "forgiven": 0, "extensions": 0, "lamport": 0, "hlc": no_stamp()})))]
#[x_kube(
    validation = Rule::new("(self.state in ['Claimed', 'Acknowledged']) == has(self.receipt)").message("an item has a receipt when it is Claimed or Acknowledged, and only then"),
    validation = Rule::new("!has(self.receipt) || (self.receipt.matches('^[0-9]{1,18}-') && int(self.receipt.split('-')[0]) == self.attempts)").message("a receipt begins with the number of its attempt"),
    validation = Rule::new("self.state != 'Claimed' || (has(self.claimedBy) && has(self.visibilitySeconds))").message("a claim says who claims it, and for how long: status.claimedBy and status.visibilitySeconds"),
    validation = Rule::new("self.forgiven <= self.attempts").message("status.forgiven is not above status.attempts"),
    validation = Rule::new("self.attempts >= oldSelf.attempts && self.lamport >= oldSelf.lamport && self.hlc >= oldSelf.hlc").message("status.attempts, status.lamport and status.hlc never fall"),
    validation = Rule::new("self.attempts == oldSelf.attempts || (self.state == 'Claimed' && self.attempts == oldSelf.attempts + 1)").message("only a claim is an attempt, and it is one"),
    validation = Rule::new("oldSelf.state != 'Acknowledged' || self == oldSelf").message("an item that was acknowledged stays so"),
    validation = Rule::new("oldSelf.state != 'Dead' || self == oldSelf || (self.state == 'Ready' && self.forgiven == oldSelf.attempts)").message("a dead item stays so, but for a redrive, which makes it Ready and sets status.forgiven to status.attempts"),
    validation = Rule::new("self.forgiven == oldSelf.forgiven || oldSelf.state == 'Dead'").message("status.forgiven is changed by the redrive of a dead item only"),
    validation = Rule::new("self.state != 'Claimed' || self.attempts > oldSelf.attempts || self == oldSelf || (oldSelf.state == 'Claimed' && self.receipt == oldSelf.receipt && self.extensions > oldSelf.extensions)").message("who claims an item needs a receipt of a new attempt; who has the receipt extends its time, and then status.extensions rises"),
    validation = Rule::new("self.state != 'Acknowledged' || self == oldSelf || (oldSelf.state == 'Claimed' && self.receipt == oldSelf.receipt)").message("an item is acknowledged by who has its present receipt only: this one is another's by now, or nobody's")
)]
pub struct QueueItemStatus {
    /// Where it stands.
    pub state: QueueItemState,

    /// How often it was handed out. Never falls.
    #[schemars(range(min = 0))]
    pub attempts: i64,

    /// The attempts that do not count any more, since it was redriven after them.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub forgiven: i64,

    /// The proof of the present attempt: its number, a '-', and a random id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 64))]
    pub receipt: Option<String>,

    /// What people know the consumer by: the pod's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub claimed_by: Option<String>,

    /// For how long it is kept from others since the last sign of life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 43_200))]
    pub visibility_seconds: Option<i64>,

    /// How often the time of the present attempt was extended.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub extensions: i64,

    /// The Lamport stamp of the last write.
    #[serde(default)]
    pub lamport: i64,

    /// The stamp of the last write by a hybrid logical clock.
    #[serde(default = "no_stamp", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 16), regex(pattern = r"^[0-9a-f]{16}$"))]
    pub hlc: String,

    /// Why it was given back, or is dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}
