//! Where what clusters agree on is kept: in each of them an immutable Secret a content, by its hash, and one an entry of their log.
//!
//! Content is with a majority before it is decided on, and the entry of what was decided before: so whichever minority is lost,
//! neither is.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    time::Duration,
};

use futures::{StreamExt, future::try_join_all, stream::FuturesUnordered};
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
    core::PartialObjectMeta,
};
use quorate_coordination::{
    clusters::{CALL, Named},
    quorum::Place,
};
use quorate_crds::{
    AgreedEntry, DistributedConfig,
    head::{Bundle, Head},
    names,
};
use serde_json::json;
use tokio::time::timeout;

use crate::api::told;

/// Content that nothing names stays for so long: somebody may be about to propose it.
const UNNAMED: Duration = Duration::from_secs(3600);

/// The archive of one config.
pub struct Archive<'a> {
    /// The config, as it is here.
    pub config: &'a DistributedConfig,
    /// The clusters.
    pub members: &'a [Named],
    /// The one that is here.
    pub own: &'a str,
}

impl Archive<'_> {
    /// Keeps these with a majority of those who decide now, and with the others of the set as far as they answer.
    ///
    /// # Errors
    /// A word on each member without them, when they are too many.
    pub async fn keep(&self, secrets: Vec<Secret>, place: &Place) -> Result<(), String> {
        let mut writes: FuturesUnordered<_> = self
            .members
            .iter()
            .map(|(name, client)| {
                let (name, client) = (name.clone(), client.clone());
                let secrets: Vec<Secret> = secrets.iter().map(|secret| self.of(&name, secret)).collect();
                tokio::spawn(async move {
                    let writes = try_join_all(secrets.iter().map(|secret| create(&client, secret)));
                    (writes.await.map(drop).map_err(|why| format!("{name}: {why}")), name)
                })
            })
            .collect();
        let (needed, mut kept, mut failed) = (place.majority(), 0, Vec::new());
        while let Some(ended) = writes.next().await {
            match ended {
                Ok((Ok(()), name)) => kept += usize::from(place.members.contains_key(&name)),
                Ok((Err(why), _)) => failed.push(why),
                // Cut short only when all of this process is.
                Err(_) => {}
            }
            if kept >= needed {
                return Ok(());
            }
        }
        Err(format!(
            "{kept} of {} members keep what is proposed, and {needed} are needed: {}",
            place.members.len(),
            failed.join("; ")
        ))
    }

    /// As it is written there: where the config is that we know, that owns it.
    fn of(&self, member: &str, secret: &Secret) -> Secret {
        let mut secret = secret.clone();
        secret.metadata.owner_references = (member == self.own).then(|| owners(self.config));
        secret
    }

    /// A content's Secret.
    #[must_use]
    pub fn content_secret(&self, bundle: Bundle) -> Secret {
        Head::next(None, 1, bundle, Timestamp::now()).to_agreed_secret(self.config)
    }

    /// An entry's Secret.
    #[must_use]
    pub fn entry_secret(&self, entry: &AgreedEntry) -> Secret {
        let config = self.config.name_any();
        Secret {
            metadata: ObjectMeta {
                name: Some(names::agreed_name(&config, entry.revision)),
                namespace: self.config.namespace(),
                labels: Some(BTreeMap::from([
                    ("app.kubernetes.io/managed-by".into(), "quorate".into()),
                    (names::LABEL_CONFIG.into(), config),
                    (names::LABEL_KIND.into(), names::KIND_AGREED.into()),
                ])),
                annotations: Some(BTreeMap::from([
                    (names::REVISION.into(), entry.revision.to_string()),
                    (names::HASH.into(), entry.hash.clone()),
                ])),
                ..ObjectMeta::default()
            },
            type_: Some(names::AGREED_TYPE.into()),
            immutable: Some(true),
            // Strings and numbers only: it cannot fail.
            data: Some([(names::AGREED_KEY.into(), ByteString(serde_json::to_vec(entry).unwrap_or_default()))].into()),
            ..Secret::default()
        }
    }

    /// The content with this hash, verified, from wherever it can be had; it is here from then on.
    ///
    /// # Errors
    /// A word on each member.
    pub async fn content(&self, hash: &str) -> Result<Bundle, String> {
        let name = names::agreed_content_name(&self.config.name_any(), hash);
        let good = |secret: &Secret| Head::from_secret(secret).ok().filter(|head| head.hash == hash);
        if let Some(head) = self.get(self.here()?, &name).await.ok().flatten().as_ref().and_then(good) {
            return Ok(head.bundle);
        }
        let found = self.elsewhere(&name, |secret| good(secret).is_some()).await?;
        let Some(head) = good(&found) else { return Err("it does not verify".to_owned()) };
        // If it cannot be kept here, it is fetched again.
        self.adopt(&found).await;
        Ok(head.bundle)
    }

    /// Brings the log here up to `present`, as far as it is kept; drops what is older, and content that nothing names.
    ///
    /// # Errors
    /// Those of the API server here, in words; what others do not answer is tried again with the next entry.
    pub async fn catch_up(&self, present: &AgreedEntry, limit: i64) -> Result<(), String> {
        let here = self.api(self.here()?);
        let labels = format!("{}={}", names::LABEL_CONFIG, self.config.name_any());
        let params = ListParams::default().labels(&labels).fields(&format!("type={}", names::AGREED_TYPE));
        let listed = called(here.list_metadata(&params)).await?.items;
        let oldest = (present.revision - limit.max(1) + 1).max(1);
        let revision = |secret: &PartialObjectMeta<Secret>| {
            let is_entry = secret.labels().get(names::LABEL_KIND).is_some_and(|kind| kind == names::KIND_AGREED);
            secret.annotations().get(names::REVISION).filter(|_| is_entry)?.parse::<i64>().ok()
        };
        let there: BTreeMap<i64, &PartialObjectMeta<Secret>> =
            listed.iter().filter_map(|secret| Some((revision(secret)?, secret))).collect();
        self.adopt(&self.entry_secret(present)).await;
        for missing in (oldest..present.revision).filter(|revision| !there.contains_key(revision)) {
            let name = names::agreed_name(&self.config.name_any(), missing);
            if let Ok(found) =
                self.elsewhere(&name, |secret| entry(secret).is_some_and(|e| e.revision == missing)).await
            {
                self.adopt(&found).await;
            }
        }
        let hash = |secret: &PartialObjectMeta<Secret>| secret.annotations().get(names::HASH).cloned();
        let kept = there.range(oldest..).filter_map(|(_, secret)| hash(secret));
        let named: BTreeSet<String> = kept.chain([present.hash.clone()]).collect();
        let old = |secret: &&PartialObjectMeta<Secret>| {
            let made = secret.creation_timestamp().map(|time| time.0).unwrap_or_default();
            let age = Duration::try_from(Timestamp::now().duration_since(made)).unwrap_or_default();
            age > UNNAMED
                && match revision(secret) {
                    Some(revision) => revision < oldest,
                    None => hash(secret).is_none_or(|hash| !named.contains(&hash)),
                }
        };
        for secret in listed.iter().filter(old) {
            called(async { here.delete(&secret.name_any(), &DeleteParams::default()).await.map(drop) }).await?;
        }
        // Those that others have written here have no owner yet: they would outlive the config.
        for secret in listed.iter().filter(|secret| secret.owner_references().is_empty() && !old(secret)) {
            self.own(&secret.name_any()).await;
        }
        Ok(())
    }

    /// What the others have under this name, from whoever answers first with a good one.
    async fn elsewhere(&self, name: &str, good: impl Fn(&Secret) -> bool) -> Result<Secret, String> {
        let others = self.members.iter().filter(|(member, _)| member != self.own);
        let looks = others.map(|(member, client)| async move { (member, self.get(client, name).await) });
        let mut looks: FuturesUnordered<_> = looks.collect();
        let mut failed = Vec::new();
        while let Some((member, found)) = looks.next().await {
            match found {
                Ok(Some(secret)) if good(&secret) => return Ok(secret),
                Ok(Some(_)) => failed.push(format!("{member}: it does not verify there")),
                Ok(None) => failed.push(format!("{member}: it is not there")),
                Err(why) => failed.push(format!("{member}: {why}")),
            }
        }
        Err(format!("Secret {name} cannot be had: {}", failed.join("; ")))
    }

    /// Keeps a copy here.
    async fn adopt(&self, secret: &Secret) {
        let Ok(client) = self.here() else { return };
        let copy = Secret {
            metadata: ObjectMeta {
                name: secret.metadata.name.clone(),
                namespace: self.config.namespace(),
                labels: secret.metadata.labels.clone(),
                annotations: secret.metadata.annotations.clone(),
                ..ObjectMeta::default()
            },
            ..secret.clone()
        };
        if let Err(why) = create(client, &self.of(self.own, &copy)).await {
            tracing::warn!(secret = copy.name_any(), why, "what the clusters agreed on is not kept here");
        }
    }

    /// The config is its owner from now on.
    async fn own(&self, name: &str) {
        let Ok(client) = self.here() else { return };
        let patch = Patch::Merge(json!({"metadata": {"ownerReferences": owners(self.config)}}));
        let patched = self.api(client);
        if let Err(why) = called(async { patched.patch_metadata(name, &PatchParams::default(), &patch).await }).await {
            tracing::debug!(secret = name, why, "it has no owner yet");
        }
    }

    fn here(&self) -> Result<&Client, String> {
        let own = self.members.iter().find(|(member, _)| member == self.own).map(|(_, client)| client);
        own.ok_or_else(|| "this cluster is no member".to_owned())
    }

    fn api(&self, client: &Client) -> Api<Secret> {
        Api::namespaced(client.clone(), &self.config.namespace().unwrap_or_default())
    }

    async fn get(&self, client: &Client, name: &str) -> Result<Option<Secret>, String> {
        let api = self.api(client);
        let there = called(async { api.get_opt(name).await }).await?;
        Ok(there.filter(|secret| secret.type_.as_deref() == Some(names::AGREED_TYPE)))
    }
}

