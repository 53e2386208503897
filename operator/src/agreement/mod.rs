//! What a set of clusters agrees on for a config: proposed when its layers here were changed, delivered whoever proposed it.
//!
//! The register's value is small: numbers and hashes ([`Agreed`]). The content is in the [`archive`] of each cluster.

pub mod archive;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use quorate_coordination::{
    Failure, Register as _, Session, Version as _, Versioned,
    clusters::CALL,
    quorum::{Ballot, KubeQuorum, OpenError, open},
};
use quorate_crds::{Agreed, AgreedEntry, Agreement, AgreementStatus, DistributedConfig, head::Bundle, names};
use quorate_resolve::Problems;
use tokio::time::timeout;

use crate::{Key, Operator, api::ApiError, clusters::Open, decide::Wanted, dereference::digest};
use archive::Archive;

/// What is decided elsewhere is looked for this often, if no watch tells of it.
pub const ROUTINE: Duration = Duration::from_secs(10);
/// So long all of it may take.
const LIMIT: Duration = Duration::from_secs(15);
/// Tries to be the next to be decided on.
const TRIES: usize = 8;

/// Why nothing is agreed on.
#[derive(Debug, thiserror::Error)]
pub enum AgreementError {
    /// The set.
    #[error("ClusterSet {set} {why}")]
    Set {
        /// Which.
        set: Key,
        /// What is wrong with it.
        why: String,
    },
    /// This cluster's API server.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The register.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A majority does not answer, or refuses.
    #[error("ClusterSet {set}: {why}")]
    NoMajority {
        /// Which.
        set: Key,
        /// A word on the members.
        why: String,
    },
    /// What was decided cannot be had.
    #[error(
        "ClusterSet {set} decided on revision {revision} of {origin}, whose content cannot be had: {why}; a change of the layers in any of the clusters decides anew"
    )]
    Content {
        /// Which.
        set: Key,
        /// Its number.
        revision: i64,
        /// Whose it is.
        origin: String,
        /// A word on the members.
        why: String,
    },
}

type Register = KubeQuorum<Agreed>;

/// The registers that are open, and what was decided last.
#[derive(Default)]
pub struct Agreements {
    inner: Mutex<HashMap<Key, Known>>,
}

struct Known {
    /// A config made again begins anew.
    config_uid: Option<String>,
    of: Arc<Open>,
    register: Arc<Register>,
    /// What was decided last, and the round in which it was read.
    decided: Option<(AgreedEntry, i64)>,
    /// The set of members of whom a majority keeps it: others, and those that the config was made again in, may have nothing yet.
    kept_in: u64,
    /// The entry that the log here ends with.
    caught_up: i64,
}

impl Agreements {
    /// What was decided last, as the status says it.
    #[must_use]
    pub fn status(&self, key: &Key, agreement: &Agreement) -> Option<AgreementStatus> {
        let (entry, ballot) = self.lock().get(key)?.decided.clone().filter(|(entry, _)| entry.revision > 0)?;
        let AgreedEntry { revision, origin, hash, lamport, .. } = entry;
        let cluster_set = agreement.cluster_set.clone();
        Some(AgreementStatus { cluster_set, revision, origin, hash, ballot, lamport })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Known>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The config's register.
    async fn register(
        &self,
        config: &DistributedConfig,
        set: &str,
        of: &Arc<Open>,
    ) -> Result<Arc<Register>, AgreementError> {
        let (key, config_uid) = (&Key::of(config), config.metadata.uid.clone());
        let same = |known: &&Known| Arc::ptr_eq(&known.of, of) && known.config_uid == config_uid;
        if let Some(known) = self.lock().get(key).filter(same) {
            return Ok(Arc::clone(&known.register));
        }
        let name = names::config_register(&key.name);
        let session = Session::new("quorate-operator").map_err(|error| AgreementError::Set {
            set: key.clone(),
            why: format!("cannot be used: the system has no randomness: {error}"),
        })?;
        let register = open(&of.members, &key.namespace, set, &name, Agreed::default(), &session, CALL).await?;
        let (register, of) = (Arc::new(register), Arc::clone(of));
        let known = Known { config_uid, of, register: Arc::clone(&register), decided: None, kept_in: 0, caught_up: 0 };
        self.lock().insert(key.clone(), known);
        Ok(register)
    }
}

/// What the config's files are to be, by the word of a majority. `wanted` is what its layers give here, `published` the hash of the
/// head's content.
///
/// # Errors
/// [`AgreementError`]: what is published stays then.
pub async fn agreed(
    operator: &Operator,
    config: &DistributedConfig,
    agreement: &Agreement,
    wanted: Result<Wanted, Problems>,
    published: Option<&str>,
) -> Result<Result<Wanted, Problems>, AgreementError> {
    let key = Key::of(config);
    let set = Key { namespace: key.namespace.clone(), name: agreement.cluster_set.clone() };
    let wrong = |why: String| AgreementError::Set { set: set.clone(), why };
    let no_majority = |why: String| AgreementError::NoMajority { set: set.clone(), why };
    let of = operator.clusters.get(operator, &set).await?;
    let of = of.ok_or_else(|| wrong("does not exist: make it (docs/quorum.md)".to_owned()))?;
    if let Some(why) = &of.refused {
        return Err(wrong(format!("is not used: {why}")));
    }
    let own = of.own().ok_or_else(|| wrong("has no member that is this cluster (self: true)".to_owned()))?;
    let archive = Archive { config, members: &of.members, own };
    let register = operator.agreements.register(config, &agreement.cluster_set, &of).await?;
    let who = operator.state.changed_by(&key);
    let decided = decided(&register, &archive, wanted.as_ref().ok(), who.as_deref());
    let at = match timeout(LIMIT, decided).await {
        Ok(decided) => decided.map_err(no_majority)?,
        Err(_) => return Err(no_majority(format!("nothing was decided within {} s", LIMIT.as_secs()))),
    };
    note(operator, &key, &at);
    let decided = at.state.entry;
    if decided.revision == 0 {
        return Ok(wanted);
    }
    let kept = Kept { operator, key: &key, archive: &archive, register: &register };
    match wanted {
        Ok(wanted) if wanted.hash == decided.hash => {
            kept.by_those_who_decide(&wanted.bundle).await;
            return Ok(Ok(wanted));
        }
        // What is wrong here is told as soon as what was decided is there.
        Err(problems) if published == Some(decided.hash.as_str()) => return Ok(Err(problems)),
        _ => {}
    }
    let bundle = archive.content(&decided.hash).await.map_err(|why| AgreementError::Content {
        set: set.clone(),
        revision: decided.revision,
        origin: decided.origin.clone(),
        why,
    })?;
    kept.by_those_who_decide(&bundle).await;
    Ok(Ok(Wanted { hash: decided.hash, provenance: digest(&bundle), bundle }))
}

/// What was decided, with those who have to keep it.
struct Kept<'a> {
    operator: &'a Operator,
    key: &'a Key,
    archive: &'a Archive<'a>,
    register: &'a Register,
}

