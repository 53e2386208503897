//! The one loop that runs every operation of every primitive over any register: read, apply,
//! compare-and-swap, and settle what is unknown.
//!
//! An operation is a pure function from a state to a [`Step`]. It is called again on each state that is
//! read, so it must recognise in the state that it has been applied already, by its id: that is how an
//! operation whose answer was lost is done once all the same.
//!
//! **Unknown means unknown.** After a time-out, reading the version that the write was based on proves nothing, as
//! the write may still land. Until another version is read, the *same* write is repeated. A conflict settles it only when
//! nothing was sent before: it may be one with the write itself.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::{Clock, Failure, Pace, Random, Register, Version as _, Versioned};

/// What an operation makes of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<S, O> {
    /// Nothing is to be written: this is the answer.
    Answer(O),
    /// This is to be written, and this the answer once it is.
    Write(S, O),
}

/// An operation that is done.
#[derive(Clone, Debug)]
pub struct Done<R: Register, O> {
    /// The answer.
    pub outcome: O,
    /// The state that it was found in, or that was written.
    pub at: Versioned<R::State, R::Version>,
    /// When the write that landed was first sent; for an answer found in a state, when the operation began. So what this
    /// operation wrote was written after this, by the caller's clock. Of an answer that the state had already, from
    /// an earlier operation with the same id, this says nothing.
    pub sent: Duration,
    /// How often another write came first.
    pub conflicts: u32,
}

/// Why an operation is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undone {
    /// The register refuses it, and always would.
    #[error("{register}: {why}")]
    Refused {
        /// Which register.
        register: String,
        /// The API server's reason.
        why: String,
    },
    /// The time was up. Nothing was done.
    #[error("{register}: not done within {} ms, and nothing was changed: {why}", limit.as_millis())]
    TimedOut {
        /// Which register.
        register: String,
        /// The time that it had.
        limit: Duration,
        /// What kept it.
        why: String,
    },
    /// The time was up, and whether it was done cannot be told yet.
    #[error("{register}: no certain answer within {} ms: it may have been done, or may be yet: {why}", limit.as_millis())]
    Unknown {
        /// Which register.
        register: String,
        /// The time that it had.
        limit: Duration,
        /// What kept it.
        why: String,
    },
}

/// What operations of one client share.
pub struct Driver<'a> {
    /// By which [`Done::sent`] is told.
    pub clock: &'a dyn Clock,
    /// For the jitter of waits.
    pub random: &'a Random,
    /// The operation's time, tries and waits included.
    pub limit: Duration,
}

impl Driver<'_> {
    /// Runs an operation. `known` is a state to begin with, however old: a write based on it is refused if it is
    /// too old, and an answer found in it is believed only after a read. Without one the register is read.
    ///
    /// # Errors
    /// See [`Undone`].
    pub async fn run<R: Register, O>(
        &self,
        register: &R,
        known: Option<Versioned<R::State, R::Version>>,
        operation: impl FnMut(&Versioned<R::State, R::Version>) -> Step<R::State, O>,
    ) -> Result<Done<R, O>, Undone> {
        let mut known = known;
        self.run_with(register, Pace::default(), || known.take(), operation).await
    }

    /// As [`Driver::run`]; `newest` is asked before each try. What it gives saves a read, if it is newer than what was
    /// tried before: somebody watches the register, say.
    ///
    /// # Errors
    /// See [`Undone`].
    pub async fn run_with<R: Register, O>(
        &self,
        register: &R,
        pace: Pace,
        mut newest: impl FnMut() -> Option<Versioned<R::State, R::Version>>,
        mut operation: impl FnMut(&Versioned<R::State, R::Version>) -> Step<R::State, O>,
    ) -> Result<Done<R, O>, Undone> {
        let mut run = Run { pace, ..Run::new(self, register) };
        let (mut tried, mut conflicts) = (None, 0);
        loop {
            let newer = |known: &Versioned<_, R::Version>| tried.is_none_or(|tried| known.version.token() > tried);
            let known = newest().filter(newer);
            let remembered = known.is_some();
            let at = match known {
                Some(known) => known,
                None => run.read().await?,
            };
            tried = Some(at.version.token());
            let (next, outcome) = match operation(&at) {
                Step::Answer(_) if remembered => continue,
                Step::Answer(outcome) => return Ok(Done { outcome, at, sent: run.began, conflicts }),
                Step::Write(next, outcome) => (next, outcome),
            };
            let sent = self.clock.now();
            if let Some(version) = run.write(&at.version, &next).await? {
                return Ok(Done { outcome, at: Versioned { state: next, version }, sent, conflicts });
            }
            conflicts += 1;
            let wait = run.pace.conflict(self.random);
            run.wait(wait, "others write it all the time").await?;
        }
    }

    /// Reads a register, within the time limit.
    ///
    /// # Errors
    /// See [`Undone`]; never [`Undone::Unknown`].
    pub async fn read<R: Register>(&self, register: &R) -> Result<Versioned<R::State, R::Version>, Undone> {
        Run::new(self, register).read().await
    }
}

