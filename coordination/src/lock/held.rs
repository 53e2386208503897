//! A lock that is held, and kept.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    Inner, Lock, LockError,
    expiry::believed,
    grant::{Grant, RETRY, interval},
    pending::Pending,
    state::{Claim, LockState, Mode},
};
use crate::{Pace, Register, Version};

/// A lock held for longer than this is watched, so that its holder hears of a loss at once, and gives it back in one write.
const WATCHED_AFTER: Duration = Duration::from_millis(50);
/// Others are let pass for this long at the most.
const LONGEST_WAY: Duration = Duration::from_millis(20);
/// See the module. Dropped, it is given back in the background.
pub struct Held<R: Register<State = LockState>> {
    inner: Arc<Inner<R>>,
    claim: String,
    mode: Mode,
    token: u64,
    grant: Arc<Grant>,
    keeper: JoinHandle<()>,
    since: Instant,
    released: bool,
}

impl<R: Register<State = LockState>> Drop for Held<R> {
    fn drop(&mut self) {
        self.keeper.abort();
        if !self.released {
            self.inner.abandon(std::mem::take(&mut self.claim), true);
        }
    }
}

impl<R: Register<State = LockState>> Held<R> {
    /// Of a claim that was granted, valid until then.
    pub(super) fn new(inner: Arc<Inner<R>>, claim: Claim, token: u64, until: Duration, renewals: u64) -> Self {
        let grant = Arc::<Grant>::default();
        grant.extend(until);
        let Claim { id: claim, mode, .. } = claim;
        let keeper = Keeper { inner: Arc::clone(&inner), claim: claim.clone(), token, grant: Arc::clone(&grant) };
        let keeper = tokio::spawn(keeper.run(renewals));
        Self { inner, claim, mode, token, grant, keeper, since: Instant::now(), released: false }
    }

    /// The fencing token: it rises with every grant of this lock, also when its object is deleted and made again. A resource
    /// that refuses tokens lower than the highest it has seen is safe from holders that were too slow.
    #[must_use]
    pub const fn token(&self) -> u64 {
        self.token
    }

    /// The claim's id.
    #[must_use]
    pub fn claim(&self) -> &str {
        &self.claim
    }

    /// For how long it certainly is held from now on, without being renewed. Ask before each step that needs the lock.
    #[must_use]
    pub fn valid_for(&self) -> Duration {
        self.grant.left(self.inner.session.clock.now())
    }

    /// Returns, with the reason, when it is lost, or will be in a moment as it cannot be renewed: what it protects must
    /// stop now. After the machine slept it may be late: [`Held::valid_for`] is not.
    pub async fn lost(&self) -> String {
        self.grant.lost().await
    }

    /// Gives it back, and grants it to the next in the same write.
    ///
    /// # Errors
    /// [`LockError::NoSuchClaim`] when it was lost before. When the API server cannot be asked; then it is tried
    /// again in the background, and at the worst the lock is free when its time is up.
    pub async fn release(mut self) -> Result<(), LockError> {
        self.make_way().await;
        self.keeper.abort();
        let released = self.inner.release(&self.claim, self.inner.ttl).await?;
        self.released = true;
        if released {
            return Ok(());
        }
        Err(LockError::NoSuchClaim { lock: self.inner.name.clone(), claim: self.claim.clone() })
    }

    /// Lets all who wait by now have it, and waits for it again, for this long at most: for work that goes on in steps,
    /// each of them under the lock. It is one write, where giving it back and claiming it are two. What it returns has
    /// another token.
    ///
    /// # Errors
    /// See [`Held::release`], and [`Lock::acquire`](crate::Lock::acquire) for the waiting. It was given back then, or is in the background.
    pub async fn pass_on(mut self, limit: Option<Duration>) -> Result<Self, LockError> {
        self.keeper.abort();
        let (inner, began) = (Arc::clone(&self.inner), Instant::now());
        let until = limit.map(|limit| began + limit);
        let lock = Lock(Arc::clone(&inner));
        let pending = Pending::new(&inner, inner.new_claim(self.mode)).instead_of(&self.claim);
        let granted = pending.granted(began, until).await;
        self.released = matches!(granted, Ok(_) | Err(LockError::Busy { .. } | LockError::NoSuchClaim { .. }));
        if let Some(granted) = granted?
            && let Some(held) = granted.into_held(&inner).await?
        {
            return Ok(held);
        }
        // Somebody took the new claim away: it is made anew, as any that waits.
        lock.claim_until(self.mode, began, until).await
    }
}

