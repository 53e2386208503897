//! A lock on a majority that is held, and kept.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::sleep};

use super::{Holder, Inner, MemberState, RedLockError};
use crate::{
    Register,
    lock::{Grant, RETRY, believed, interval},
};

/// See the module. Dropped, it is given back in the background.
pub struct RedHeld<R: Register<State = MemberState>> {
    inner: Arc<Inner<R>>,
    claim: String,
    token: u64,
    grant: Arc<Grant>,
    keeper: JoinHandle<()>,
    released: bool,
}

impl<R: Register<State = MemberState>> Drop for RedHeld<R> {
    fn drop(&mut self) {
        self.keeper.abort();
        if !self.released {
            let (inner, claim) = (Arc::clone(&self.inner), std::mem::take(&mut self.claim));
            tokio::spawn(async move { inner.release(&claim).await });
        }
    }
}

impl<R: Register<State = MemberState>> RedHeld<R> {
    pub(super) fn new(inner: Arc<Inner<R>>, holder: Holder, token: u64, until: Duration) -> Self {
        let (claim, grant) = (holder.claim.clone(), Arc::<Grant>::default());
        grant.extend(until);
        let keeper = Keeper { inner: Arc::clone(&inner), token, grant: Arc::clone(&grant) };
        let keeper = tokio::spawn(keeper.run(holder));
        Self { inner, claim, token, grant, keeper, released: false }
    }

    /// The fencing token: higher than that of every grant before. A resource that refuses tokens lower than the highest it has
    /// seen is safe from holders that were too slow.
    #[must_use]
    pub const fn token(&self) -> u64 {
        self.token
    }

    /// The claim's id.
    #[must_use]
    pub fn claim(&self) -> &str {
        &self.claim
    }

    /// For how long it certainly is held from now on, without being renewed, if clocks' rates differ by no more than is
    /// allowed for. Ask before each step that needs the lock.
    #[must_use]
    pub fn valid_for(&self) -> Duration {
        self.grant.left(self.inner.session.clock.now())
    }

    /// Returns, with the reason, when it is lost, or will be in a moment: what it protects must stop now.
    pub async fn lost(&self) -> String {
        self.grant.lost().await
    }

    /// Gives it back, at all members that answer; at the others it is free when its time is up.
    ///
    /// # Errors
    /// [`RedLockError::Lost`] when it was not held by a majority any more, or not enough of them answer to tell.
    pub async fn release(mut self) -> Result<(), RedLockError> {
        self.keeper.abort();
        self.released = true;
        let released = self.inner.release(&self.claim).await;
        if released >= self.inner.majority() {
            Ok(())
        } else {
            Err(RedLockError::Lost { lock: self.inner.name.clone() })
        }
    }
}

/// Renews a grant, and notices its loss.
struct Keeper<R: Register<State = MemberState>> {
    inner: Arc<Inner<R>>,
    token: u64,
    grant: Arc<Grant>,
}

impl<R: Register<State = MemberState>> Keeper<R> {
    async fn run(self, mut holder: Holder) {
        let (inner, mut trouble, mut wait) = (&self.inner, None, self.interval());
        let reason = loop {
            sleep(wait.min(self.left())).await;
            if self.left().is_zero() {
                let why = trouble.unwrap_or_else(|| "this process or its machine stood still".to_owned());
                break format!("it could not be renewed in time: {why}");
            }
            // Each try has a number of its own: since when others have seen an earlier one, nobody knows.
            holder.renewals += 1;
            let (renewal, token, sent) = (holder.clone(), self.token, inner.session.clock.now());
            let round = inner.round(move |member, session| {
                let holder = renewal.clone();
                async move { member.renew(&session, &holder, token).await }
            });
            match round.await {
                Ok(()) => {
                    self.grant.extend(sent + believed(inner.ttl));
                    (trouble, wait) = (None, self.interval());
                }
                Err(short) if short.held_by.len() > inner.members.len() - inner.majority() => {
                    break format!("it is held by {}", short.held_by.join(", "));
                }
                Err(short) => (trouble, wait) = (Some(short.other.join("; ")), RETRY),
            }
            inner.mend().await;
        };
        self.grant.lose(reason);
    }

    fn left(&self) -> Duration {
        self.grant.left_to_renew(self.inner.session.clock.now(), self.inner.ttl)
    }

    fn interval(&self) -> Duration {
        interval(self.inner.ttl, &self.inner.session)
    }
}
