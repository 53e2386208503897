//! The counter as a pure state machine: what registering and a batch of operations make of a state.
//!
//! A writer registers under a random id before its first batch, and numbers its batches. Value and number move in one
//! write, so a batch that has been applied is known again by its number, and is not applied twice. What it gave each caller
//! follows from the value before it and the bounds as of then, which the writer's entry keeps. **A batch whose writer
//! has no entry is never applied**: it may have been before the entry went.
//!
//! An operation under an idempotency key has an entry of its own, made in the write that applies it. So keyed
//! operations come last in a batch: what comes before them follows from the writer's entry, and they from theirs.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use quorate_crds::{
    CounterKey, CounterWrite, CounterWriter, DistributedCounterSpec, DistributedCounterStatus, MAX_COUNTER_KEYS,
    MAX_COUNTER_WRITERS,
};
use serde::{Deserialize, Serialize};

use super::{key::Key, room::Room};
use crate::{Stamp, Step};

/// Who has not written for a day is forgotten; where there is no room, after an hour.
const WRITERS: Room = Room { limit: MAX_COUNTER_WRITERS, kept: hours(24), spared: hours(1) };
/// Keys are promised an hour. They are kept for three, so that clocks that differ by two hours break no promise as long as
/// there is room.
const KEYS: Room = Room { limit: MAX_COUNTER_KEYS, kept: hours(3), spared: KEY_LIFETIME };
/// For how long the result of an operation under a key is kept at least.
pub const KEY_LIFETIME: Duration = hours(1);

const fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

/// A counter, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CounterState {
    /// What its users have written: the bounds.
    pub spec: DistributedCounterSpec,
    /// The counter itself.
    pub status: DistributedCounterStatus,
}

/// What is done to the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Adds this, which may be negative.
    Add(i64),
    /// Sets it to `new` if it is `expected`.
    CompareAndSet {
        /// What it must be.
        expected: i64,
        /// What it becomes.
        new: i64,
    },
    /// Reads it.
    Get,
}

/// What an operation has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    /// The value before.
    pub before: i64,
    /// The value after.
    pub after: i64,
}

/// Why an operation was not done. Nothing of it was, and the others of its batch are not concerned.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The sum is no 64-bit number.
    #[error("the value is {value}, and adding {delta} leaves the range of 64 bits: nothing was changed")]
    Overflow {
        /// The value.
        value: i64,
        /// What was to be added.
        delta: i64,
    },
    /// It would be below the counter's minimum.
    #[error("the value is {value} and would be {wanted}, below spec.min {min}: nothing was changed")]
    BelowMin {
        /// The value.
        value: i64,
        /// What it would be.
        wanted: i64,
        /// The bound.
        min: i64,
    },
    /// It would be above the counter's maximum.
    #[error("the value is {value} and would be {wanted}, above spec.max {max}: nothing was changed")]
    AboveMax {
        /// The value.
        value: i64,
        /// What it would be.
        wanted: i64,
        /// The bound.
        max: i64,
    },
    /// The value is not the expected one.
    #[error("the value is {value}, not {expected}: nothing was changed")]
    Mismatch {
        /// The value.
        value: i64,
        /// What was expected.
        expected: i64,
    },
    /// The key was used for another operation.
    #[error("this idempotency key was used for {used:?}, which is not {asked:?}: take another key")]
    KeyReused {
        /// What it was used for.
        used: String,
        /// What was asked for.
        asked: String,
    },
    /// No more keys are kept.
    #[error(
        "the counter keeps {MAX_COUNTER_KEYS} idempotency keys, each for an hour, and all are in use: nothing was changed: try later, or without a key"
    )]
    KeysFull,
    /// The key's entry is gone, or could not be made.
    #[error("whether it was done cannot be told: the idempotency key has no entry, or none any more: read the counter")]
    KeyForgotten,
}

/// What came of an operation.
pub type Outcome = Result<Change, Refusal>;

/// Operations that are applied in one write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The id that the writer registered under.
    pub writer: String,
    /// The number of this batch, above that of the writer's batch before.
    pub sequence: i64,
    /// Operations without a key.
    pub plain: Vec<Operation>,
    /// Operations under a key, which come after those without.
    pub keyed: Vec<(Key, Operation)>,
}

