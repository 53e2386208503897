//! One member of a quorum: an acceptor in a register of its own, which is one object on one API server.
//!
//! Each step of the acceptor is a compare-and-swap of that register. One whose answer is lost counts as no answer: the
//! promise or the value may be there or not, and both are safe.

use std::{sync::Arc, time::Duration};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::{
    sync::{Mutex, Semaphore},
    time::timeout,
};

use super::{
    acceptor::{Accepted, AcceptorState, Ballot, Place, Refusal},
    object::REMADE,
};
use crate::{Failure, Register, Version as _, Versioned};

/// Requests that may wait for one member: to one that does not answer no more are sent.
const PENDING: usize = 4;
/// Tries to get a step done that others come before.
const TRIES: usize = 8;
const BUSY: &str = "others write it all the time";

/// What a member answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer<S> {
    /// It promised, or shows what it has: this is what it accepted last.
    Has(Option<Accepted<S>>),
    /// It accepted.
    Accepted,
    /// It refuses.
    Refused(Refusal),
    /// The epoch has ended: this is its state in a later one.
    Moved(AcceptorState<S>),
    /// No answer, or one that does not tell.
    Silent(String),
}

/// See the module.
pub struct Member<S, R: Register> {
    /// What errors call it.
    pub name: String,
    register: R,
    /// The register's members: an acceptor of others is another's.
    place: Place,
    /// What it begins with if it is not of them yet; if that is not known, it has no say then.
    begins: Option<AcceptorState<S>>,
    limit: Duration,
    pending: Semaphore,
    /// The newest version known, so that most steps need no reading.
    known: Mutex<Known<R>>,
}

struct Known<R: Register> {
    at: Option<Versioned<R::State, R::Version>>,
    /// The highest version seen.
    highest: u64,
}

impl<S: Clone + PartialEq + Send + Sync + 'static, R: Register<State = AcceptorState<S>>> Member<S, R> {
    /// The acceptor in this register. A step may take `limit`.
    #[must_use]
    pub fn new(name: &str, register: R, limit: Duration) -> Arc<Self> {
        Self::made(Place::default(), None, name, register, limit)
    }

    /// As [`Member::new`], of the members of which one has this state; if it comes late, it begins with the same.
    #[must_use]
    pub fn of(state: &AcceptorState<S>, name: &str, register: R, limit: Duration) -> Arc<Self> {
        Self::made(state.place.clone(), Some(state.joined()), name, register, limit)
    }

    fn made(place: Place, begins: Option<AcceptorState<S>>, name: &str, register: R, limit: Duration) -> Arc<Self> {
        let (pending, known) = (Semaphore::new(PENDING), Mutex::new(Known { at: None, highest: 0 }));
        Arc::new(Self { name: name.to_owned(), register, place, begins, limit, pending, known })
    }

    /// Reads it; makes it one of these members, if it is not yet. One that is not of this register, or is older than it was, has no say.
    async fn read(&self, highest: &mut u64) -> Result<Versioned<AcceptorState<S>, R::Version>, Answer<S>> {
        for _ in 0..TRIES {
            let at = self.register.read().await.map_err(|failure| Answer::Silent(failure.to_string()))?;
            if at.version.token() < *highest {
                return Err(silent(
                    "its versions have gone back, as of a copy that was restored, so it has no say: the others go on without it",
                ));
            }
            *highest = at.version.token();
            if at.state.place.epoch > self.place.epoch {
                return Err(Answer::Moved(at.state));
            }
            if !at.state.is_member(&self.place, &self.name) {
                return Err(silent(REMADE));
            }
            if at.state.place == self.place {
                return Ok(at);
            }
            let Some(begins) = self.begins.as_ref().filter(|_| at.state.place.epoch < self.place.epoch) else {
                return Err(silent("its acceptor is of another set of members"));
            };
            let begins = AcceptorState { uid: at.state.uid, ..begins.clone() };
            match self.register.compare_and_swap(&at.version, &begins).await {
                Ok(version) => {
                    *highest = version.token();
                    return Ok(Versioned { state: begins, version });
                }
                // Somebody else may have done it.
                Err(Failure::Conflict) => {}
                Err(failure) => return Err(Answer::Silent(failure.to_string())),
            }
        }
        Err(silent(BUSY))
    }

    /// What it has accepted.
    pub async fn show(&self) -> Answer<S> {
        self.limited(async {
            let mut highest = self.known.lock().await.highest;
            match self.read(&mut highest).await {
                Ok(at) => {
                    let accepted = at.state.accepted.clone();
                    let mut known = self.known.lock().await;
                    // Others may have read it meanwhile, and later.
                    if highest >= known.highest {
                        *known = Known { at: Some(at), highest };
                    }
                    Answer::Has(accepted)
                }
                Err(other) => other,
            }
        })
        .await
    }

    /// Phase 1.
    pub async fn prepare(&self, ballot: &Ballot) -> Answer<S> {
        self.step(|state| state.prepare(ballot), |state| Answer::Has(state.accepted.clone())).await
    }

    /// Phase 2.
    pub async fn accept(&self, ballot: &Ballot, value: &S, next: &Ballot) -> Answer<S> {
        self.step(|state| state.accept(ballot, value, next), |_| Answer::Accepted).await
    }

    /// When its acceptor changes: hints.
    pub fn changes(&self) -> BoxStream<'static, ()> {
        let from = self.known.try_lock().ok().and_then(|known| known.at.as_ref().map(|at| at.version.clone()));
        match from {
            Some(from) => self.register.watch(&from).map(|_| ()).boxed(),
            None => stream::empty().boxed(),
        }
    }

    async fn step(
        &self,
        apply: impl Fn(&AcceptorState<S>) -> Result<Option<AcceptorState<S>>, Refusal>,
        answer: impl Fn(&AcceptorState<S>) -> Answer<S>,
    ) -> Answer<S> {
        self.limited(async {
            let mut known = self.known.lock().await;
            for _ in 0..TRIES {
                let remembered = known.at.is_some();
                let at = match known.at.take() {
                    Some(at) => at,
                    None => match self.read(&mut known.highest).await {
                        Ok(at) => at,
                        Err(other) => return other,
                    },
                };
                match apply(&at.state) {
                    // What is remembered may be old: only what is read, or written over, is an answer.
                    Ok(None) | Err(_) if remembered => {}
                    Ok(None) => {
                        let given = answer(&at.state);
                        known.at = Some(at);
                        return given;
                    }
                    Err(refusal) => {
                        known.at = Some(at);
                        return Answer::Refused(refusal);
                    }
                    Ok(Some(next)) => match self.register.compare_and_swap(&at.version, &next).await {
                        Ok(version) => {
                            let given = answer(&next);
                            known.highest = version.token();
                            known.at = Some(Versioned { state: next, version });
                            return given;
                        }
                        Err(Failure::Conflict) => {}
                        Err(failure) => return Answer::Silent(failure.to_string()),
                    },
                }
            }
            silent(BUSY)
        })
        .await
    }

    async fn limited(&self, step: impl Future<Output = Answer<S>>) -> Answer<S> {
        let Ok(_permit) = self.pending.try_acquire() else {
            return Answer::Silent("it has not answered what it was asked before".to_owned());
        };
        match timeout(self.limit, step).await {
            Ok(answer) => answer,
            Err(_) => Answer::Silent(format!("no answer within {} ms", self.limit.as_millis())),
        }
    }
}

fn silent<S>(why: &str) -> Answer<S> {
    Answer::Silent(why.to_owned())
}
