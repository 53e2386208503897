//! A claim on its way to being granted.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    FOREIGN_READING, Inner, LockError, STAGGER,
    expiry::believed,
    held::Held,
    locked,
    state::{Claim, Claimed, LockState, Mode},
};
use crate::{Done, Pace, Register, Step, Undone, Version, Versioned};

/// For how long taking a claim back may delay the answer that its time is up.
const GIVING_UP: Duration = Duration::from_secs(2);
/// Between two tries to take a claim back that nobody wants any more.
const RETRY: Duration = Duration::from_millis(500);

/// See the module. Taken back when it is dropped before it was granted.
pub struct Pending<'a, R: Register<State = LockState>> {
    inner: &'a Arc<Inner<R>>,
    claim: Claim,
    /// The claim, which holds, whose place it takes.
    instead_of: Option<&'a str>,
    trace: Trace,
}

/// What there may be of a claim in the register.
enum Trace {
    /// It may be there, and if not, it may come yet.
    Doubtful,
    /// It was there.
    Landed,
    /// None that is to be taken back.
    None,
}

/// A claim that was granted.
pub struct Granted {
    claim: Claim,
    /// The first version in which it was seen to hold.
    token: u64,
    /// Nobody can have granted it before this.
    since: Duration,
}

impl<R: Register<State = LockState>> Drop for Pending<'_, R> {
    fn drop(&mut self) {
        let landed = match self.trace {
            Trace::Doubtful => false,
            Trace::Landed => true,
            Trace::None => return,
        };
        self.inner.abandon(std::mem::take(&mut self.claim.id), landed);
    }
}

impl<'a, R: Register<State = LockState>> Pending<'a, R> {
    pub const fn new(inner: &'a Arc<Inner<R>>, claim: Claim) -> Self {
        Self { inner, claim, instead_of: None, trace: Trace::Doubtful }
    }

    /// It is made in the write that gives this one back.
    pub const fn instead_of(mut self, held: &'a str) -> Self {
        self.instead_of = Some(held);
        self
    }

    /// Until it is granted, or the time is up. `None` when the claim is gone: another one must be made, with another
    /// id, as an id that comes back would look to others as if nothing had happened.
    pub async fn granted(mut self, began: Instant, until: Option<Instant>) -> Result<Option<Granted>, LockError> {
        let (inner, waits) = (self.inner, until != Some(began));
        let limit = until.map_or(inner.ttl, |until| until.saturating_duration_since(Instant::now()));
        // A try has time for one answer at least.
        let limit = if limit.is_zero() { inner.ttl } else { limit };
        let done = self.enter(waits, limit).await.inspect_err(|undone| {
            if !matches!(undone, Undone::Unknown { .. }) {
                self.trace = Trace::None;
            }
        })?;
        self.trace = Trace::Landed;
        let (claim, lock) = (self.claim.clone(), || inner.name.clone());
        let granted = match done.outcome {
            Claimed::Granted => Some((done.at.version.token(), done.sent)),
            Claimed::Waiting(_) => self.turn(done.at, done.sent, until).await,
            Claimed::Busy(by) => {
                self.trace = Trace::None;
                return Err(LockError::Busy { lock: lock(), by, waited: began.elapsed() });
            }
            Claimed::Full => {
                self.trace = Trace::None;
                return Err(LockError::Full { lock: lock() });
            }
            Claimed::OtherPermits(others) => {
                self.trace = Trace::None;
                let asked = if let Mode::Permits { of, .. } = claim.mode { of } else { 0 };
                return Err(LockError::OtherPermits { lock: lock(), asked, others });
            }
            Claimed::Lost => {
                self.trace = Trace::None;
                let claim = self.instead_of.unwrap_or_default().to_owned();
                return Err(LockError::NoSuchClaim { lock: lock(), claim });
            }
        };
        if let Some((token, since)) = granted {
            self.trace = Trace::None;
            return Ok(Some(Granted { claim, token, since }));
        }
        if until.is_some_and(|until| until <= Instant::now()) {
            let by = inner.known().map(|at| at.state.held_by()).unwrap_or_default();
            // Most often it is taken back before the answer; else by `drop`.
            if inner.release(&claim.id, GIVING_UP.min(inner.ttl)).await.is_ok() {
                self.trace = Trace::None;
            }
            return Err(LockError::Busy { lock: lock(), by, waited: began.elapsed() });
        }
        self.trace = Trace::None;
        Ok(None)
    }

    /// Puts the claim into the register. Who only tries to get it, again and again, sees holders expire too.
    async fn enter(&mut self, waits: bool, limit: Duration) -> Result<Done<R, Claimed>, Undone> {
        loop {
            let (inner, claim, instead_of) = (self.inner, &mut self.claim, self.instead_of);
            let done = inner.run(limit, Pace::default(), |state, now| {
                // If it was there, and was taken away before its writer knew, it must not come back: to others it would
                // look as if nothing had happened. Then it is another claim.
                if !state.has(&claim.id) {
                    claim.id = inner.session.random.id();
                }
                match instead_of {
                    Some(held) => state.pass_on(held, claim, now),
                    None => state.acquire(claim, waits, now),
                }
            });
            let done = done.await?;
            if !matches!(done.outcome, Claimed::Busy(_)) || self.help(&done.at.state, 0).await.is_none() {
                return Ok(done);
            }
        }
    }

