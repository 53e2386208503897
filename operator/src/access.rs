//! Whose pods may read a config: a Role of its head and candidate, and a RoleBinding to the accounts that
//! spec.access names.
//!
//! What to write is decided by pure functions; [`keep`] does it, after the head is written. Trouble here
//! holds nothing else up: it is told by the condition AccessGranted.

use std::{fmt::Debug, time::Duration};

use futures::TryFutureExt;
use k8s_openapi::{
    api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ObjectMeta, PostParams, Preconditions},
    core::NamespaceResourceScope,
};
use quorate_crds::{ConfigReplica, DistributedConfig, names};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Key, Operator,
    api::{ApiError, call, found},
    log::is_owned,
};

/// So old may be what is known of Role and RoleBinding; then somebody may have changed them.
const AGE: Duration = Duration::from_secs(300);
/// The wait after a call that failed, but may succeed soon.
const SOON: Duration = Duration::from_secs(5);
/// It is on its way.
const PENDING: &str = "AccessPending";

/// What came of it: the condition AccessGranted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Whether exactly the accounts that are named may read it.
    pub granted: bool,
    /// A CamelCase word.
    pub reason: &'static str,
    /// The same in words.
    pub message: String,
}

/// What is remembered of a config's access between runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The config's uid, and the accounts.
    pub of: (Option<String>, Vec<String>),
    /// What came of them.
    pub word: Option<Word>,
}

/// Gives the accounts their rights, and takes them from all others. Returns what is to be told (nothing
/// about a config that asks for none), and when to look again.
pub async fn keep(operator: &Operator, config: &DistributedConfig) -> (Option<Word>, Option<Duration>) {
    let key = Key::of(config);
    let of = (config.uid(), accounts(config));
    let known = operator.state.access(&key).filter(|(known, _)| known.of == of);
    match &known {
        // What was taken away comes back by itself under no circumstances.
        Some((known, _)) if of.1.is_empty() && known.word.is_none() => return (None, None),
        Some((known, age)) if *age < AGE => return (known.word.clone(), Some(AGE.saturating_sub(*age))),
        _ => {}
    }
    let done = if of.1.is_empty() { revoke(operator, config).await } else { grant(operator, config, &of.1).await };
    let (word, again) = match done {
        Ok(word) => {
            let again = if word.as_ref().is_some_and(|word| word.reason == PENDING) { SOON } else { AGE };
            (word, again)
        }
        Err(error) => {
            operator.metrics.error(error.category());
            tracing::warn!(config = %key, %error, "spec.access is not done");
            let before = known.and_then(|(known, _)| known.word);
            let again = if error.is_refusal() && error.code() != Some(409) { AGE } else { SOON };
            (trouble(config, &of.1, &error, before), again)
        }
    };
    if again == AGE {
        operator.state.keep_access(&key, Remembered { of, word: word.clone() });
    }
    (word, Some(again))
}

/// The accounts that may read it, each once, in order.
fn accounts(config: &DistributedConfig) -> Vec<String> {
    let mut accounts = config.spec.access.clone().unwrap_or_default().service_accounts;
    accounts.sort();
    accounts.dedup();
    accounts
}

async fn grant(operator: &Operator, config: &DistributedConfig, accounts: &[String]) -> Result<Option<Word>, ApiError> {
    // A binding to a Role that does not exist is refused.
    if let Err(taken) = put(operator, config, role(config)).await? {
        return Ok(Some(taken));
    }
    if let Err(taken) = put(operator, config, binding(config, accounts)).await? {
        return Ok(Some(taken));
    }
    let message = format!("the pods of {} may read it", accounts.join(", "));
    Ok(Some(Word { granted: true, reason: "Granted", message }))
}

/// The binding goes last: as long as it is there, there may be something to do.
async fn revoke(operator: &Operator, config: &DistributedConfig) -> Result<Option<Word>, ApiError> {
    if let Some(binding) = get::<RoleBinding>(operator, config).await?
        && is_owned(&binding, config)
    {
        if let Some(role) = get::<Role>(operator, config).await? {
            delete(operator, config, &role).await?;
        }
        delete(operator, config, &binding).await?;
    }
    Ok(None)
}

/// What is told of a call that failed.
fn trouble(config: &DistributedConfig, accounts: &[String], error: &ApiError, before: Option<Word>) -> Option<Word> {
    let told = config.status.iter().flat_map(|status| &status.conditions).any(|c| c.type_ == "AccessGranted");
    let way_out = if error.code() == Some(403) {
        "; the operator needs the right to manage Roles and RoleBindings, and the rights that it gives (rbac.podAccess of the chart)"
    } else {
        "; it is tried again"
    };
    let word = |reason, what| Some(Word { granted: false, reason, message: format!("{what}: {error}{way_out}") });
    match accounts {
        // Nothing was asked for, and as far as anybody knows nothing was given.
        [] if !told => None,
        [] => word("AccessNotRevoked", "accounts that spec.access does not name may still read it"),
        _ if error.code() == Some(403) => word("AccessRefused", "spec.access is not done"),
        _ => before.or_else(|| word(PENDING, "spec.access is not done yet")),
    }
}