/// One operation under way.
struct Run<'a, R> {
    driver: &'a Driver<'a>,
    register: &'a R,
    began: Duration,
    until: Instant,
    pace: Pace,
    /// Why the last request gave nothing.
    trouble: Option<String>,
    /// Whether a write may still land that was sent and not settled.
    ambiguous: bool,
}

impl<'a, R: Register> Run<'a, R> {
    fn new(driver: &'a Driver<'a>, register: &'a R) -> Self {
        let (began, until) = (driver.clock.now(), Instant::now() + driver.limit);
        Self { driver, register, began, until, pace: Pace::default(), trouble: None, ambiguous: false }
    }

    async fn read(&mut self) -> Result<Versioned<R::State, R::Version>, Undone> {
        loop {
            let Ok(answer) = timeout_at(self.until, self.register.read()).await else {
                return Err(self.late("no answer to a read"));
            };
            match answer {
                Ok(at) => return Ok(at),
                Err(Failure::Refused(why)) => return Err(self.refused(why)),
                Err(Failure::Unknown(why)) => {
                    self.trouble = Some(why);
                    let wait = self.pace.failure(self.driver.random);
                    self.wait(wait, "it cannot be read").await?;
                }
                Err(Failure::Conflict) => {}
            }
        }
    }

    /// The version written; none when the base is another one's by now, so that this write has landed earlier,
    /// or never will.
    async fn write(&mut self, base: &R::Version, next: &R::State) -> Result<Option<R::Version>, Undone> {
        loop {
            // Until its answer is here, it may have landed.
            let doubtful = std::mem::replace(&mut self.ambiguous, true);
            let Ok(answer) = timeout_at(self.until, self.register.compare_and_swap(base, next)).await else {
                return Err(self.late("no answer to a write"));
            };
            match answer {
                Ok(version) => {
                    self.ambiguous = false;
                    return Ok(Some(version));
                }
                Err(Failure::Conflict) if !doubtful => {
                    self.ambiguous = false;
                    return Ok(None);
                }
                Err(Failure::Conflict) => self.trouble = Some("another write came first".to_owned()),
                Err(Failure::Refused(why)) if !doubtful => {
                    self.ambiguous = false;
                    return Err(self.refused(why));
                }
                Err(Failure::Refused(why) | Failure::Unknown(why)) => self.trouble = Some(why),
            }
            let wait = self.pace.failure(self.driver.random);
            self.wait(wait, "it cannot be written").await?;
            if self.read().await?.version != *base {
                self.ambiguous = false;
                return Ok(None);
            }
        }
    }

    async fn wait(&mut self, wait: Duration, why: &str) -> Result<(), Undone> {
        if Instant::now() + wait >= self.until {
            return Err(self.late(why));
        }
        sleep(wait).await;
        Ok(())
    }

    fn refused(&self, why: String) -> Undone {
        let register = self.register.name();
        if self.ambiguous {
            return Undone::Unknown { register, limit: self.driver.limit, why };
        }
        Undone::Refused { register, why }
    }

    fn late(&self, why: &str) -> Undone {
        let (register, limit) = (self.register.name(), self.driver.limit);
        let why = self.trouble.clone().unwrap_or_else(|| why.to_owned());
        if self.ambiguous {
            Undone::Unknown { register, limit, why }
        } else {
            Undone::TimedOut { register, limit, why }
        }
    }
}
