//! Step 4: does what was decided, by one compare-and-swap of the head; and writes what is reported.

use std::{collections::btree_map::Entry, time::Duration};

use k8s_openapi::api::{core::v1::Secret, events::v1::Event};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    core::Request,
};
use quorate_crds::{
    DistributedConfig,
    head::{Bundle, Head},
    names,
};

use crate::{
    Key,
    api::{ApiError, call},
    candidate,
    decide::{Action, CandidateSlot, Observed, Refusal, Restore, Stored, Version, Why, head_after, surplus},
    dereference::{digest, observe},
    guarded::Guarded,
    log::{self, LogError},
    rollout::{Facts, facts::electorate},
    state::{HeadMemory, State},
};

/// How often a write is sent whose result stays unknown.
const ATTEMPTS: u32 = 4;

/// What came of an action.
#[derive(Debug)]
pub enum Outcome {
    /// Pods read what they should, or are on their way there.
    Held(Why),
    /// A new revision was written.
    Published {
        /// Why an old one's content, if so.
        restored: Option<Restore>,
        /// What was wrong with the head before, if it was damaged.
        repaired: Option<String>,
    },
    /// A step on the way: there is more to do at once.
    Moved,
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

/// Does it, as `done` says. After an error the head and the candidate are read again.
///
/// # Errors
/// [`ApplyError`].
pub async fn apply(
    client: &Client,
    state: &State,
    config: &DistributedConfig,
    memory: HeadMemory,
    action: Action,
    facts: &Facts,
    head_written: impl FnOnce(),
) -> Result<(HeadMemory, Outcome), ApplyError> {
    let result = done(client, state, config, memory, action, facts, head_written).await;
    if result.is_err() {
        // What was remembered may be what misled.
        state.forget_head(&Key::of(config));
    }
    result
}

/// `head_written` is called when the decision stands, before the log is written.
///
/// Old log entries stay: [`prune`] drops them when their events are written.
async fn done(
    client: &Client,
    state: &State,
    config: &DistributedConfig,
    memory: HeadMemory,
    action: Action,
    facts: &Facts,
    head_written: impl FnOnce(),
) -> Result<(HeadMemory, Outcome), ApplyError> {
    let repaired = match &memory.observed {
        Observed::Damaged { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    let (source, outcome) = match &action {
        Action::Hold(why) => return Ok((memory, Outcome::Held(*why))),
        Action::Refuse(refusal) => return Ok((memory, Outcome::Refused(refusal.clone()))),
        // What was listed by quorum was not enough: the caller lists first.
        Action::Look => return Ok((memory, Outcome::Moved)),
        Action::Propose(bundle) => return propose(client, state, config, memory, bundle.clone(), facts).await,
        Action::Discard(version) => return discard(client, state, config, memory, version).await,
        Action::Explain(_) => (None, Outcome::Held(Why::Current)),
        Action::Instruct(_) => (None, Outcome::Moved),
        Action::Publish(_) => (None, Outcome::Published { restored: None, repaired }),
        Action::Accept => {
            (Some(accepted(client, config, &memory).await?), Outcome::Published { restored: None, repaired: None })
        }
        Action::Restore { revision, because } => match old(client, config, &memory, *revision, because).await? {
            Some((revision, old)) => {
                let action = Action::Restore { revision, because: because.clone() };
                let outcome = Outcome::Published { restored: Some(because.clone()), repaired };
                let head = next(client, config, &memory, &action, Some(old), facts).await?;
                let memory = write(client, state, config, memory, head, head_written).await?;
                return Ok((memory, outcome));
            }
            None => return Ok((memory.clone(), Outcome::Refused(nothing_old(&memory, *revision, because)))),
        },
    };
    let head = next(client, config, &memory, &action, source, facts).await?;
    let memory = if matches!(action, Action::Instruct(_)) {
        instruct(client, state, config, memory, head).await?
    } else {
        write(client, state, config, memory, head, head_written).await?
    };
    Ok((memory, outcome))
}

/// The head that the action makes. Without a head to follow, it continues the chain of the log.
async fn next(
    client: &Client,
    config: &DistributedConfig,
    memory: &HeadMemory,
    action: &Action,
    source: Option<Head>,
    facts: &Facts,
) -> Result<Head, ApplyError> {
    let logged = match (&memory.observed, memory.log.last_key_value()) {
        (Observed::Absent | Observed::Damaged { .. }, Some((&revision, _))) => {
            log::read(client, config, revision).await.map_err(ApplyError::Read)?
        }
        _ => None,
    };
    let before = match &memory.observed {
        Observed::Ours(stored) => Some(&stored.head),
        _ => logged.as_ref(),
    };
    head_after(&config.spec, before, memory.highest, action, source, facts).ok_or(ApplyError::Conflict)
}

/// What to publish again, and its revision: the one that is asked for, or without a head the
/// newest that verifies.
async fn old(
    client: &Client,
    config: &DistributedConfig,
    memory: &HeadMemory,
    newest: i64,
    because: &Restore,
) -> Result<Option<(i64, Head)>, ApplyError> {
    let revisions: Vec<i64> = match because {
        Restore::Pinned | Restore::Refused(_) => vec![newest],
        Restore::LastGood(_) | Restore::HeadLost => {
            memory.log.range(..=newest).rev().map(|(revision, _)| *revision).collect()
        }
    };
    for revision in revisions {
        if let Some(head) = log::read(client, config, revision).await.map_err(ApplyError::Read)? {
            return Ok(Some((revision, head)));
        }
    }
    Ok(None)
}

/// Why no old content can be published again.
fn nothing_old(memory: &HeadMemory, revision: i64, because: &Restore) -> Refusal {
    match because {
        Restore::LastGood(problems) => Refusal::Invalid(problems.clone()),
        Restore::Refused(reason) => Refusal::NoReturn(reason.clone()),
        Restore::Pinned | Restore::HeadLost => {
            let available = memory.log.keys().copied().filter(|r| *r != revision).collect();
            Refusal::PinGone { revision, available }
        }
    }
}

/// The candidate, read and verified once more right before the head becomes it.
async fn accepted(client: &Client, config: &DistributedConfig, memory: &HeadMemory) -> Result<Head, ApplyError> {
    let Observed::Ours(stored) = &memory.observed else { return Err(ApplyError::Conflict) };
    let Some(instruction) = &stored.head.standing.rollout else { return Err(ApplyError::Conflict) };
    let there = candidate::read(client, config).await.map_err(ApplyError::Read)?;
    let same = there.uid().as_deref() == Some(instruction.proposal.uid.as_str());
    match Head::from_secret(&there) {
        Ok(head) if same && head.hash == instruction.proposal.hash => Ok(head),
        _ => Err(ApplyError::Conflict),
    }
}

async fn propose(
    client: &Client,
    state: &State,
    config: &DistributedConfig,
    mut memory: HeadMemory,
    bundle: Bundle,
    facts: &Facts,
) -> Result<(HeadMemory, Outcome), ApplyError> {
    let Observed::Ours(stored) = &memory.observed else { return Err(ApplyError::Conflict) };
    let highest = memory.highest.max(stored.head.standing.highest).saturating_add(1);
    let mut head = Head::next(Some(&stored.head), highest, bundle, facts.now);
    head.changed_by = facts.changed_by.clone();
    head.lamport = facts.lamport(stored.head.lamport);
    head.term = facts.term_after(stored.head.term);
    let key = Key::of(config);
    state.begin_write(&key);
    match candidate::create(client, config, &head, &electorate(&facts.pods)).await {
        Ok(slot) => memory.candidate = slot,
        Err(error) => {
            state.end_write(&key, None);
            return Err(if error.code() == Some(409) { ApplyError::Conflict } else { error.into() });
        }
    }
    state.end_write(&key, Some(memory.clone()));
    Ok((memory, Outcome::Moved))
}

async fn discard(
    client: &Client,
    state: &State,
    config: &DistributedConfig,
    mut memory: HeadMemory,
    version: &Version,
) -> Result<(HeadMemory, Outcome), ApplyError> {
    let key = Key::of(config);
    state.begin_write(&key);
    if let Err(error) = candidate::delete(client, config, version).await {
        state.end_write(&key, None);
        return Err(error.into());
    }
    memory.candidate = CandidateSlot::Absent;
    state.end_write(&key, Some(memory.clone()));
    Ok((memory, Outcome::Moved))
}

/// Changes what the head says beside its content: a merge patch that carries uid and resourceVersion, so
/// that it is a compare-and-swap without the content.
async fn instruct(
    client: &Client,
    state: &State,
    config: &DistributedConfig,
    mut memory: HeadMemory,
    head: Head,
) -> Result<HeadMemory, ApplyError> {
    let Observed::Ours(stored) = &memory.observed else { return Err(ApplyError::Conflict) };
    let key = Key::of(config);
    let name = names::head_name(&key.name);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &key.namespace);
    let patch = Patch::Merge(serde_json::json!({"metadata": {
        "uid": stored.version.uid, "resourceVersion": stored.version.resource_version,
        "annotations": head.standing_annotations(),
    }}));
    state.begin_write(&key);
    let mut attempt = 0;
    let result = loop {
        attempt += 1;
        let params = PatchParams::default();
        let patched = call(
            || format!("annotate Secret {}/{name}", key.namespace),
            secrets.patch_metadata(&name, &params, &patch),
        );
        match patched.await {
            Ok(written) => break Ok(written.resource_version().unwrap_or_default()),
            Err(error) if error.code() == Some(409) => {
                // If it was this one that landed, the annotations are there.
                let there = call(|| format!("get Secret {}/{name}", key.namespace), secrets.get_metadata(&name)).await;
                break match there {
                    Ok(there)
                        if head.standing_annotations().iter().all(|(k, v)| there.annotations().get(k) == Some(v)) =>
                    {
                        Ok(there.resource_version().unwrap_or_default())
                    }
                    Ok(_) => Err(ApplyError::Conflict),
                    Err(error) => Err(error.into()),
                };
            }
            Err(error) if error.code() == Some(404) => break Err(ApplyError::Conflict),
            Err(error) if error.is_refusal() || attempt == ATTEMPTS => break Err(error.into()),
            Err(error) => pause(&key, attempt, &error).await,
        }
    };
    match result {
        Ok(resource_version) => {
            let version = Version { resource_version, ..stored.version.clone() };
            memory.highest = memory.highest.max(head.standing.highest);
            memory.observed = Observed::Ours(Stored { version, head, provenance: stored.provenance });
            state.end_write(&key, Some(memory.clone()));
            Ok(memory)
        }
        Err(error) => {
            state.end_write(&key, None);
            Err(error)
        }
    }
}

/// Before a write whose result is unknown is sent again.
async fn pause(key: &Key, attempt: u32, error: &ApiError) {
    tracing::warn!(config = %key, attempt, %error, "the write's result is unknown: sending the same again");
    tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
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
            Err(error) => pause(&key, attempt, &error).await,
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
pub async fn write_status(client: &Client, config: &DistributedConfig) -> Result<Guarded, ApiError> {
    let key = Key::of(config);
    // The answer holds the whole config, however deep: no Api reads it.
    let write = async {
        let body = serde_json::to_vec(config).map_err(kube::Error::SerdeError)?;
        let request = Request::new(DistributedConfig::url_path(&(), Some(&key.namespace)))
            .replace_subresource("status", &key.name, &PostParams::default(), body)
            .map_err(kube::Error::BuildRequest)?;
        client.request(request).await
    };
    call(|| format!("update the status of DistributedConfig {key}"), write).await
}