/// Role or RoleBinding.
trait Kept:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
    /// Whether it can be changed into the other one; otherwise it is made again.
    fn can_become(&self, wanted: &Self) -> bool;
    /// With the content of the other one, and its own metadata.
    fn with_content_of(&self, wanted: &Self) -> Self;
    /// Whether the contents are the same.
    fn has_content_of(&self, wanted: &Self) -> bool;
}

impl Kept for Role {
    fn can_become(&self, _: &Self) -> bool {
        true
    }

    fn with_content_of(&self, wanted: &Self) -> Self {
        Self { metadata: self.metadata.clone(), ..wanted.clone() }
    }

    fn has_content_of(&self, wanted: &Self) -> bool {
        self.rules == wanted.rules
    }
}

impl Kept for RoleBinding {
    fn can_become(&self, wanted: &Self) -> bool {
        self.role_ref == wanted.role_ref
    }

    fn with_content_of(&self, wanted: &Self) -> Self {
        Self { metadata: self.metadata.clone(), ..wanted.clone() }
    }

    fn has_content_of(&self, wanted: &Self) -> bool {
        self.subjects == wanted.subjects
    }
}

/// What to do about one of the two.
#[derive(Debug, PartialEq)]
enum Step<K> {
    Nothing,
    Create(K),
    Replace(K),
    /// It is in the way, but the config's: delete it, then create.
    Remake(K),
    /// It is that of a deleted config of this name, and still to be collected.
    Await,
    /// It is somebody else's.
    Taken,
}

fn step<K: Kept>(config: &DistributedConfig, there: Option<&K>, wanted: K) -> Step<K> {
    let Some(there) = there else { return Step::Create(wanted) };
    if !is_owned(there, config) {
        let of_a_config = there.owner_references().iter().any(|owner| owner.kind == "DistributedConfig");
        return if of_a_config { Step::Await } else { Step::Taken };
    }
    if !there.can_become(&wanted) {
        return Step::Remake(wanted);
    }
    let labelled = wanted.labels().iter().all(|(name, value)| there.labels().get(name) == Some(value));
    if labelled && there.has_content_of(&wanted) {
        return Step::Nothing;
    }
    let mut next = there.with_content_of(&wanted);
    next.labels_mut().extend(wanted.labels().clone());
    next.meta_mut().managed_fields = None;
    Step::Replace(next)
}

/// The rights of a sidecar: as docs/examples/rbac-sidecar.yaml gives them.
fn role(config: &DistributedConfig) -> Role {
    let name = config.name_any();
    let rule = |group: &str, resource: &str, of: Option<String>, verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: of.map(|name| vec![name]),
        verbs: verbs.iter().map(ToString::to_string).collect(),
        ..PolicyRule::default()
    };
    let replicas = ConfigReplica::plural(&());
    let rules = vec![
        rule("", "secrets", Some(names::head_name(&name)), &["list", "watch"]),
        rule("", "secrets", Some(names::candidate_name(&name)), &["get"]),
        // Their names are made of the pods' uids. A policy lets each pod write its own only.
        rule(&ConfigReplica::group(&()), &replicas, None, &["get", "create", "update"]),
    ];
    Role { metadata: metadata(config), rules: Some(rules) }
}

fn binding(config: &DistributedConfig, accounts: &[String]) -> RoleBinding {
    let subject = |account: &String| Subject {
        kind: "ServiceAccount".into(),
        name: account.clone(),
        namespace: config.namespace(),
        api_group: None,
    };
    RoleBinding {
        metadata: metadata(config),
        role_ref: RoleRef {
            api_group: Role::group(&()).into_owned(),
            kind: Role::kind(&()).into_owned(),
            name: names::access_name(&config.name_any()),
        },
        subjects: Some(accounts.iter().map(subject).collect()),
    }
}

