//! What the operator knows: the configs, who refers to what, the content of what they refer to, and
//! the heads as last read or written.
//!
//! Watches on foreign objects carry metadata only. An event drops the object's content, if it is of
//! another version, and makes the configs that refer to it due; their next run fetches it. Every
//! content and head has an epoch that such an event renews, so that an answer to a request sent
//! before the event is not kept as if it were newer. No epoch is used twice.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{ResourceExt, core::PartialObjectMeta};
use quorate_crds::{DistributedConfig, Orders, names};
use quorate_resolve::{Keys, SourceKind, SourceRef, Sources};
use tokio::time::Instant;

use crate::{
    Key, access,
    decide::{CandidateSlot, Log, Observed, Version},
    nudge::Mounting,
    queue::Queue,
    rollout::{GateState, Pod, Replica},
};

/// How many bytes of ConfigMaps and Secrets are kept; what exceeds them is fetched again when needed.
const CONTENT_BUDGET: usize = 8 * 1024 * 1024;

/// How often a config's status is written at most.
const STATUS_INTERVAL: Duration = Duration::from_millis(250);

/// A run that pods' words make due waits so long for more of them: a crowd answers within moments.
const GATHER: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Default)]
pub struct State {
    /// What is due.
    pub queue: Queue,
    term: OnceLock<u64>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    configs: HashMap<Key, Arc<DistributedConfig>>,
    /// The scopes (`None` is all) whose configs are known.
    listed: HashSet<Option<String>>,
    references: HashMap<Key, BTreeSet<SourceRef>>,
    referrers: HashMap<SourceRef, BTreeSet<Key>>,
    contents: HashMap<SourceRef, Content>,
    content_bytes: usize,
    /// Counts epochs and uses.
    ticks: u64,
    heads: HashMap<Key, HeadSlot>,
    replicas: HashMap<Key, BTreeMap<String, Replica>>,
    pods: HashMap<Key, Listed>,
    stages: HashMap<Key, Stage>,
    told: HashMap<Key, BTreeSet<String>>,
    access: HashMap<Key, (access::Remembered, Instant)>,
    noticed: HashMap<Key, Instant>,
    reported: HashMap<Key, Instant>,
}

/// The pods of a config, as listed last.
#[derive(Default)]
struct Listed {
    /// When; `None` if a pod that was not listed has said something since.
    at: Option<Instant>,
    pods: Vec<Pod>,
    /// Those of them that mount the head as a plain volume.
    mounting: Vec<Mounting>,
}

/// A source's content, as far as it is known.
#[derive(Default)]
struct Content {
    epoch: u64,
    last_use: u64,
    known: Option<Known>,
}

struct Known {
    changed: Option<Change>,
    resource_version: Option<String>,
    keys: Option<Arc<Keys>>,
    bytes: usize,
}

struct HeadSlot {
    epoch: u64,
    memory: Option<HeadMemory>,
    /// While a write is under way: the versions that events told of.
    writing: Option<Vec<String>>,
}

/// Who changed an object last, and when.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// When, by the API server's clock, in whole seconds.
    pub at: Timestamp,
    /// The field manager, and of which object.
    pub who: String,
}

impl Change {
    /// Of an object, from its managedFields; what operators report in the status is no change.
    #[must_use]
    pub fn of(object: &impl ResourceExt, kind: &str) -> Option<Self> {
        let entries = object.managed_fields().iter().filter(|entry| entry.subresource.as_deref() != Some("status"));
        let newest = entries.filter_map(|entry| Some((entry.time.as_ref()?.0, entry.manager.as_ref()?)));
        let (at, manager) = newest.max_by_key(|(at, _)| *at)?;
        let namespace = object.namespace().unwrap_or_default();
        Some(Self { at, who: format!("{manager} ({kind} {namespace}/{})", object.name_any()) })
    }
}

/// What is remembered of one step of a rollout; another step, candidate or resumption has another.
#[derive(Clone, Debug, Default)]
pub struct Stage {
    /// The candidate's uid, the step and its beginning.
    pub of: (String, usize, Timestamp),
    /// Since when it bakes.
    pub baking_since: Option<Timestamp>,
    /// What the gates answered.
    pub gates: BTreeMap<String, GateState>,
    /// The gates that are being asked.
    pub asking: BTreeSet<String>,
}

/// What is remembered of a config's head and log between runs.
#[derive(Clone, Debug)]
pub struct HeadMemory {
    /// The config's uid; a config made again has other heads.
    pub config_uid: String,
    /// The head.
    pub observed: Observed,
    /// The candidate.
    pub candidate: CandidateSlot,
    /// The log.
    pub log: Log,
    /// The highest revision there ever was, as far as anything tells.
    pub highest: i64,
}