/// The entry in a Secret.
#[must_use]
pub fn entry(secret: &Secret) -> Option<AgreedEntry> {
    serde_json::from_slice(&secret.data.as_ref()?.get(names::AGREED_KEY)?.0).ok()
}

fn owners(config: &DistributedConfig) -> Vec<OwnerReference> {
    let owner = config.controller_owner_ref(&()).map(|owner| OwnerReference { block_owner_deletion: None, ..owner });
    owner.into_iter().collect()
}

/// Creates it, where nothing or the same may be.
async fn create(client: &Client, secret: &Secret) -> Result<(), String> {
    let (name, namespace) = (secret.name_any(), secret.namespace().unwrap_or_default());
    let api: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let made = timeout(CALL, api.create(&PostParams::default(), secret)).await;
    match made {
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
            let there = called(async { api.get(&name).await }).await?;
            let same = there.type_ == secret.type_ && same_content(&there, secret);
            if same { Ok(()) } else { Err(format!("Secret {namespace}/{name} has other content: delete it")) }
        }
        Ok(made) => made.map(drop).map_err(|error| told(&error)),
        Err(_) => Err(format!("no answer within {} s", CALL.as_secs())),
    }
}

fn same_content(one: &Secret, other: &Secret) -> bool {
    match (entry(one), entry(other)) {
        (Some(one), Some(other)) => one == other,
        _ => match (Head::from_secret(one), Head::from_secret(other)) {
            (Ok(one), Ok(other)) => one.hash == other.hash,
            _ => false,
        },
    }
}

async fn called<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match timeout(CALL, call).await {
        Ok(answer) => answer.map_err(|error| told(&error)),
        Err(_) => Err(format!("no answer within {} s", CALL.as_secs())),
    }
}
