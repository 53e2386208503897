//! Acceptor: one member's part in a register that is decided by a majority of clusters.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest value that an acceptor holds, in bytes of JSON.
pub const MAX_ACCEPTOR_VALUE: usize = 256 * 1024;

/// What an acceptor promised and accepted. One write is one step; the API server itself keeps the promise.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "quorate.io",
    version = "v1alpha1",
    kind = "Acceptor",
    plural = "acceptors",
    shortname = "acpt",
    category = "quorate",
    namespaced,
    derive = "PartialEq",
    doc = "Acceptor is one cluster's part in a register that a majority of clusters decides by CASPaxos. Made once, when the register begins, or when its members are changed; one that was lost is never made again: the others go on without it.",
    printcolumn = r#"{"name":"Epoch","type":"integer","description":"Which of the register's sets of members it is of; 0 before it is of any.","jsonPath":".spec.epoch"}"#,
    printcolumn = r#"{"name":"Promised","type":"integer","description":"The round of the ballot below which nothing is accepted.","jsonPath":".spec.promised.round"}"#,
    printcolumn = r#"{"name":"Accepted","type":"integer","description":"The round in which the value was accepted.","jsonPath":".spec.accepted.ballot.round"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.epoch >= oldSelf.epoch").message("spec.epoch never falls: the members before have no say any more"),
    validation = Rule::new("self.epoch > oldSelf.epoch || (has(self.members) == has(oldSelf.members) && (!has(self.members) || self.members == oldSelf.members))").message("spec.members is said once an epoch"),
    validation = Rule::new("self.epoch > oldSelf.epoch || self.promised.round > oldSelf.promised.round || (self.promised.round == oldSelf.promised.round && self.promised.proposer >= oldSelf.promised.proposer)").message("spec.promised never falls: a promise is kept"),
    validation = Rule::new("!has(self.accepted) || self.accepted.ballot.round < self.promised.round || (self.accepted.ballot.round == self.promised.round && self.accepted.ballot.proposer <= self.promised.proposer)").message("spec.accepted.ballot is not above spec.promised"),
    validation = Rule::new("self.epoch > oldSelf.epoch || has(self.accepted) || !has(oldSelf.accepted)").message("spec.accepted is never removed"),
    validation = Rule::new("self.epoch > oldSelf.epoch || !has(self.accepted) || (has(oldSelf.accepted) && self.accepted == oldSelf.accepted) || self.accepted.ballot.round > oldSelf.promised.round || (self.accepted.ballot.round == oldSelf.promised.round && self.accepted.ballot.proposer >= oldSelf.promised.proposer)").message("nothing is accepted below spec.promised: another proposer came first"),
    validation = Rule::new("self.epoch > oldSelf.epoch || !has(self.accepted) || !has(oldSelf.accepted) || self.accepted.ballot != oldSelf.accepted.ballot || self.accepted.value == oldSelf.accepted.value").message("under one ballot one value is accepted"),
    validation = Rule::new("self.epoch == 0 || has(self.members)").message("an acceptor of an epoch has members"),
    validation = Rule::new("self.epoch > 0 || (!has(self.members) && !has(self.accepted))").message("an acceptor of no epoch has nothing: join it first (spec.epoch, spec.members)")
)]
pub struct AcceptorSpec {
    /// Counts the sets of members that the register had; 0 of an acceptor that waits to be of one.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub epoch: i64,

    /// The uids of the register's acceptors in this epoch, by the names of their clusters: answers of others do not count.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(length(max = 15))]
    pub members: BTreeMap<String, AcceptorUid>,

    /// Nothing below this is accepted any more.
    pub promised: AcceptorBallot,

    /// What was accepted last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<AcceptedValue>,
}

/// The uid of an Acceptor.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AcceptorUid(#[schemars(length(max = 64))] pub String);

/// Orders the attempts of all proposers. Two proposers never make the same one.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptorBallot {
    /// Counts up. That of a value that was chosen is its fencing token.
    #[schemars(range(min = 0))]
    pub round: i64,

    /// The proposer's id.
    #[schemars(length(max = 64))]
    pub proposer: String,
}

/// A value, and the ballot under which it was accepted.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedValue {
    /// The ballot.
    pub ballot: AcceptorBallot,

    /// The value, as JSON. Never a secret.
    #[schemars(length(max = 262_144))]
    pub value: String,
}