fn metadata(config: &DistributedConfig) -> ObjectMeta {
    // Deleting the config must not wait for them.
    let owner = config.controller_owner_ref(&()).map(|o| OwnerReference { block_owner_deletion: None, ..o });
    ObjectMeta {
        name: Some(names::access_name(&config.name_any())),
        namespace: config.namespace(),
        labels: Some(
            [
                ("app.kubernetes.io/managed-by".into(), "quorate".into()),
                (names::LABEL_CONFIG.to_owned(), config.name_any()),
            ]
            .into(),
        ),
        owner_references: owner.map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// Makes one of the two what it should be; the inner error tells why that cannot be.
async fn put<K: Kept>(
    operator: &Operator,
    config: &DistributedConfig,
    wanted: K,
) -> Result<Result<(), Word>, ApiError> {
    let there = get::<K>(operator, config).await?;
    let (api, name, what) = place::<K>(operator, config);
    let params = PostParams::default();
    match step(config, there.as_ref(), wanted) {
        Step::Nothing => {}
        Step::Create(new) => {
            call(|| format!("create {what}"), api.create(&params, &new)).await?;
        }
        Step::Replace(next) => {
            call(|| format!("update {what}"), api.replace(&name, &params, &next)).await?;
        }
        Step::Remake(new) => {
            if let Some(there) = &there {
                delete(operator, config, there).await?;
            }
            call(|| format!("create {what}"), api.create(&params, &new)).await?;
        }
        Step::Await => {
            let message = format!("{what} of a deleted config of this name is still to be collected");
            return Ok(Err(Word { granted: false, reason: PENDING, message }));
        }
        Step::Taken => {
            let message = format!("{what} is not this config's: rename or delete it; it is not overwritten");
            return Ok(Err(Word { granted: false, reason: "AccessNameTaken", message }));
        }
    }
    Ok(Ok(()))
}

async fn get<K: Kept>(operator: &Operator, config: &DistributedConfig) -> Result<Option<K>, ApiError> {
    let (api, name, what) = place::<K>(operator, config);
    found(call(|| format!("get {what}"), api.get(&name)).await)
}

/// Deletes exactly this one, if it is the config's.
async fn delete<K: Kept>(operator: &Operator, config: &DistributedConfig, there: &K) -> Result<(), ApiError> {
    if !is_owned(there, config) {
        return Ok(());
    }
    let (api, name, what) = place::<K>(operator, config);
    let preconditions = Preconditions { uid: there.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let deleted = call(|| format!("delete {what}"), api.delete(&name, &params).map_ok(|_| ())).await;
    found(deleted).map(|_| ())
}

fn place<K: Kept>(operator: &Operator, config: &DistributedConfig) -> (Api<K>, String, String) {
    let Key { namespace, name } = Key::of(config);
    let name = names::access_name(&name);
    let what = format!("{} {namespace}/{name}", K::kind(&()));
    (Api::namespaced(operator.client.clone(), &namespace), name, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(accounts: &[&str]) -> DistributedConfig {
        serde_json::from_value(json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u"},
            "spec": {"layers": [], "files": [], "access": {"serviceAccounts": accounts}}
        }))
        .unwrap()
    }

    #[test]
    fn the_rights_are_to_one_head_and_one_candidate() {
        let rules = serde_json::to_value(role(&config(&["web"])).rules).unwrap();
        let expected = json!([
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["web.quorate"], "verbs": ["list", "watch"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["web.quorate-next"], "verbs": ["get"]},
            {"apiGroups": ["quorate.io"], "resources": ["configreplicas"], "verbs": ["get", "create", "update"]}
        ]);
        assert_eq!(rules, expected);
    }

    #[test]
    fn nothing_is_written_when_it_is_there_and_what_others_changed_is_put_right() {
        let config = config(&["web", "jobs", "web"]);
        let accounts = accounts(&config);
        assert_eq!(accounts, ["jobs", "web"]);
        let wanted = binding(&config, &accounts);
        assert_eq!(step(&config, None, wanted.clone()), Step::Create(wanted.clone()));
        let mut there = wanted.clone();
        there.metadata.resource_version = Some("7".into());
        there.annotations_mut().insert("theirs".into(), "stays".into());
        assert_eq!(step(&config, Some(&there), wanted.clone()), Step::Nothing);

        let mut more = there.clone();
        more.subjects = binding(&config, &["evil".into()]).subjects;
        more.labels_mut().clear();
        assert_eq!(step(&config, Some(&more), wanted.clone()), Step::Replace(there.clone()));
        // Kubernetes lets nobody change where a binding leads.
        let mut elsewhere = there.clone();
        elsewhere.role_ref.name = "cluster-admin".into();
        assert_eq!(step(&config, Some(&elsewhere), wanted.clone()), Step::Remake(wanted));
    }

    #[test]
    fn what_is_somebody_elses_is_left_alone() {
        let config = config(&["web"]);
        let mut there = role(&config);
        there.owner_references_mut()[0].uid = "of a config before".into();
        assert_eq!(step(&config, Some(&there), role(&config)), Step::Await);
        there.metadata.owner_references = None;
        assert_eq!(step(&config, Some(&there), role(&config)), Step::Taken);
    }
}