impl HeadMemory {
    /// Whether this is the version of the head or candidate that is remembered.
    fn knows(&self, resource_version: &str) -> bool {
        let versions = self.candidate_version().into_iter().chain(self.head_version());
        versions.into_iter().any(|version| version.resource_version == resource_version)
    }

    /// The names of the head and the candidate, where there is one.
    fn secrets(&self, config: &str) -> impl Iterator<Item = String> {
        let head = self.head_version().map(|_| names::head_name(config));
        head.into_iter().chain(self.candidate_version().map(|_| names::candidate_name(config)))
    }

    fn candidate_version(&self) -> Option<&Version> {
        match &self.candidate {
            CandidateSlot::Ours { version, .. } | CandidateSlot::Damaged(version) => Some(version),
            CandidateSlot::Absent | CandidateSlot::Foreign { .. } => None,
        }
    }

    /// Whether there is no candidate.
    fn has_none(&self) -> bool {
        matches!(self.candidate, CandidateSlot::Absent)
    }

    fn head_version(&self) -> Option<&Version> {
        match &self.observed {
            Observed::Ours(stored) => Some(&stored.version),
            Observed::Damaged { version, .. } => Some(version),
            Observed::Absent | Observed::Predecessor | Observed::Foreign { .. } => None,
        }
    }
}

impl State {
    /// This operator leads from now on, in this term.
    pub fn lead(&self, term: u64) {
        // It leads once: an operator that has lost it ends.
        let _ = self.term.set(term);
    }

