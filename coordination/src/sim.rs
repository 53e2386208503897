//! A register in memory, with the faults of a real one: for models and property tests.

use std::{
    collections::VecDeque,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream::BoxStream};
use tokio::sync::watch;

use crate::{Failure, Random, Register, Version, Versioned};

/// What befalls one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it is done and answered.
    None,
    /// It is done, and the answer is lost.
    LostReply,
    /// It is not done, and the answer is lost.
    LostRequest,
    /// The answer is lost, and it is done later: right before the call after the next.
    Delayed,
    /// Another write came first, it is said, and nothing is done.
    FalseConflict,
}

impl Version for u64 {
    fn token(&self) -> u64 {
        *self
    }
}

struct Inner<S> {
    versions: watch::Sender<Versioned<S, u64>>,
    faults: VecDeque<Fault>,
    lost_reads: VecDeque<bool>,
    delayed: Vec<(u8, u64, S)>,
}

/// See the module. Clones are the same register.
pub struct SimRegister<S> {
    inner: Arc<Mutex<Inner<S>>>,
    lag: Option<(Arc<Random>, Duration)>,
}

impl<S> Clone for SimRegister<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), lag: self.lag.clone() }
    }
}

impl<S: Clone + Send + Sync + 'static> SimRegister<S> {
    /// With this first value.
    #[must_use]
    pub fn new(state: S) -> Self {
        let versions = watch::Sender::new(Versioned { state, version: 0 });
        let (faults, lost_reads, delayed) = (VecDeque::new(), VecDeque::new(), Vec::new());
        Self { inner: Arc::new(Mutex::new(Inner { versions, faults, lost_reads, delayed })), lag: None }
    }

    /// The same register, far away: requests and answers take up to this long each, at random.
    #[must_use]
    pub fn far(self, random: Arc<Random>, longest: Duration) -> Self {
        Self { lag: Some((random, longest)), ..self }
    }

    /// What befalls the next writes, one after the other; then nothing.
    pub fn befall(&self, faults: impl IntoIterator<Item = Fault>) {
        self.locked().faults.extend(faults);
    }

    /// Whether the answers to the next reads are lost, one after the other; then none is.
    pub fn lose_reads(&self, lost: impl IntoIterator<Item = bool>) {
        self.locked().lost_reads.extend(lost);
    }

    /// The present value, without faults.
    #[must_use]
    pub fn now(&self) -> Versioned<S, u64> {
        self.locked().versions.borrow().clone()
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Inner<S>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn travel(&self) {
        match &self.lag {
            Some((random, longest)) => tokio::time::sleep(random.up_to(*longest)).await,
            None => tokio::task::yield_now().await,
        }
    }

    fn read_at_once(&self) -> Result<Versioned<S, u64>, Failure> {
        let mut inner = self.locked();
        inner.pass();
        if inner.lost_reads.pop_front().unwrap_or_default() {
            return Err(Failure::Unknown("the answer was lost".to_owned()));
        }
        let now = inner.versions.borrow().clone();
        Ok(now)
    }

    fn write_at_once(&self, base: u64, next: &S) -> Result<u64, Failure> {
        let mut inner = self.locked();
        inner.pass();
        let lost = Err(Failure::Unknown("the answer was lost".to_owned()));
        match inner.faults.pop_front().unwrap_or(Fault::None) {
            Fault::None => inner.write(base, next),
            Fault::LostReply => inner.write(base, next).and(lost),
            Fault::LostRequest => lost,
            Fault::Delayed => {
                inner.delayed.push((2, base, next.clone()));
                lost
            }
            Fault::FalseConflict => Err(Failure::Conflict),
        }
    }
}

impl<S: Clone + Send + Sync + 'static> Inner<S> {
    fn write(&self, base: u64, next: &S) -> Result<u64, Failure> {
        let present = self.versions.borrow().version;
        if present != base {
            return Err(Failure::Conflict);
        }
        self.versions.send_replace(Versioned { state: next.clone(), version: present + 1 });
        Ok(present + 1)
    }

    /// What was delayed lands, if its base is still there.
    fn pass(&mut self) {
        for (calls, ..) in &mut self.delayed {
            *calls -= 1;
        }
        let (due, rest): (Vec<_>, Vec<_>) = self.delayed.drain(..).partition(|(calls, ..)| *calls == 0);
        self.delayed = rest;
        for (_, base, next) in due {
            // A conflict is how most of them end.
            let _ = self.write(base, &next);
        }
    }
}

impl<S: Clone + Send + Sync + Debug + 'static> Register for SimRegister<S> {
    type State = S;
    type Version = u64;

    async fn read(&self) -> Result<Versioned<S, u64>, Failure> {
        self.travel().await;
        let answer = self.read_at_once();
        self.travel().await;
        answer
    }

    async fn compare_and_swap(&self, base: &u64, next: &S) -> Result<u64, Failure> {
        self.travel().await;
        let answer = self.write_at_once(*base, next);
        self.travel().await;
        answer
    }

    fn watch(&self, from: &u64) -> BoxStream<'static, Option<Versioned<S, u64>>> {
        let (versions, from) = (self.locked().versions.subscribe(), *from);
        futures::stream::unfold((versions, from), |(mut versions, from)| async move {
            let newer = versions.wait_for(|at| at.version > from).await.ok()?.clone();
            let version = newer.version;
            Some((Some(newer), (versions, version)))
        })
        .boxed()
    }

    fn name(&self) -> String {
        "a register in memory".to_owned()
    }
}
