//! DistributedConfig: what a user writes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Agreement, DistributedConfigStatus, Freshness, Rollout};

/// A JSON object of any shape, kept as written.
pub type Object = Map<String, Value>;

/// Configuration for the pods of an application: layers that are merged, checked, rendered to
/// files, and mirrored into every pod that asks for them.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quorate.io",
    version = "v1alpha1",
    kind = "DistributedConfig",
    plural = "distributedconfigs",
    shortname = "dcfg",
    category = "quorate",
    namespaced,
    status = "DistributedConfigStatus",
    derive = "PartialEq",
    doc = "DistributedConfig gives the pods of an application the same, agreed configuration: layers are merged (RFC 7396), checked, rendered to files, and mirrored into every pod that asks for them.",
    printcolumn = r#"{"name":"Ready","type":"string","description":"Whether the last content that was asked for is published.","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Revision","type":"integer","description":"The revision that pods read.","jsonPath":".status.revision"}"#,
    printcolumn = r#"{"name":"Applied","type":"string","description":"How many of the pods have it.","jsonPath":".status.pods.summary"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","description":"Where its rollout stands.","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","priority":1,"description":"Why Ready is as it is.","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Message","type":"string","priority":1,"description":"The same in words.","jsonPath":".status.conditions[?(@.type==\"Ready\")].message"}"#,
    printcolumn = r#"{"name":"Hash","type":"string","priority":1,"description":"SHA-256 of what pods read.","jsonPath":".status.hash"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name may have at most 63 characters: it becomes a directory and a label"),
    validation = Rule::new("has(self.spec.selector) || !has(self.spec.rollout) || !has(self.spec.rollout.strategy) || self.spec.rollout.strategy == 'Immediate'").message("spec.rollout.strategy Quorum and Canary need spec.selector: whose pods count?")
)]
#[serde(rename_all = "camelCase")]
pub struct DistributedConfigSpec {
    /// Where values come from, lowest precedence first. Each layer is merged over the ones before
    /// it by RFC 7396: objects merge, null deletes, everything else replaces.
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub layers: Vec<Layer>,

    /// The files that pods read, rendered from the merged value.
    #[schemars(length(min = 1, max = 128), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["path"]))]
    pub files: Vec<File>,

    /// What the merged value must satisfy before it is published. Every violation is reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,

    /// The pods this config is for, in its namespace: those that are asked and counted. It should
    /// select all that read it: others get the same files, and a Canary's candidate may be tried by
    /// them, too, but what they make of it counts for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,

    /// Whose pods may read this config: the operator keeps a Role for it and binds it to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,

    /// How a new revision reaches the pods; by default at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,

    /// Who decides what the next revision is: without it, this cluster alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<Agreement>,

    /// How old a pod's knowledge of its configuration may become, and what it does beyond that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freshness: Option<Freshness>,

    /// How many published revisions are kept to go back to, the present one included.
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 100))]
    pub revision_history_limit: i32,

    /// Holds the content of one revision of the history, whatever the layers say. Setting it to
    /// an older revision is a roll-back: its content is published again under a new number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Pin>,

    /// While true, nothing is published; pods keep what they have.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,

    /// Namespaces whose DistributedConfigs may take this one as a layer (configRef); "*" is all.
    /// The own namespace needs no consent. Values from Secrets are shared too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63), regex(pattern = r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$")), extend("x-kubernetes-list-type" = "set"))]
    pub shared_with: Vec<String>,
}

/// Whose pods may read a config, its candidate too, and say what they make of it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// Service accounts of this namespace. Who is taken off the list may read nothing new; the files
    /// of its pods stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")), extend("x-kubernetes-list-type" = "set"))]
    pub service_accounts: Vec<String>,
}

const fn ten() -> i32 {
    10
}

/// One source of values.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.inline), has(self.configMapRef), has(self.secretRef), has(self.configRef)].filter(x, x).size() == 1").message("a layer has exactly one of inline, configMapRef, secretRef, configRef"))]
pub struct Layer {
    /// What messages and provenance call this layer; unique in the config.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// Where in the merged value this layer is placed: a JSON pointer (RFC 6901) such as /db.
    /// Left out or "/", it is the whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = r"^(/([^~/]|~0|~1)*)*$"))]
    pub at: Option<String>,