    /// The term in which this operator leads; 0 if none is elected.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.term.get().copied().unwrap_or_default()
    }

    /// The config, if it exists.
    #[must_use]
    pub fn config(&self, key: &Key) -> Option<Arc<DistributedConfig>> {
        self.lock().configs.get(key).cloned()
    }

    /// All configs.
    #[must_use]
    pub fn configs(&self) -> Vec<Arc<DistributedConfig>> {
        self.lock().configs.values().cloned().collect()
    }

    /// Takes in a config. It and those that refer to it become due, unless only its status changed.
    pub fn config_applied(&self, config: DistributedConfig) {
        let key = Key::of(&config);
        let mut inner = self.lock();
        let orders = |config: &DistributedConfig| Orders::of(config.annotations());
        let same = |old: &Arc<DistributedConfig>| same_request(old, &config) && orders(old) == orders(&config);
        let same = inner.configs.get(&key).is_some_and(same);
        let newer = inner.configs.insert(key.clone(), Arc::new(config));
        if same {
            return;
        }
        if newer.is_none() {
            inner.heads.remove(&key);
        }
        let mut due = inner.referrers.get(&config_ref(&key)).cloned().unwrap_or_default();
        due.insert(key);
        self.notice(&mut inner, due);
    }

    /// Other clusters may have decided on something for the config that this acceptor is of.
    pub fn agreement_changed(&self, acceptor: &impl ResourceExt) {
        let Some(name) = acceptor.name_any().strip_prefix(&names::config_register("")).map(str::to_owned) else {
            return;
        };
        let key = Key { namespace: acceptor.namespace().unwrap_or_default(), name };
        if self.config(&key).is_some_and(|config| config.spec.agreement.is_some()) {
            self.queue.add(key);
        }
    }

    /// Forgets a config. Those that refer to it become due.
    pub fn config_deleted(&self, key: &Key) {
        let mut inner = self.lock();
        inner.configs.remove(key);
        inner.heads.remove(key);
        inner.noticed.remove(key);
        inner.reported.remove(key);
        inner.pods.remove(key);
        inner.stages.remove(key);
        inner.told.remove(key);
        inner.access.remove(key);
        inner.set_references(key, BTreeSet::new());
        let due = inner.referrers.get(&config_ref(key)).cloned().unwrap_or_default();
        self.notice(&mut inner, due);
    }

    /// Forgets the configs of a scope (`None` is all) that a complete listing did not show.
    pub fn configs_listed(&self, namespace: Option<&str>, listed: &HashSet<Key>) {
        let gone: Vec<Key> = {
            let mut inner = self.lock();
            inner.listed.insert(namespace.map(str::to_owned));
            let in_scope = |key: &&Key| namespace.is_none_or(|n| n == key.namespace);
            inner.configs.keys().filter(in_scope).filter(|key| !listed.contains(key)).cloned().collect()
        };
        for key in &gone {
            self.config_deleted(key);
        }
    }

    /// Whether the configs of a namespace are known: if not, none that is missing is known to be.
    #[must_use]
    pub fn is_listed(&self, namespace: &str) -> bool {
        let inner = self.lock();
        inner.listed.contains(&None) || inner.listed.contains(&Some(namespace.to_owned()))
    }

    /// Keeps the answer to a status write, unless a newer reading of the config came meanwhile: the
    /// next write would be refused for its old version, again and again.
    pub fn status_written(&self, config: DistributedConfig) {
        let key = Key::of(&config);
        let mut inner = self.lock();
        if inner.configs.get(&key).is_some_and(|known| same_request(known, &config) && is_newer(&config, known)) {
            inner.configs.insert(key, Arc::new(config));
        }
    }

    /// Takes in that a ConfigMap or Secret changed or is gone (`resource_version` is then `None`).
    pub fn source_changed(&self, source: &SourceRef, resource_version: Option<&str>) {
        let mut inner = self.lock();
        let epoch = inner.tick();
        if let Some(content) = inner.contents.get_mut(source) {
            let unchanged = content.known.as_ref().is_some_and(|k| k.resource_version.as_deref() == resource_version);
            if unchanged {
                return;
            }
            content.epoch = epoch;
            let freed = content.known.take().map_or(0, |k| k.bytes);
            inner.content_bytes -= freed;
        }
        if let Some(due) = inner.referrers.get(source).cloned() {
            self.notice(&mut inner, due);
        }
    }

    /// Which of the referenced sources of this kind and scope a complete listing did not show.
    #[must_use]
    pub fn unlisted(&self, kind: SourceKind, namespace: Option<&str>, listed: &HashSet<SourceRef>) -> Vec<SourceRef> {
        let inner = self.lock();
        let in_scope = |s: &&SourceRef| s.kind == kind && namespace.is_none_or(|n| n == s.namespace);
        inner.referrers.keys().filter(in_scope).filter(|s| !listed.contains(s)).cloned().collect()
    }

    /// Whether any config refers to it.
    #[must_use]
    pub fn is_referenced(&self, source: &SourceRef) -> bool {
        self.lock().referrers.contains_key(source)
    }

    /// Takes in that a head or candidate was written or deleted, unless it was by this operator.
    pub fn head_changed(&self, head: &PartialObjectMeta<Secret>, deleted: bool) {
        let name = head.name_any();
        let is_candidate = name.strip_suffix(names::candidate_name("").as_str());
        let Some(config) = is_candidate.or_else(|| name.strip_suffix(names::head_name("").as_str())) else { return };
        let key = Key { namespace: head.namespace().unwrap_or_default(), name: config.to_owned() };
        let mut inner = self.lock();
        if !inner.configs.contains_key(&key) {
            return;
        }
        let seen = head.resource_version().unwrap_or_default();
        let epoch = inner.tick();
        let slot = inner.heads.entry(key.clone()).or_insert_with(|| HeadSlot::new(epoch));
        match &mut slot.writing {
            // A deletion has a version of its own, which is never that of the write.
            Some(versions) => versions.push(seen),
            None if !deleted && slot.memory.as_ref().is_some_and(|memory| memory.knows(&seen)) => {}
            // This operator deleted it.
            None if deleted && is_candidate.is_some() && slot.memory.as_ref().is_some_and(HeadMemory::has_none) => {}
            None => {
                slot.epoch = epoch;
                slot.memory = None;
                self.notice(&mut inner, BTreeSet::from([key]));
            }
        }
    }

    /// After a complete listing of Secrets (namespace and name): where a head or candidate is remembered
    /// that was not shown, both are read again.
    pub fn heads_listed(&self, namespace: Option<&str>, listed: &HashSet<(String, String)>) {
        let mut inner = self.lock();
        let gone: BTreeSet<Key> = inner
            .heads
            .iter()
            .filter(|(key, slot)| {
                namespace.is_none_or(|n| n == key.namespace)
                    && slot.memory.as_ref().is_some_and(|memory| {
                        let mut known = memory.secrets(&key.name);
                        known.any(|name| !listed.contains(&(key.namespace.clone(), name)))
                    })
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in &gone {
            let epoch = inner.tick();
            let Some(slot) = inner.heads.get_mut(key) else { continue };
            match &mut slot.writing {
                // No version: whatever is written meanwhile, the head is looked at again.
                Some(versions) => versions.push(String::new()),
                None => *slot = HeadSlot::new(epoch),
            }
        }
        self.notice(&mut inner, gone);
    }

    /// What is remembered of a config's head, and the epoch to keep a newer reading under.
    #[must_use]
    pub fn head(&self, key: &Key) -> (u64, Option<HeadMemory>) {
        let mut inner = self.lock();
        let slot = inner.head_slot(key);
        (slot.epoch, slot.memory.clone())
    }

    /// Remembers a head that was read, unless an event came meanwhile.
    pub fn keep_head(&self, key: &Key, epoch: u64, memory: HeadMemory) {
        let mut inner = self.lock();
        if let Some(slot) = inner.heads.get_mut(key).filter(|slot| slot.epoch == epoch) {
            slot.memory = Some(memory);
        }
    }

    /// A write of the head begins: events until [`State::end_write`] may be its own.
    pub fn begin_write(&self, key: &Key) {
        self.lock().head_slot(key).writing = Some(Vec::new());
    }

    /// A write of the head has ended: with what is known now, or with an unknown result.
    pub fn end_write(&self, key: &Key, memory: Option<HeadMemory>) {
        let mut inner = self.lock();
        let epoch = inner.tick();
        // The config is gone, or another: nothing is known of its head.
        let Some(slot) = inner.heads.get_mut(key) else { return };
        let Some(versions) = slot.writing.take() else { return };
        let foreign = versions.iter().any(|seen| !memory.as_ref().is_some_and(|memory| memory.knows(seen)));
        slot.epoch = epoch;
        slot.memory = memory.filter(|_| !foreign);
        if foreign {
            self.notice(&mut inner, BTreeSet::from([key.clone()]));
        }
    }

    /// The head and the candidate are to be read again.
    pub fn forget_head(&self, key: &Key) {
        let mut inner = self.lock();
        let epoch = inner.tick();
        if let Some(slot) = inner.heads.get_mut(key) {
            *slot = HeadSlot::new(epoch);
        }
    }

    /// A log entry was deleted.
    pub fn entry_deleted(&self, key: &Key, revision: i64, uid: &str) {
        let mut inner = self.lock();
        if let Some(memory) = inner.heads.get_mut(key).and_then(|slot| slot.memory.as_mut())
            && memory.log.get(&revision).is_some_and(|entry| entry.uid == uid)
        {
            memory.log.remove(&revision);
        }
    }

    /// Remembers what a config refers to. Call it before fetching, so that no event is missed.
    pub fn set_references(&self, key: &Key, references: BTreeSet<SourceRef>) {
        self.lock().set_references(key, references);
    }

    /// Adds what is known of the sources to the snapshot, and returns the rest with their epochs.
    pub fn fill(&self, wanted: &BTreeSet<SourceRef>, sources: &mut Sources) -> Vec<(SourceRef, u64)> {
        let mut inner = self.lock();
        let now = inner.tick();
        let mut unknown = Vec::new();
        for source in wanted {
            if source.kind == SourceKind::DistributedConfig {
                let key = Key { namespace: source.namespace.clone(), name: source.name.clone() };
                sources.configs.insert(source.clone(), inner.configs.get(&key).cloned());
                continue;
            }
            let content =
                inner.contents.entry(source.clone()).or_insert_with(|| Content { epoch: now, ..Content::default() });
            content.last_use = now;
            match &content.known {
                Some(known) => {
                    sources.keys.insert(source.clone(), known.keys.clone());
                }
                None => unknown.push((source.clone(), content.epoch)),
            }
        }
        unknown
    }

    /// Remembers a fetched content, unless an event came meanwhile.
    pub fn keep_content(
        &self,
        source: &SourceRef,
        epoch: u64,
        resource_version: Option<String>,
        keys: Option<Arc<Keys>>,
        changed: Option<Change>,
    ) {
        let bytes = keys.as_ref().map_or(0, |k| k.0.iter().map(|(name, value)| name.len() + value.len()).sum());
        let mut inner = self.lock();
        // Nobody refers to it any more: no event would be looked at.
        if !inner.referrers.contains_key(source) {
            return;
        }
        let asked = |content: &&mut Content| content.epoch == epoch && content.known.is_none();
        let Some(content) = inner.contents.get_mut(source).filter(asked) else { return };
        content.known = Some(Known { changed, resource_version, keys, bytes });
        inner.content_bytes += bytes;
        inner.shrink();
    }

    /// Who made the newest change to a config or anything it refers to.
    #[must_use]
    pub fn changed_by(&self, key: &Key) -> Option<String> {
        let inner = self.lock();
        let of_config = |key: &Key| Change::of(&**inner.configs.get(key)?, "DistributedConfig");
        let of_source = |source: &SourceRef| match source.kind {
            SourceKind::DistributedConfig => {
                of_config(&Key { namespace: source.namespace.clone(), name: source.name.clone() })
            }
            _ => inner.contents.get(source)?.known.as_ref()?.changed.clone(),
        };
        let sources = inner.references.get(key).into_iter().flatten().filter_map(of_source);
        sources.chain(of_config(key)).max_by_key(|change| change.at).map(|change| change.who)
    }

    /// Takes in what a pod says.
    pub fn replica_said(&self, key: &Key, replica: Replica) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let listed = inner.pods.entry(key.clone()).or_default();
        if listed.pods.iter().all(|pod| pod.uid != replica.pod_uid) {
            listed.at = None;
        }
        let of_config = inner.replicas.entry(key.clone()).or_default();
        // Word of before, from a watch that lags behind a listing, changes nothing that is decided by.
        if of_config.insert(replica.pod_uid.clone(), replica.clone()) != Some(replica)
            && inner.configs.contains_key(key)
        {
            self.queue.add_after(key.clone(), GATHER);
        }
    }

    /// A pod says nothing more.
    pub fn replica_gone(&self, key: &Key, pod_uid: &str) {
        let mut inner = self.lock();
        let Some(of_config) = inner.replicas.get_mut(key) else { return };
        let gone = of_config.remove(pod_uid).is_some();
        if of_config.is_empty() {
            inner.replicas.remove(key);
        }
        if gone && inner.configs.contains_key(key) {
            self.queue.add_after(key.clone(), GATHER);
        }
    }

    /// What the pods of a config say, complete as of a listing.
    pub fn replicas_listed(&self, key: &Key, listed: Vec<Replica>) {
        let replicas = listed.into_iter().map(|replica| (replica.pod_uid.clone(), replica)).collect();
        self.lock().replicas.insert(key.clone(), replicas);
    }

    /// After a complete listing of a scope: pods that were not shown say nothing more.
    pub fn replicas_relisted(&self, namespace: Option<&str>, listed: &HashSet<(Key, String)>) {
        let gone: Vec<(Key, String)> = {
            let inner = self.lock();
            let in_scope = inner.replicas.iter().filter(|(key, _)| namespace.is_none_or(|n| n == key.namespace));
            let known = in_scope.flat_map(|(key, pods)| pods.keys().map(|uid| (key.clone(), uid.clone())));
            known.filter(|replica| !listed.contains(replica)).collect()
        };
        for (key, uid) in gone {
            self.replica_gone(&key, &uid);
        }
    }

    /// What the pods of a config say.
    #[must_use]
    pub fn replicas(&self, key: &Key) -> BTreeMap<String, Replica> {
        self.lock().replicas.get(key).cloned().unwrap_or_default()
    }

    /// The config's pods, as listed last.
    #[must_use]
    pub fn pods(&self, key: &Key) -> Vec<Pod> {
        self.lock().pods.get(key).map(|listed| listed.pods.clone()).unwrap_or_default()
    }

    /// How old that listing is; `None` if there is none, or a pod that was not listed has said something since.
    #[must_use]
    pub fn pods_age(&self, key: &Key) -> Option<Duration> {
        self.lock().pods.get(key)?.at.map(|at| at.elapsed())
    }

    /// Remembers the config's pods, and which of them mount its head.
    pub fn pods_listed(&self, key: &Key, pods: Vec<Pod>, mounting: Vec<Mounting>) {
        self.lock().pods.insert(key.clone(), Listed { at: Some(Instant::now()), pods, mounting });
    }

    /// Those that mount the config's head as a plain volume, as listed last.
    #[must_use]
    pub fn mounting(&self, key: &Key) -> Vec<Mounting> {
        self.lock().pods.get(key).map(|listed| listed.mounting.clone()).unwrap_or_default()
    }

    /// A pod was told to look for a head.
    pub fn nudged(&self, key: &Key, pod: Mounting) {
        let mut inner = self.lock();
        let Some(listed) = inner.pods.get_mut(key) else { return };
        if let Some(known) = listed.mounting.iter_mut().find(|known| known.uid == pod.uid) {
            *known = pod;
        }
    }

    /// What is remembered of the present step of the config's rollout.
    #[must_use]
    pub fn stage(&self, key: &Key) -> Option<Stage> {
        self.lock().stages.get(key).cloned()
    }

    /// Remembers it.
    pub fn keep_stage(&self, key: &Key, stage: Stage) {
        self.lock().stages.insert(key.clone(), stage);
    }

    /// Which of these gates are not being asked in this step; from now on they are.
    #[must_use]
    pub fn begin_asking(&self, key: &Key, stage: &Stage, due: &[String]) -> Vec<String> {
        let mut inner = self.lock();
        let Some(known) = inner.stages.get_mut(key).filter(|known| known.of == stage.of) else { return Vec::new() };
        due.iter().filter(|gate| known.asking.insert((*gate).clone())).cloned().collect()
    }

    /// Takes in what a gate answered. An answer of another step's is dropped.
    pub fn gate_answered(&self, key: &Key, stage: &Stage, gate: &str, answer: Result<(), String>) {
        let mut inner = self.lock();
        let Some(known) = inner.stages.get_mut(key).filter(|known| known.of == stage.of) else { return };
        known.asking.remove(gate);
        let state = known.gates.entry(gate.to_owned()).or_default();
        state.failures = if answer.is_ok() { 0 } else { state.failures.saturating_add(1) };
        state.last = Some((Timestamp::now(), answer));
        self.queue.add(key.clone());
    }

    /// Whether this operator wrote the event already.
    #[must_use]
    pub fn was_told(&self, key: &Key, event: &str) -> bool {
        self.lock().told.get(key).is_some_and(|told| told.contains(event))
    }

    /// The event was written.
    pub fn keep_told(&self, key: &Key, event: String) {
        let mut inner = self.lock();
        let told = inner.told.entry(key.clone()).or_default();
        // One written again is the same event: what is forgotten costs a call.
        if told.len() >= 64 {
            told.clear();
        }
        told.insert(event);
    }

    /// What is known of who may read the config, and how old that is.
    #[must_use]
    pub fn access(&self, key: &Key) -> Option<(access::Remembered, Duration)> {
        self.lock().access.get(key).map(|(known, at)| (known.clone(), at.elapsed()))
    }

    /// Remembers who may read the config.
    pub fn keep_access(&self, key: &Key, known: access::Remembered) {
        self.lock().access.insert(key.clone(), (known, Instant::now()));
    }

    /// When the change was noticed that this run answers, if it is not a routine one.
    pub fn take_noticed(&self, key: &Key) -> Option<Instant> {
        self.lock().noticed.remove(key)
    }

    /// A run took it, but did not come to answer it.
    pub fn put_back_noticed(&self, key: &Key, noticed: Instant) {
        let mut inner = self.lock();
        if inner.configs.contains_key(key) {
            inner.noticed.insert(key.clone(), noticed);
        }
    }

    /// How long to wait before the config's status may be written again; zero grants a write now.
    #[must_use]
    pub fn status_wait(&self, key: &Key) -> Duration {
        let mut inner = self.lock();
        let now = Instant::now();
        match inner.reported.get(key).map(|last| STATUS_INTERVAL.saturating_sub(now - *last)) {
            Some(wait) if !wait.is_zero() => wait,
            _ => {
                inner.reported.insert(key.clone(), now);
                Duration::ZERO
            }
        }
    }

    fn notice(&self, inner: &mut Inner, due: BTreeSet<Key>) {
        let now = Instant::now();
        for key in due {
            inner.noticed.entry(key.clone()).or_insert(now);
            self.queue.add(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeadSlot {
    fn new(epoch: u64) -> Self {
        Self { epoch, memory: None, writing: None }
    }
}

impl Inner {
    fn tick(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks
    }

    fn head_slot(&mut self, key: &Key) -> &mut HeadSlot {
        let epoch = self.tick();
        self.heads.entry(key.clone()).or_insert_with(|| HeadSlot::new(epoch))
    }

    fn set_references(&mut self, key: &Key, references: BTreeSet<SourceRef>) {
        let old = self.references.remove(key).unwrap_or_default();
        for source in old.difference(&references) {
            let Some(referrers) = self.referrers.get_mut(source) else { continue };
            referrers.remove(key);
            if referrers.is_empty() {
                self.referrers.remove(source);
                let freed = self.contents.remove(source).and_then(|c| c.known).map_or(0, |k| k.bytes);
                self.content_bytes -= freed;
            }
        }
        for source in references.difference(&old) {
            self.referrers.entry(source.clone()).or_default().insert(key.clone());
        }
        if !references.is_empty() {
            self.references.insert(key.clone(), references);
        }
    }

    /// Drops the contents that were used longest ago, down to the budget.
    fn shrink(&mut self) {
        while self.content_bytes > CONTENT_BUDGET {
            let holds_bytes = |c: &&mut Content| c.known.as_ref().is_some_and(|k| k.bytes > 0);
            let Some(oldest) = self.contents.values_mut().filter(holds_bytes).min_by_key(|c| c.last_use) else {
                return;
            };
            self.content_bytes -= oldest.known.take().map_or(0, |k| k.bytes);
        }
    }
}

fn config_ref(key: &Key) -> SourceRef {
    SourceRef { kind: SourceKind::DistributedConfig, namespace: key.namespace.clone(), name: key.name.clone() }
}

/// Whether two readings of a config ask for the same.
pub(crate) fn same_request(a: &DistributedConfig, b: &DistributedConfig) -> bool {
    a.metadata.uid == b.metadata.uid
        && a.metadata.generation == b.metadata.generation
        && a.metadata.deletion_timestamp == b.metadata.deletion_timestamp
}

/// Whether a reading of an object is newer than another one; resourceVersions rise.
fn is_newer(reading: &DistributedConfig, than: &DistributedConfig) -> bool {
    let version = |c: &DistributedConfig| c.metadata.resource_version.as_deref().and_then(|v| v.parse::<u64>().ok());
    version(reading) > version(than)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_crds::head::{Bundle, Head};

    use crate::decide::{Stored, Version};

    fn config(name: &str, resource_version: &str) -> DistributedConfig {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig",
            "metadata": {"name": name, "namespace": "n", "uid": "u", "generation": 1, "resourceVersion": resource_version},
            "spec": {"layers": [], "files": []}
        }))
        .unwrap()
    }

    fn memory(resource_version: &str) -> HeadMemory {
        let version = Version { uid: "h".into(), resource_version: resource_version.into() };
        let head = Head::next(None, 1, Bundle::default(), jiff::Timestamp::UNIX_EPOCH);
        let observed = Observed::Ours(Stored { version, head, provenance: [0; 32] });
        let candidate = CandidateSlot::Absent;
        HeadMemory { config_uid: "u".into(), observed, candidate, log: Log::new(), highest: 1 }
    }

    fn head_event(config: &str, resource_version: &str) -> PartialObjectMeta<Secret> {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {"name": names::head_name(config), "namespace": "n", "resourceVersion": resource_version}
        }))
        .unwrap()
    }

    /// A state with a config whose run is over.
    async fn with_config() -> State {
        let state = state();
        state.config_applied(config("a", "1"));
        assert!(is_due(&state).await);
        state
    }

    fn key(name: &str) -> Key {
        Key { namespace: "n".into(), name: name.into() }
    }

    fn source(name: &str) -> SourceRef {
        SourceRef { kind: SourceKind::ConfigMap, namespace: "n".into(), name: name.into() }
    }

    fn state() -> State {
        let state = State::default();
        state.queue.open();
        state
    }

    async fn is_due(state: &State) -> bool {
        match tokio::time::timeout(Duration::from_millis(1), state.queue.next()).await {
            Ok(key) => {
                state.queue.done(&key);
                true
            }
            Err(_) => false,
        }
    }

    fn fetched(state: &State, source: &SourceRef, version: &str) {
        let unknown = state.fill(&BTreeSet::from([source.clone()]), &mut Sources::default());
        let keys = Arc::new(Keys([("k".to_owned(), version.into())].into()));
        state.keep_content(source, unknown[0].1, Some(version.to_owned()), Some(keys), None);
    }

    fn is_known(state: &State, source: &SourceRef) -> bool {
        state.fill(&BTreeSet::from([source.clone()]), &mut Sources::default()).is_empty()
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_source_is_fetched_again_and_the_same_version_is_not() {
        let (state, map) = (state(), source("map"));
        state.set_references(&key("a"), BTreeSet::from([map.clone()]));
        fetched(&state, &map, "1");
        state.source_changed(&map, Some("1"));
        assert!(!is_due(&state).await && is_known(&state, &map));
        state.source_changed(&map, Some("2"));
        assert!(is_due(&state).await && !is_known(&state, &map));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_an_event_overtook_is_not_kept() {
        let (state, map) = (state(), source("map"));
        state.set_references(&key("a"), BTreeSet::from([map.clone()]));
        let asked = state.fill(&BTreeSet::from([map.clone()]), &mut Sources::default());
        state.source_changed(&map, Some("2"));
        state.keep_content(&map, asked[0].1, Some("1".into()), None, None);
        assert!(!is_known(&state, &map));
        assert!(is_due(&state).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_refers_to_is_forgotten() {
        let (state, map) = (state(), source("map"));
        state.set_references(&key("a"), BTreeSet::from([map.clone()]));
        fetched(&state, &map, "1");
        state.set_references(&key("a"), BTreeSet::new());
        let inner = state.lock();
        assert!(inner.contents.is_empty() && inner.referrers.is_empty() && inner.content_bytes == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_event_of_an_own_write_is_no_news_and_a_deletion_during_it_is() {
        let state = with_config().await;
        state.begin_write(&key("a"));
        state.head_changed(&head_event("a", "5"), false);
        state.end_write(&key("a"), Some(memory("5")));
        assert!(!is_due(&state).await && state.head(&key("a")).1.is_some());

        state.begin_write(&key("a"));
        state.head_changed(&head_event("a", "6"), false);
        state.head_changed(&head_event("a", "7"), true);
        state.end_write(&key("a"), Some(memory("6")));
        assert!(is_due(&state).await && state.head(&key("a")).1.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_a_listing_during_a_write_does_not_show_is_looked_at_again() {
        let state = with_config().await;
        state.keep_head(&key("a"), state.head(&key("a")).0, memory("5"));
        state.begin_write(&key("a"));
        state.heads_listed(None, &HashSet::new());
        assert!(is_due(&state).await);
        state.end_write(&key("a"), Some(memory("6")));
        assert!(is_due(&state).await && state.head(&key("a")).1.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_candidate_that_was_not_listed_is_looked_for() {
        let state = with_config().await;
        let version = Version { uid: "c".into(), resource_version: "7".into() };
        let with_candidate = HeadMemory { candidate: CandidateSlot::Damaged(version), ..memory("5") };
        state.keep_head(&key("a"), state.head(&key("a")).0, with_candidate);
        let place = |name: &str| ("n".to_owned(), name.to_owned());
        state.heads_listed(None, &HashSet::from([place("a.quorate"), place("a.quorate-next")]));
        assert!(state.head(&key("a")).1.is_some());
        state.heads_listed(None, &HashSet::from([place("a.quorate")]));
        assert!(is_due(&state).await && state.head(&key("a")).1.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn gates_are_asked_once_at_a_time_and_a_late_answer_counts_for_no_other_step() {
        let state = with_config().await;
        let of = |step| Stage { of: ("c".into(), step, Timestamp::UNIX_EPOCH), ..Stage::default() };
        let due = ["smoke".to_owned()];
        state.keep_stage(&key("a"), of(0));
        assert_eq!(state.begin_asking(&key("a"), &of(0), &due), due);
        assert!(state.begin_asking(&key("a"), &of(0), &due).is_empty());
        state.gate_answered(&key("a"), &of(0), "smoke", Err("503".into()));
        assert_eq!(state.stage(&key("a")).unwrap().gates["smoke"].failures, 1);
        assert_eq!(state.begin_asking(&key("a"), &of(0), &due), due);
        state.keep_stage(&key("a"), of(1));
        state.gate_answered(&key("a"), &of(0), "smoke", Err("503".into()));
        assert!(state.stage(&key("a")).unwrap().gates.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_a_deleted_config_is_not_kept_for_its_successor() {
        let state = with_config().await;
        let (epoch, _) = state.head(&key("a"));
        state.config_deleted(&key("a"));
        state.config_applied(config("a", "3"));
        let _ = state.head(&key("a"));
        state.keep_head(&key("a"), epoch, memory("2"));
        assert!(state.head(&key("a")).1.is_none());
    }

    #[tokio::test]
    async fn a_status_answer_does_not_replace_a_newer_reading() {
        let state = with_config().await;
        let known = || state.config(&key("a")).unwrap().resource_version().unwrap();
        state.config_applied(config("a", "10"));
        state.status_written(config("a", "9"));
        assert_eq!(known(), "10");
        state.status_written(config("a", "11"));
        assert_eq!(known(), "11");
    }

    #[tokio::test]
    async fn contents_stay_within_the_budget() {
        let state = state();
        let maps: BTreeSet<_> = (0..30).map(|n| source(&n.to_string())).collect();
        state.set_references(&key("a"), maps.clone());
        for (map, epoch) in state.fill(&maps, &mut Sources::default()) {
            let keys = Arc::new(Keys([("k".to_owned(), vec![0; CONTENT_BUDGET / 16])].into()));
            state.keep_content(&map, epoch, Some("1".into()), Some(keys), None);
        }
        let kept = state.lock().content_bytes;
        assert!(kept <= CONTENT_BUDGET && kept > CONTENT_BUDGET / 2, "{kept}");
        assert!(state.fill(&maps, &mut Sources::default()).len() > 10);
    }
}