impl<R: Register<State = LockState>> Held<R> {
    /// Whoever had the lock before may well ask for it again at this moment. If it is given back as soon as it was granted,
    /// one of the two writes is in vain, and it costs more to write again than to let the other one pass. As long as such
    /// claims come: when none did, none is waited for, until one gets in the way again.
    async fn make_way(&self) {
        let inner = &self.inner;
        // A write, and the event that tells of it.
        let time = Duration::from_nanos(inner.write.load(Ordering::Relaxed)).min(LONGEST_WAY) * 2;
        let left = time.saturating_sub(self.since.elapsed());
        if !left.is_zero() && inner.is_followed() && inner.claims_come.load(Ordering::Relaxed) {
            let came = timeout(left, inner.hints().changed()).await.is_ok();
            inner.claims_come.store(came, Ordering::Relaxed);
        }
    }
}

/// Renews a grant, and notices its loss.
struct Keeper<R: Register<State = LockState>> {
    inner: Arc<Inner<R>>,
    claim: String,
    token: u64,
    grant: Arc<Grant>,
}

impl<R: Register<State = LockState>> Keeper<R> {
    async fn run(self, renewals: u64) {
        let reason = tokio::select! {
            reason = self.renew(renewals) => reason,
            reason = self.watch() => reason,
        };
        self.grant.lose(reason);
    }

    /// Renews until that is not possible any more.
    async fn renew(&self, mut renewals: u64) -> String {
        let (inner, mut trouble) = (&self.inner, None);
        // Of a grant that was on its way for a while, less is left.
        let mut wait = self.interval().min(self.left() / 2);
        loop {
            sleep(wait.min(self.left())).await;
            let left = self.left();
            if left.is_zero() {
                let why = trouble.unwrap_or_else(|| "this process or its machine stood still".to_owned());
                return format!("it could not be renewed in time: {why}");
            }
            // Each try has a number of its own: of an earlier one that landed after all, nobody knows since when others
            // have seen it.
            renewals += 1;
            let done = inner.run(left, Pace::urgent(), |state, now| state.renew(&self.claim, renewals, now)).await;
            match done {
                Ok(done) if done.outcome => {
                    self.grant.extend(done.sent + believed(inner.ttl));
                    (trouble, wait) = (None, self.interval());
                }
                Ok(done) => return taken(&done.at.state),
                Err(error) => (trouble, wait) = (Some(error.to_string()), RETRY),
            }
        }
    }

    /// Returns when a watch, and then a read, show that it is lost.
    async fn watch(&self) -> String {
        sleep(WATCHED_AFTER).await;
        let inner = &self.inner;
        let mut hints = inner.hints();
        loop {
            if hints.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let seen = inner.known().is_some_and(|at| at.version.token() >= self.token && at.state.holds(&self.claim));
            let fresh = hints.borrow().as_ref().is_some_and(|at| at.version.token() > self.token);
            if seen && fresh {
                continue;
            }
            if let Ok(at) = inner.read(inner.ttl).await
                && !at.state.holds(&self.claim)
            {
                return taken(&at.state);
            }
        }
    }

    fn left(&self) -> Duration {
        self.grant.left_to_renew(self.inner.session.clock.now(), self.inner.ttl)
    }

    fn interval(&self) -> Duration {
        interval(self.inner.ttl, &self.inner.session)
    }
}

fn taken(state: &LockState) -> String {
    match state.held_by() {
        by if by.is_empty() => "it was taken back".to_owned(),
        by => format!("it was taken back, and {by} holds it"),
    }
}