/// What a write says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// What people know the writer by.
    pub by: String,
    /// The uid of the writer's pod.
    pub uid: Option<String>,
    /// Above the stamp of the state that it is based on.
    pub lamport: i64,
    /// Likewise.
    pub hlc: Stamp,
    /// When it is, by the writer's clock.
    pub at: Timestamp,
}

#[derive(Clone, Copy)]
struct Bounds {
    min: Option<i64>,
    max: Option<i64>,
}

impl CounterState {
    /// A counter that was never written.
    #[must_use]
    pub fn new(spec: DistributedCounterSpec) -> Self {
        let (value, hlc) = (spec.initial, Stamp::default().to_string());
        Self { spec, status: DistributedCounterStatus { value, hlc, ..DistributedCounterStatus::default() } }
    }

    /// Registers a writer; whether there was room.
    #[must_use]
    pub fn register(&self, id: &str, signature: &Signature) -> Step<Self, bool> {
        if self.status.writers.contains_key(id) {
            return Step::Answer(true);
        }
        let mut next = self.clone();
        if !WRITERS.make(&mut next.status.writers, signature.at, |writer| writer.at.0) {
            return Step::Answer(false);
        }
        next.sign(id, 0, self.status.value, signature);
        Step::Write(next, true)
    }

    /// Applies a batch: what came of each operation, first those without a key. None if its writer has no entry: then it is not
    /// applied.
    #[must_use]
    pub fn apply(&self, batch: &Batch, signature: &Signature) -> Step<Self, Option<Vec<Outcome>>> {
        let Some(writer) = self.status.writers.get(&batch.writer) else { return Step::Answer(None) };
        if writer.sequence >= batch.sequence {
            return Step::Answer(Some(self.recalled(writer, batch)));
        }
        let mut next = self.clone();
        let (mut value, mut outcomes) = self.bounds().run(self.status.value, &batch.plain);
        let mut remembers = false;
        for (key, operation) in &batch.keyed {
            if !next.status.keys.contains_key(key.hash()) && next.has_room_for_a_key(signature.at) {
                let entry = self.entry(*operation, value, signature.at);
                value = outcome_of(&entry, *operation).map_or(value, |change| change.after);
                next.status.keys.insert(key.hash().to_owned(), entry);
                remembers = true;
            }
            let entry = next.status.keys.get(key.hash());
            outcomes.push(entry.map_or(Err(Refusal::KeysFull), |entry| outcome_of(entry, *operation)));
        }
        next.status.value = value;
        if value == self.status.value && !remembers {
            return Step::Answer(Some(outcomes));
        }
        next.sign(&batch.writer, batch.sequence, self.status.value, signature);
        Step::Write(next, Some(outcomes))
    }

    /// Forgets a writer that will not write any more.
    #[must_use]
    pub fn leave(&self, id: &str, signature: &Signature) -> Step<Self, ()> {
        let mut next = self.clone();
        if next.status.writers.remove(id).is_none() {
            return Step::Answer(());
        }
        next.stamp(signature);
        Step::Write(next, ())
    }

    /// How many others are to write before this writer does; none if nobody waits for it.
    #[must_use]
    pub fn before(&self, id: &str) -> Option<usize> {
        let writer = self.status.writers.get(id).filter(|writer| writer.awaited)?;
        let sooner = |other: &&CounterWriter| other.awaited && other.lamport < writer.lamport;
        Some(self.status.writers.values().filter(sooner).count())
    }

    /// How many other writers have written after this stamp.
    #[must_use]
    pub fn others_since(&self, stamp: i64, id: &str) -> usize {
        self.status.writers.iter().filter(|(other, writer)| *other != id && writer.lamport > stamp).count()
    }

    /// The stamp of the hybrid logical clock.
    #[must_use]
    pub fn hlc(&self) -> Stamp {
        self.status.hlc.parse().unwrap_or_default()
    }

    const fn bounds(&self) -> Bounds {
        Bounds { min: self.spec.min, max: self.spec.max }
    }

