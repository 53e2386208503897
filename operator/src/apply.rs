//! Step 4: does what was decided, by one compare-and-swap of the head; and writes what is reported.

use std::{collections::btree_map::Entry, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Secret, events::v1::Event};
use kube::{Api, Client, ResourceExt, api::PostParams};
use quorate_crds::{
    DistributedConfig,
    head::{Bundle, Head},
};

use crate::{
    Key,
    api::{ApiError, call},
    decide::{Action, Observed, Refusal, Restore, Stored, Version, Why, surplus},
    dereference::{digest, observe},
    log::{self, LogError},
    state::{HeadMemory, State},
};

/// How often a write is sent whose result stays unknown.
const ATTEMPTS: u32 = 4;

/// What came of an action.
#[derive(Debug)]
pub enum Outcome {
    /// Pods read what they should.
    Held(Why),
    /// A new revision was written.
    Published {
        /// Why an old one's content, if so.
        restored: Option<Restore>,
        /// What was wrong with the head before, if it was damaged.
        repaired: Option<String>,
    },
    /// Nothing was written.
    Refused(Refusal),
}

/// Why an action could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Somebody else wrote the head: look again.
    #[error("the head was changed by another writer")]
    Conflict,
    /// An old revision's entry.
    #[error(transparent)]
    Read(ApiError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The API server.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Does it. `head_written` is called when the decision stands, before the log is written.
///
/// Old log entries stay: [`prune`] drops them when their events are written.
///
/// # Errors
/// [`ApplyError`]; the head is then read again before the next decision.
pub async fn apply(
    client: &Client,
    state: &State,
    config: &DistributedConfig,
    memory: HeadMemory,
    action: Action,
    head_written: impl FnOnce(),
) -> Result<(HeadMemory, Outcome), ApplyError> {
    let repaired = match &memory.observed {
        Observed::Damaged { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    let (head, outcome) = match action {
        Action::Hold(why) => return Ok((memory, Outcome::Held(why))),
        Action::Refuse(refusal) => return Ok((memory, Outcome::Refused(refusal))),
        Action::Explain(bundle) => match &memory.observed {
            Observed::Ours(same) => (Head { bundle, ..same.head.clone() }, Outcome::Held(Why::Current)),
            _ => return Err(ApplyError::Conflict),
        },
        Action::Publish(bundle) => {
            (next(client, config, &memory, bundle).await?, Outcome::Published { restored: None, repaired })
        }
        Action::Restore { revision, because } => {
            match (old(client, config, &memory, revision, &because).await?, because) {
                (Some((revision, bundle)), because) => {
                    let head = Head { restored: Some(revision), ..next(client, config, &memory, bundle).await? };
                    (head, Outcome::Published { restored: Some(because), repaired })
                }
                (None, Restore::Pinned) => {
                    let available = memory.log.keys().copied().filter(|r| *r != revision).collect();
                    return Ok((memory, Outcome::Refused(Refusal::PinGone { revision, available })));
                }
                (None, Restore::LastGood(problems)) => {
                    return Ok((memory, Outcome::Refused(Refusal::Invalid(problems))));
                }
            }
        }
    };
    let memory = write(client, state, config, memory, head, head_written).await?;
    Ok((memory, outcome))
}

/// The next revision. Without a head to follow, it continues the chain of the log.
async fn next(
    client: &Client,
    config: &DistributedConfig,
    memory: &HeadMemory,
    bundle: Bundle,
) -> Result<Head, ApplyError> {
    let logged = match (&memory.observed, memory.log.last_key_value()) {
        (Observed::Absent | Observed::Damaged { .. }, Some((&revision, _))) => {
            log::read(client, config, revision).await.map_err(ApplyError::Read)?
        }
        _ => None,
    };
    let previous = match &memory.observed {
        Observed::Ours(stored) => Some(&stored.head),
        _ => logged.as_ref(),
    };
    Ok(Head::next(previous, memory.highest.saturating_add(1), bundle, Timestamp::now()))
}

/// The content to publish again, and its revision: the pinned, or else the newest that verifies.
async fn old(
    client: &Client,
    config: &DistributedConfig,
    memory: &HeadMemory,
    newest: i64,
    because: &Restore,
) -> Result<Option<(i64, Bundle)>, ApplyError> {
    let revisions: Vec<i64> = match because {
        Restore::Pinned => vec![newest],
        Restore::LastGood(_) => memory.log.range(..=newest).rev().map(|(revision, _)| *revision).collect(),
    };
    for revision in revisions {
        if let Some(head) = log::read(client, config, revision).await.map_err(ApplyError::Read)? {
            return Ok(Some((revision, head.bundle)));
        }
    }
    Ok(None)
}

/// Writes the head, then its log entry.
async fn write(
    client: &Client,
    state: &State,
    config: &DistributedConfig,
    mut memory: HeadMemory,
    head: Head,
    head_written: impl FnOnce(),
) -> Result<HeadMemory, ApplyError> {
    let key = Key::of(config);
    state.begin_write(&key);
    let written = swap(client, config, &memory.observed, &head).await;
    match written {
        Ok(stored) => memory.observed = Observed::Ours(stored),
        Err(error) => {
            state.end_write(&key, None);
            return Err(error);
        }
    }
    head_written();
    memory.highest = memory.highest.max(head.revision);
    if let Entry::Vacant(place) = memory.log.entry(head.revision) {
        match log::append(client, config, &head).await {
            Ok(entry) => place.insert(entry),
            Err(error) => {
                // The next reading of the head finds no entry, and writes it first.
                state.end_write(&key, None);
                return Err(error.into());
            }
        };
    }
    state.end_write(&key, Some(memory.clone()));
    Ok(memory)
}

/// Deletes the log entries beyond the limit.
pub async fn prune(client: &Client, state: &State, config: &DistributedConfig, memory: &HeadMemory) {
    let key = Key::of(config);
    for revision in surplus(&config.spec, &memory.observed, &memory.log) {
        let Some(entry) = memory.log.get(&revision) else { continue };
        if let Err(error) = log::delete(client, &key, revision, &entry.uid).await {
            // It is surplus at the next run too.
            tracing::warn!(config = %key, revision, %error, "an old log entry stays for now");
            return;
        }
        state.entry_deleted(&key, revision, &entry.uid);
    }
}

/// The compare-and-swap. A result that stays unknown is settled by repeating the same write: it is
/// refused with 409 if it landed, and then the chain value and the provenance tell whether it was
/// this one.
async fn swap(
    client: &Client,
    config: &DistributedConfig,
    observed: &Observed,
    head: &Head,
) -> Result<Stored, ApplyError> {
    let key = Key::of(config);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &key.namespace);
    let mut secret = head.to_head_secret(config);
    let name = secret.name_any();
    let base = match observed {
        Observed::Ours(Stored { version, .. }) | Observed::Damaged { version, .. } => Some(version),
        Observed::Absent => None,
        Observed::Predecessor | Observed::Foreign { .. } => return Err(ApplyError::Conflict),
    };
    secret.metadata.uid = base.map(|version| version.uid.clone());
    secret.metadata.resource_version = base.map(|version| version.resource_version.clone());
    let params = PostParams::default();
    let provenance = digest(&head.bundle);
    let mut attempt = 0;
    loop {
        attempt += 1;
        let result = if base.is_some() {
            call(|| format!("update Secret {}/{name}", key.namespace), secrets.replace(&name, &params, &secret)).await
        } else {
            call(|| format!("create Secret {}/{name}", key.namespace), secrets.create(&params, &secret)).await
        };
        match result {
            Ok(written) => {
                let version = Version {
                    uid: written.uid().unwrap_or_default(),
                    resource_version: written.resource_version().unwrap_or_default(),
                };
                let head = Head { bundle: Bundle::default(), ..head.clone() };
                return Ok(Stored { version, head, provenance });
            }
            Err(error) if error.code() == Some(409) => {
                let there = call(|| format!("get Secret {}/{name}", key.namespace), secrets.get(&name)).await?;
                return match observe(Some(&there), config).0 {
                    Observed::Ours(stored) if stored.head.chain == head.chain && stored.provenance == provenance => {
                        Ok(stored)
                    }
                    _ => Err(ApplyError::Conflict),
                };
            }
            Err(error) if error.code() == Some(404) && base.is_some() => return Err(ApplyError::Conflict),
            Err(error) if error.is_refusal() || attempt == ATTEMPTS => return Err(error.into()),
            Err(error) => {
                tracing::warn!(config = %key, attempt, %error, "the write's result is unknown: sending the same again");
                tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
            }
        }
    }
}

/// Writes an event. One of this name that is there already is the same.
///
/// # Errors
/// Those of the API server.
pub async fn write_event(client: &Client, event: &Event) -> Result<(), ApiError> {
    let namespace = event.namespace().unwrap_or_default();
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let params = PostParams::default();
    match call(|| format!("create Event {namespace}/{}", event.name_any()), events.create(&params, event)).await {
        Err(error) if error.code() != Some(409) => Err(error),
        _ => Ok(()),
    }
}

/// Writes the status, if the config is still the one that was looked at.
///
/// # Errors
/// Those of the API server; a conflict means that there is a newer config.
pub async fn write_status(client: &Client, config: &DistributedConfig) -> Result<DistributedConfig, ApiError> {
    let key = Key::of(config);
    let configs: Api<DistributedConfig> = Api::namespaced(client.clone(), &key.namespace);
    let params = PostParams::default();
    let write = configs.replace_status(&key.name, &params, config);
    call(|| format!("update the status of DistributedConfig {key}"), write).await
}