    /// Values written here. A null deletes what earlier layers gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub inline: Option<Object>,

    /// A ConfigMap of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<ObjectRef>,

    /// A Secret of this namespace. Its values are marked: they appear in files only, which get
    /// mode 0440, and never in logs, events, status or errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<ObjectRef>,

    /// Another DistributedConfig: its merged and validated value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_ref: Option<ConfigRef>,
}

/// A ConfigMap or Secret of the same namespace.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// The object's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// The key whose document is taken, parsed by its extension: .json, .toml, .properties, .env,
    /// anything else as YAML 1.2. Left out, the layer is an object of all keys, each a string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub key: Option<String>,

    /// Whether the object or key may be missing; the layer is then empty.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// A reference to another DistributedConfig.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigRef {
    /// The other config's name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// Its namespace, by default this one. Another namespace's config must name this namespace in
    /// its spec.sharedWith.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,

    /// Whether the other config may be missing; the layer is then empty.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// One file that pods read.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.from) || has(self.format), has(self.template), has(self.configMapKeyRef), has(self.secretKeyRef)].filter(x, x).size() <= 1").message("a file is rendered from a value (from, format), from a template, or copied from one key (configMapKeyRef, secretKeyRef): only one of these"))]
#[x_kube(validation = Rule::new("!self.path.startsWith('/') && !self.path.endsWith('/') && !self.path.startsWith('..') && self.path.split('/').all(p, p != '' && p != '.' && p != '..' && p.size() <= 255)").message("path must be relative and stay inside the directory: no leading or trailing /, no empty, '.' or '..' components, no leading '..', components of at most 255 characters"))]
pub struct File {
    /// Where the file is, relative to the config's directory in the pod.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[^\x00-\x1f\x7f\\]+$"))]
    pub path: String,

    /// The part of the merged value that is rendered: a JSON pointer (RFC 6901). Left out or "/",
    /// it is the whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = r"^(/([^~/]|~0|~1)*)*$"))]
    pub from: Option<String>,

    /// How the value is written. By default the path's extension tells: .yaml, .yml, .json,
    /// .toml, .properties, .env; any other needs a string, written as it is (Text).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,

    /// A MiniJinja template over the merged value. An undefined variable is an error; there is no
    /// input or output, and the work and size are bounded. Prefer `from` for structured files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 262_144))]
    pub template: Option<String>,

    /// The bytes of one key of a ConfigMap of this namespace, as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,

    /// The bytes of one key of a Secret of this namespace, as they are: a keystore, say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,

    /// Permission bits, 0 to 0777 (octal in YAML as kubectl reads it, 0 to 511 in JSON). By
    /// default 0444, and 0440 for a file that holds a value from a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 511))]
    pub mode: Option<i32>,
}

/// One key of a ConfigMap or Secret of the same namespace.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRef {
    /// The object's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// The key in its data or binaryData.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,

    /// Whether the object or key may be missing; the file is then left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// How a value is written to a file.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// YAML 1.2.
    Yaml,
    /// JSON, indented by two.
    Json,
    /// TOML 1.0; the value must be an object without nulls.
    Toml,
    /// Java properties; nested keys are joined with dots, list items numbered in brackets.
    Properties,
    /// KEY="value" lines; nested keys are joined with underscores, in upper case.
    Env,
    /// A string, as it is.
    Text,
}

/// What the merged value must satisfy.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Validation {
    /// A JSON Schema (draft 2020-12 unless $schema says otherwise) for the merged value. $ref may
    /// point within the schema only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub schema: Option<Object>,

    /// CEL rules over the merged value, which they call `self`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub rules: Vec<ValidationRule>,
}

/// One CEL rule.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ValidationRule {
    /// A CEL expression that must be true, such as `self.server.port > 1024`. The dialect is
    /// CEL's standard library (size, has, all, exists, filter, map, matches, startsWith …) without
    /// Kubernetes's extensions.
    #[schemars(length(min = 1, max = 4096))]
    pub rule: String,

    /// What to say when it is not; by default the rule itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

/// Which revision to hold.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pin {
    /// A revision of status.history.
    #[schemars(range(min = 1))]
    pub revision: i64,
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}
