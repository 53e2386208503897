//! Registers that break what the counter relies on, one thing each: the checks must find it.
#![allow(dead_code, reason = "on the real API server, not all of them are used")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use futures::stream::BoxStream;
use quorate_coordination::{CounterState, Failure, Register, Versioned};
use quorate_crds::CounterWriter;

type At<R> = Versioned<CounterState, <R as Register>::Version>;
type Writers = BTreeMap<String, CounterWriter>;

/// A register over another one, which changes what is read and what is written.
pub struct Broken<R> {
    register: R,
    /// The writers, as they were read or written last.
    known: Arc<Mutex<Writers>>,
    how: How,
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    Amnesia,
    Forgetting,
    Registering,
    Unconditional,
}

/// Nobody sees which of a writer's batches was the last.
pub fn amnesia<R>(register: R) -> Broken<R> {
    Broken { register, known: Arc::default(), how: How::Amnesia }
}

/// All entries are gone at each read.
pub fn forgetting<R>(register: R) -> Broken<R> {
    Broken { register, known: Arc::default(), how: How::Forgetting }
}

/// The same, and entries that are missing are made anew, as if a writer that has none could write all the same.
pub fn registering<R>(register: R) -> Broken<R> {
    Broken { register, known: Arc::default(), how: How::Registering }
}

/// A write that does not look what it replaces.
pub fn unconditional<R>(register: R) -> Broken<R> {
    Broken { register, known: Arc::default(), how: How::Unconditional }
}

impl<R: Register<State = CounterState>> Register for Broken<R> {
    type State = CounterState;
    type Version = R::Version;

    async fn read(&self) -> Result<At<R>, Failure> {
        let mut at = self.register.read().await?;
        let mut known = self.known.lock().unwrap();
        let writers = &mut at.state.status.writers;
        match self.how {
            How::Unconditional => {}
            How::Forgetting => writers.clear(),
            How::Registering => writers.clone_from(&known),
            How::Amnesia => known.clone_from(writers),
        }
        if self.how != How::Unconditional {
            for writer in writers.values_mut() {
                writer.sequence = 0;
            }
        }
        drop(known);
        Ok(at)
    }

    async fn compare_and_swap(&self, base: &R::Version, next: &CounterState) -> Result<R::Version, Failure> {
        let mut next = next.clone();
        match self.how {
            How::Forgetting => {}
            How::Registering => self.known.lock().unwrap().extend(next.status.writers.clone()),
            // Of the others, the API server would not have it.
            How::Amnesia => {
                for (id, writer) in &*self.known.lock().unwrap() {
                    next.status
                        .writers
                        .entry(id.clone())
                        .and_modify(|next| next.sequence = next.sequence.max(writer.sequence));
                }
            }
            How::Unconditional => loop {
                let present = self.register.read().await?.version;
                match self.register.compare_and_swap(&present, &next).await {
                    Err(Failure::Conflict) => {}
                    answer => return answer,
                }
            },
        }
        self.register.compare_and_swap(base, &next).await
    }

    fn watch(&self, from: &R::Version) -> BoxStream<'static, Option<At<R>>> {
        self.register.watch(from)
    }

    fn name(&self) -> String {
        self.register.name()
    }
}