    /// Waits for its turn: the token, and a time before which it cannot have been granted. `None` when the time is up or
    /// the claim gone.
    async fn turn(
        &self,
        mut at: Versioned<LockState, R::Version>,
        mut waited: Duration,
        until: Option<Instant>,
    ) -> Option<(u64, Duration)> {
        let (inner, claim) = (self.inner, &self.claim);
        let mut hints = inner.hints();
        let mut reading = Instant::now() + self.interval(&at.state);
        loop {
            if at.state.holds(&claim.id) {
                return Some((at.version.token(), waited));
            }
            let position = at.state.position(&claim.id)?;
            if let Some(after) = self.help(&at.state, position).await {
                at = after;
                continue;
            }
            let patience = sleep(self.patience(&at.state, position));
            let late = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let told = tokio::select! {
                biased;
                told = hints.changed() => told.is_ok(),
                () = late => return None,
                () = patience => false,
                () = sleep_until(reading) => false,
            };
            if told && let Some(newer) = inner.known().filter(|newer| newer.version.token() > at.version.token()) {
                // What a watch tells may be old, so it does not move the time from which a grant counts.
                at = if newer.state.has(&claim.id) { newer } else { self.read(&mut waited, until).await? };
                continue;
            }
            at = self.read(&mut waited, until).await?;
            reading = Instant::now() + self.interval(&at.state);
        }
    }

    /// Reads until there is an answer; `None` when the time is up.
    async fn read(&self, waited: &mut Duration, until: Option<Instant>) -> Option<Versioned<LockState, R::Version>> {
        let inner = self.inner;
        loop {
            let left = until.map_or(inner.ttl, |until| until.saturating_duration_since(Instant::now()));
            let sent = inner.session.clock.now();
            match inner.read(left.min(inner.ttl)).await {
                Ok(at) => {
                    if at.state.position(&self.claim.id).is_some() {
                        *waited = sent;
                    }
                    return Some(at);
                }
                Err(_) if until.is_some_and(|until| until <= Instant::now()) => return None,
                // An outage does not end the waiting, nor does a right that is missing for a while.
                Err(error) => {
                    tracing::debug!(lock = inner.name, "waiting for the lock: {error}");
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Brings the lock on, when a holder has expired or left without granting it to the next: the state that came
    /// of it.
    async fn help(&self, state: &LockState, position: usize) -> Option<Versioned<LockState, R::Version>> {
        let inner = self.inner;
        let now = inner.session.clock.now().saturating_sub(stagger(position));
        let expired = locked(&inner.observer).expired(state, now);
        let done = match expired {
            Some(sign) => inner.run(inner.ttl, Pace::urgent(), |state, now| state.steal(&sign, now)).await,
            None if matches!(state.settle(jiff::Timestamp::UNIX_EPOCH), Step::Write(..)) => {
                inner.run(inner.ttl, Pace::urgent(), LockState::settle).await
            }
            None => return None,
        };
        // Somebody else may have done it: then it has changed as well.
        done.ok().map(|done| done.at)
    }

    /// Until a holder expires that changes no more; some time, if it has and could not be taken from.
    fn patience(&self, state: &LockState, position: usize) -> Duration {
        let (next, now) = (locked(&self.inner.observer).next(state), self.inner.session.clock.now());
        let left = next.map_or(self.inner.ttl, |next| (next + stagger(position)).saturating_sub(now));
        if left.is_zero() { RETRY } else { left }
    }

    /// Until the next reading: the grant's time counts from the last that showed the claim waiting.
    fn interval(&self, state: &LockState) -> Duration {
        let third = self.inner.ttl / 3;
        if state.foreign.is_some() { third.min(FOREIGN_READING) } else { third }
    }
}

impl Granted {
    /// Held, unless too little of its time is left and it cannot be renewed any more.
    pub async fn into_held<R: Register<State = LockState>>(
        self,
        inner: &Arc<Inner<R>>,
    ) -> Result<Option<Held<R>>, LockError> {
        let Self { claim, token, mut since } = self;
        let (whole, mut renewals) = (believed(claim.ttl()), 0);
        if inner.session.clock.now().saturating_sub(since) > whole / 2 {
            renewals = 1;
            let mut pending = Pending::new(inner, claim.clone());
            pending.trace = Trace::Landed;
            let done = inner.run(inner.ttl, Pace::urgent(), |state, now| state.renew(&claim.id, 1, now)).await?;
            if !done.outcome {
                pending.trace = Trace::None;
                return Ok(None);
            }
            since = done.sent;
            pending.trace = Trace::None;
        }
        Ok(Some(Held::new(Arc::clone(inner), claim, token, since + whole, renewals)))
    }
}

impl<R: Register<State = LockState>> Inner<R> {
    /// Takes a claim back in the background, as long as it can be there at all. One that has not `landed` may come
    /// later than it was looked for.
    pub(super) fn abandon(self: &Arc<Self>, claim: String, landed: bool) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let inner = Arc::clone(self);
        inner.leaving.send_modify(|leaving| *leaving += 1);
        runtime.spawn(async move {
            inner.take_back(&claim, landed).await;
            inner.leaving.send_modify(|leaving| *leaving -= 1);
        });
    }

    async fn take_back(&self, claim: &str, landed: bool) {
        let (until, mut wait) = (Instant::now() + self.ttl * 2, RETRY);
        loop {
            match self.release(claim, self.ttl).await {
                Ok(was_there) if was_there || landed => return,
                _ if Instant::now() >= until => return,
                _ => sleep(wait).await,
            }
            wait *= 2;
        }
    }
}

fn stagger(position: usize) -> Duration {
    STAGGER * u32::try_from(position).unwrap_or(u32::MAX)
}
