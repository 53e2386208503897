//! Leader election: one of many leads, and knows its term.
//!
//! It is an exclusive lock. The **term** is its fencing token: it rises with every leader, so what a deposed one still
//! writes can be told from what the present one writes. The Lease is client-go's too: both elect one leader among them.

use std::time::Duration;

use kube::Client;

use crate::{Held, KubeRegister, Lock, LockError, LockState, Mode, Register, Session, lock::object_name};

/// See the module. Clones are the same candidate.
pub struct Election<R: Register<State = LockState>>(Lock<R>);

impl<R: Register<State = LockState>> Clone for Election<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Election<KubeRegister<LockState>> {
    /// The election that is held on this Lease. See [`Lock::on_lease`] for `ttl`.
    ///
    /// # Errors
    /// When the name is none that a Lease can have, or `ttl` is out of range.
    pub fn on_lease(
        client: Client,
        namespace: &str,
        name: &str,
        session: Session,
        ttl: Duration,
    ) -> Result<Self, LockError> {
        object_name(name)?;
        // Candidates are few, and client-go's leave without telling anybody: so all of the Lease is watched.
        let register = KubeRegister::new(client, namespace, name, ttl / 5).signed_by(&session);
        Ok(Self(Lock::new(register, session, &format!("{namespace}/{name}"), ttl)?))
    }
}

impl<R: Register<State = LockState>> Election<R> {
    /// The election that is held on this lock.
    #[must_use]
    pub const fn on(lock: Lock<R>) -> Self {
        Self(lock)
    }

    /// Waits until it leads, through outages too.
    ///
    /// # Errors
    /// When the API server refuses the Lease: a right is missing, say.
    pub async fn campaign(&self) -> Result<Leadership<R>, LockError> {
        Ok(Leadership(self.0.acquire(Mode::Exclusive, None).await?))
    }

    /// Waits until it is no candidate any more: after its campaigns were dropped. See [`Lock::taken_back`].
    pub async fn taken_back(&self) {
        self.0.taken_back().await;
    }

    /// Who leads, by a quorum read; none if nobody does.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub async fn leader(&self) -> Result<Option<String>, LockError> {
        let at = self.0.state().await?;
        Ok(Some(at.state.held_by()).filter(|leader| !leader.is_empty()))
    }
}

/// Leadership, until it is lost or given up. Dropped, it is given up in the background.
pub struct Leadership<R: Register<State = LockState>>(Held<R>);

impl<R: Register<State = LockState>> Leadership<R> {
    /// The term: higher than that of every leader before.
    #[must_use]
    pub const fn term(&self) -> u64 {
        self.0.token()
    }

    /// For how long it certainly leads from now on, without being renewed.
    #[must_use]
    pub fn valid_for(&self) -> Duration {
        self.0.valid_for()
    }

    /// Returns, with the reason, when it is lost, or will be in a moment: whoever led must stop now.
    pub async fn lost(&self) -> String {
        self.0.lost().await
    }

    /// Gives it up, to the next candidate in the same write.
    ///
    /// # Errors
    /// As [`Held::release`].
    pub async fn resign(self) -> Result<(), LockError> {
        self.0.release().await
    }
}