impl Kept<'_> {
    /// Keeps it once with a majority of each set of members: who was made one of them since it was decided has nothing yet, and who had it
    /// may have lost it, as with a config that was deleted everywhere and made again.
    async fn by_those_who_decide(&self, bundle: &Bundle) {
        let (place, agreements) = (self.register.place(), &self.operator.agreements);
        let is_kept = |known: &Known| known.kept_in == place.epoch;
        if agreements.lock().get(self.key).is_some_and(is_kept) {
            return;
        }
        match self.archive.keep(vec![self.archive.content_secret(bundle.clone())], &place).await {
            Ok(()) => {
                if let Some(known) = agreements.lock().get_mut(self.key) {
                    known.kept_in = place.epoch;
                }
            }
            Err(why) => tracing::warn!(config = %self.key, why, "what was decided is not kept by a majority"),
        }
    }
}

/// Proposes what the layers give here, if they were changed; what is decided then.
async fn decided(
    register: &Register,
    archive: &Archive<'_>,
    wanted: Option<&Wanted>,
    who: Option<&str>,
) -> Result<Versioned<Agreed, Ballot>, String> {
    let mut at = register.read().await.map_err(|failure| failure.to_string())?;
    for _ in 0..TRIES {
        let proposal = wanted.and_then(|wanted| {
            let next = at.state.proposal(archive.own, &wanted.hash, at.version.token(), who)?;
            Some((wanted, next))
        });
        let Some((wanted, next)) = proposal else { return Ok(at) };
        let content = (next.entry != at.state.entry).then(|| archive.content_secret(wanted.bundle.clone()));
        let entry = (at.state.entry.revision > 0).then(|| archive.entry_secret(&at.state.entry));
        // Nothing follows the register to other members until it is read again: then this write would be refused.
        archive.keep(content.into_iter().chain(entry).collect(), &register.place()).await?;
        match register.compare_and_swap(&at.version, &next).await {
            Ok(version) => return Ok(Versioned { state: next, version }),
            // If it was decided after all, the next read shows it, and there is nothing left to propose.
            Err(Failure::Conflict | Failure::Unknown(_)) => {}
            Err(refused) => return Err(refused.to_string()),
        }
        at = register.read().await.map_err(|failure| failure.to_string())?;
    }
    Err("others propose all the time".to_owned())
}

fn note(operator: &Operator, key: &Key, at: &Versioned<Agreed, Ballot>) {
    let ballot = i64::try_from(at.version.token()).unwrap_or(i64::MAX);
    if let Some(known) = operator.agreements.lock().get_mut(key) {
        known.decided = Some((at.state.entry.clone(), ballot));
    }
}

/// Brings the log here up to what was decided last, once an entry. Pods need not wait for it.
pub async fn catch_up(operator: &Operator, config: &DistributedConfig) {
    let key = Key::of(config);
    let behind = operator.agreements.lock().get(&key).and_then(|known| {
        let (decided, _) = known.decided.clone().filter(|(entry, _)| entry.revision > known.caught_up)?;
        Some((Arc::clone(&known.of), decided))
    });
    let Some((of, decided)) = behind else { return };
    let Some(own) = of.own() else { return };
    let limit = i64::from(config.spec.revision_history_limit);
    match (Archive { config, members: &of.members, own }).catch_up(&decided, limit).await {
        Ok(()) => {
            if let Some(known) = operator.agreements.lock().get_mut(&key) {
                known.caught_up = decided.revision;
            }
        }
        Err(why) => tracing::warn!(config = %key, why, "the log of what the clusters agreed on is not up to date here"),
    }
}