    /// What came of a batch that has been applied.
    fn recalled(&self, writer: &CounterWriter, batch: &Batch) -> Vec<Outcome> {
        let bounds = Bounds { min: writer.min, max: writer.max };
        let (_, mut outcomes) = bounds.run(writer.before, &batch.plain);
        let keyed = batch.keyed.iter().map(|(key, operation)| {
            let entry = self.status.keys.get(key.hash()).ok_or(Refusal::KeyForgotten)?;
            outcome_of(entry, *operation)
        });
        outcomes.extend(keyed);
        outcomes
    }

    fn has_room_for_a_key(&mut self, now: Timestamp) -> bool {
        KEYS.make(&mut self.status.keys, now, |key| key.at.0)
    }

    /// What is kept of an operation that finds this value.
    fn entry(&self, operation: Operation, before: i64, at: Timestamp) -> CounterKey {
        let Bounds { min, max } = self.bounds();
        CounterKey { operation: operation.to_string(), before, min, max, at: Time(at) }
    }

    fn sign(&mut self, id: &str, sequence: i64, before: i64, signature: &Signature) {
        let Bounds { min, max } = self.bounds();
        let Signature { by, lamport, at, .. } = signature.clone();
        let writer = CounterWriter { by, sequence, before, min, max, lamport, awaited: true, at: Time(at) };
        let last = self.status.writers.insert(id.to_owned(), writer);
        if last.is_some_and(|last| last.awaited) && self.status.next != id {
            self.pass_over();
        }
        self.stamp(signature);
    }

    /// Whose turn it was, and who did not come, is not waited for any more.
    fn pass_over(&mut self) {
        if let Some(late) = self.status.writers.get_mut(&self.status.next) {
            late.awaited = false;
        }
    }

    fn stamp(&mut self, signature: &Signature) {
        let Signature { by, uid, lamport, hlc, at } = signature.clone();
        self.status.lamport = lamport;
        self.status.hlc = hlc.to_string();
        self.status.last_write = Some(CounterWrite { by, uid, at: Time(at) });
        let awaited = self.status.writers.iter().filter(|(_, writer)| writer.awaited);
        let next = awaited.min_by_key(|(_, writer)| writer.lamport);
        self.status.next = next.map(|(id, _)| id.clone()).unwrap_or_default();
    }
}

/// What came of the operation that this entry was made for; it must be the same operation.
fn outcome_of(entry: &CounterKey, operation: Operation) -> Outcome {
    let asked = operation.to_string();
    if asked != entry.operation {
        return Err(Refusal::KeyReused { used: entry.operation.clone(), asked });
    }
    Bounds { min: entry.min, max: entry.max }.change(entry.before, operation)
}

impl Bounds {
    /// The value after operations, and what came of each.
    fn run(self, mut value: i64, operations: &[Operation]) -> (i64, Vec<Outcome>) {
        let run = |operation: &Operation| {
            let outcome = self.change(value, *operation);
            value = outcome.as_ref().map_or(value, |change| change.after);
            outcome
        };
        let outcomes = operations.iter().map(run).collect();
        (value, outcomes)
    }

    fn change(self, before: i64, operation: Operation) -> Outcome {
        let after = match operation {
            Operation::Get => return Ok(Change { before, after: before }),
            Operation::Add(delta) => before.checked_add(delta).ok_or(Refusal::Overflow { value: before, delta })?,
            Operation::CompareAndSet { expected, new } if expected == before => new,
            Operation::CompareAndSet { expected, .. } => return Err(Refusal::Mismatch { value: before, expected }),
        };
        match self {
            Self { min: Some(min), .. } if after < min => Err(Refusal::BelowMin { value: before, wanted: after, min }),
            Self { max: Some(max), .. } if after > max => Err(Refusal::AboveMax { value: before, wanted: after, max }),
            _ => Ok(Change { before, after }),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(delta) => write!(f, "add {delta}"),
            Self::CompareAndSet { expected, new } => write!(f, "set {expected} to {new}"),
            Self::Get => f.write_str("get"),
        }
    }
}
