//! Locks: exclusive, shared, and semaphores; first come, first served.
//!
//! ```no_run
//! # async fn example(client: kube::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use quorate_coordination::{Lock, Mode, Session};
//!
//! let session = Session::new("web-0")?;
//! let lock = Lock::on_lease(client, "shop", "nightly", session, Duration::from_secs(15))?;
//! let held = lock.acquire(Mode::Exclusive, Some(Duration::from_secs(30))).await?;
//! // Give held.token() to whatever is written: it accepts no lower one.
//! held.release().await?;
//! # Ok(()) }
//! ```
//!
//! A grant is valid for a time, and renewed in the background. **No lock can stop a process that was
//! suspended in the middle of a write**: what must never happen twice has to check the token.

mod expiry;
mod grant;
mod held;
mod hints;
mod lease;
mod limits;
mod pending;
mod state;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use kube::Client;
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use quorate_crds::names;

use crate::{Done, Driver, KubeRegister, Pace, Register, Session, Step, Undone, Version, Versioned};
pub use expiry::{DRIFT_PERCENT, Observer, believed, patience};
pub(crate) use grant::{Grant, RETRY, interval};
pub use held::Held;
use hints::{Following, Latest};
pub(crate) use lease::{micros, whole_seconds};
pub use limits::{Invalid, LONGEST_TTL, MOST_PERMITS, SHORTEST_TTL, object_name};
pub(crate) use limits::{identity as check_identity, ttl as check_ttl};
use pending::Pending;
pub use state::{Claim, Claimed, Foreign, Holder, LockState, MANY, MAX_HOLDERS, MAX_WAITERS, Mode, Sign};

/// For how long a grant is valid without being renewed, unless said otherwise.
pub const DEFAULT_TTL: Duration = Duration::from_secs(15);
/// A holder that is none of ours leaves without telling anybody: it is looked for this often.
const FOREIGN_READING: Duration = Duration::from_secs(1);
/// Of those who see a holder expire, the first in the queue acts first.
const STAGGER: Duration = Duration::from_millis(30);

/// Why a lock is not held.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// Others hold it, and it was not to be waited for any longer.
    #[error("lock {lock} is held by {by}: not granted within {} ms", waited.as_millis())]
    Busy {
        /// Namespace and name.
        lock: String,
        /// Who holds it.
        by: String,
        /// For how long it was waited for.
        waited: Duration,
    },
    /// Too many wait already.
    #[error("lock {lock}: as many claims wait as may ({MAX_WAITERS}, or less if their names are long): try later")]
    Full {
        /// Namespace and name.
        lock: String,
    },
    /// The semaphore is used with another number of permits.
    #[error("lock {lock} is used with {others} permits now, not {asked}: all who use a semaphore must say the same")]
    OtherPermits {
        /// Namespace and name.
        lock: String,
        /// What was asked for.
        asked: u32,
        /// What the others say.
        others: u32,
    },
    /// There is no such claim.
    #[error("lock {lock}: there is no claim {claim}: it was given back, or its time was up and others took it")]
    NoSuchClaim {
        /// Namespace and name.
        lock: String,
        /// The claim's id.
        claim: String,
    },
    /// The API server cannot be asked, or refuses.
    #[error(transparent)]
    Undone(#[from] Undone),
}

/// A lock by its name. Clones are the same participant.
pub struct Lock<R: Register<State = LockState>>(Arc<Inner<R>>);

impl<R: Register<State = LockState>> Clone for Lock<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<R: Register<State = LockState>> {
    register: Arc<R>,
    session: Session,
    name: String,
    ttl: Duration,
    observer: Mutex<Observer>,
    latest: Arc<watch::Sender<Latest<R>>>,
    following: Following,
    /// Whether others wrote while the last operation was under way: then what is remembered is most likely old.
    contended: AtomicBool,
    /// Whether others claim it as soon as it is granted.
    claims_come: AtomicBool,
    /// How long a write takes, in nanoseconds.
    write: AtomicU64,
    /// How many claims are being taken back in the background.
    leaving: watch::Sender<usize>,
}

impl<R: Register<State = LockState>> Drop for Inner<R> {
    fn drop(&mut self) {
        if let Some(follower) = locked(&self.following).take() {
            follower.abort();
        }
    }
}

impl Lock<KubeRegister<LockState>> {
    /// The lock that is this Lease; the first claim creates it. Its grants are valid for `ttl` without being renewed:
    /// so long do others wait after a crash.
    ///
    /// # Errors
    /// When the name is none that a Lease can have, or `ttl` is not from [`SHORTEST_TTL`] to [`LONGEST_TTL`].
    pub fn on_lease(
        client: Client,
        namespace: &str,
        name: &str,
        session: Session,
        ttl: Duration,
    ) -> Result<Self, LockError> {
        object_name(name)?;
        let concern = format!("{} in ({},{MANY})", names::LOCK_GRANTED, session.id);
        let register = KubeRegister::new(client, namespace, name, ttl / 5).signed_by(&session);
        Self::new(register.watching(&concern), session, &format!("{namespace}/{name}"), ttl)
    }
}

impl<R: Register<State = LockState>> Lock<R> {
    /// The lock in this register; errors call it by this name. See [`Lock::on_lease`] for `ttl`.
    ///
    /// # Errors
    /// When `ttl` is not from [`SHORTEST_TTL`] to [`LONGEST_TTL`], or the session's identity cannot be shown.
    pub fn new(register: R, session: Session, name: &str, ttl: Duration) -> Result<Self, LockError> {
        limits::ttl(ttl)?;
        limits::identity(&session.identity)?;
        Ok(Self(Arc::new(Inner {
            register: Arc::new(register),
            session,
            name: name.to_owned(),
            ttl,
            observer: Mutex::default(),
            latest: Arc::new(watch::Sender::new(None)),
            following: Following::default(),
            contended: AtomicBool::new(false),
            claims_come: AtomicBool::new(true),
            write: AtomicU64::new(0),
            leaving: watch::Sender::new(0),
        })))
    }

    /// Holds it if that is possible at once.
    ///
    /// # Errors
    /// [`LockError::Busy`] if it is not; else see [`LockError`].
    pub async fn try_acquire(&self, mode: Mode) -> Result<Held<R>, LockError> {
        self.claim(mode, Some(Duration::ZERO)).await
    }

    /// Waits for it, for this long at most; without a limit for as long as it takes, through outages too. Dropping the
    /// future takes the claim back.
    ///
    /// # Errors
    /// [`LockError::Busy`] when the time is up; else see [`LockError`].
    pub async fn acquire(&self, mode: Mode, limit: Option<Duration>) -> Result<Held<R>, LockError> {
        self.claim(mode, limit).await
    }

    /// Waits until what was dropped here, claims on their way and grants, is taken back. Who ends without that leaves claims behind, whose turn
    /// comes, and is waited for, for all of their time. Without an API server it may take twice `ttl`: give it a limit.
    pub async fn taken_back(&self) {
        // Its sender is in `self`.
        let _ = self.0.leaving.subscribe().wait_for(|leaving| *leaving == 0).await;
    }

    /// Who holds it and who waits, by a quorum read.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub async fn state(&self) -> Result<Versioned<LockState, R::Version>, LockError> {
        Ok(self.0.read(self.0.ttl).await?)
    }

    /// Takes back a claim by its id, whoever made it: for operators of clusters. The holder may not know yet; what it
    /// still does is for the token to refuse.
    ///
    /// # Errors
    /// [`LockError::NoSuchClaim`], or when the API server cannot be asked.
    pub async fn force_release(&self, claim: &str) -> Result<(), LockError> {
        if self.0.release(claim, self.0.ttl).await? {
            return Ok(());
        }
        Err(LockError::NoSuchClaim { lock: self.0.name.clone(), claim: claim.to_owned() })
    }

    /// Takes the lock from a holder that was seen not to live any more, if it still shows this sign; whether it did.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub async fn steal(&self, sign: &Sign) -> Result<bool, LockError> {
        self.0.steal(sign).await
    }

    async fn claim(&self, mode: Mode, limit: Option<Duration>) -> Result<Held<R>, LockError> {
        limits::mode(mode)?;
        let began = Instant::now();
        self.claim_until(mode, began, limit.map(|limit| began + limit)).await
    }

    async fn claim_until(&self, mode: Mode, began: Instant, until: Option<Instant>) -> Result<Held<R>, LockError> {
        loop {
            let claim = self.0.new_claim(mode);
            match self.attempt(claim, began, until).await {
                Ok(Some(held)) => return Ok(held),
                Ok(None) => {}
                // Without a limit, an outage does not end the waiting.
                Err(LockError::Undone(Undone::TimedOut { why, .. } | Undone::Unknown { why, .. }))
                    if until.is_none() =>
                {
                    tracing::debug!(lock = self.0.name, "claiming the lock: {why}");
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl<R: Register<State = LockState>> Lock<R> {
    /// One claim: `None` when it came to nothing, and another one is to be made.
    async fn attempt(
        &self,
        claim: Claim,
        began: Instant,
        until: Option<Instant>,
    ) -> Result<Option<Held<R>>, LockError> {
        match Pending::new(&self.0, claim).granted(began, until).await? {
            // Of a grant that was long on its way, too little may be left.
            Some(granted) => granted.into_held(&self.0).await,
            None => Ok(None),
        }
    }
}

impl<R: Register<State = LockState>> Inner<R> {
    fn new_claim(&self, mode: Mode) -> Claim {
        let Session { id, identity, random, .. } = &self.session;
        let ttl_millis = u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX);
        let (client, identity, process) = (id.clone(), identity.clone(), self.session.process.clone());
        Claim { id: random.id(), client, identity, mode, ttl_millis, process }
    }

    fn driver(&self, limit: Duration) -> Driver<'_> {
        self.session.driver(limit)
    }

    /// Runs an operation of the state machine, stamped. It begins with what is known already, unless that is likely to
    /// be old.
    async fn run<O>(
        &self,
        limit: Duration,
        pace: Pace,
        mut operation: impl FnMut(&LockState, jiff::Timestamp) -> Step<LockState, O>,
    ) -> Result<Done<R, O>, Undone> {
        let now = lease::micros(self.session.clock.wall());
        let (mut first, mut last) = (true, 0);
        let mut newest = || {
            let old = std::mem::take(&mut first) && self.contended.load(Ordering::Relaxed);
            self.known().filter(|at| !old || self.told(&at.state))
        };
        let done = self
            .driver(limit)
            .run_with(&*self.register, pace, &mut newest, |at| {
                if at.version.token() < std::mem::replace(&mut last, at.version.token()) {
                    self.fell(at);
                }
                self.session.stamped(&at.state, operation(&at.state, now))
            })
            .await?;
        self.contended.store(done.conflicts > 0, Ordering::Relaxed);
        let took = self.session.clock.now().saturating_sub(done.sent).as_nanos();
        self.write.store(u64::try_from(took).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.saw(&done.at);
        Ok(done)
    }

    /// Reads it, by quorum.
    async fn read(&self, limit: Duration) -> Result<Versioned<LockState, R::Version>, Undone> {
        let before = self.known().map_or(0, |at| at.version.token());
        let at = self.driver(limit).read(&*self.register).await?;
        if at.version.token() < before {
            self.fell(&at);
        }
        self.saw(&at);
        Ok(at)
    }

    /// The register's versions have fallen: it was restored from a copy. What is remembered is no more.
    fn fell(&self, at: &Versioned<LockState, R::Version>) {
        self.latest.send_replace(Some(at.clone()));
    }

    async fn release(&self, claim: &str, limit: Duration) -> Result<bool, Undone> {
        // Of a write whose answer was lost all that is left to see is that the claim is gone.
        let mut was_there = false;
        let done = self.run(limit, Pace::urgent(), |state, now| {
            let step = state.release(claim, now);
            was_there |= matches!(step, Step::Write(..));
            step
        });
        if done.await?.conflicts > 0 {
            self.claims_come.store(true, Ordering::Relaxed);
        }
        Ok(was_there)
    }

    async fn steal(&self, sign: &Sign) -> Result<bool, LockError> {
        let done = self.run(self.ttl, Pace::urgent(), |state, now| state.steal(sign, now)).await?;
        Ok(done.outcome)
    }

    /// The newest state that was seen here.
    fn known(&self) -> Latest<R> {
        self.latest.borrow().clone()
    }

    fn saw(&self, at: &Versioned<LockState, R::Version>) {
        locked(&self.observer).see(&at.state, self.session.clock.now());
        hints::saw::<R>(&self.latest, at);
    }

    /// Whether changes of this state are told here, so that it is most likely the present one.
    fn told(&self, state: &LockState) -> bool {
        let concerned = state.granted.as_ref().is_some_and(|to| *to == self.session.id || to == MANY);
        concerned && self.is_followed()
    }

    fn is_followed(&self) -> bool {
        locked(&self.following).is_some()
    }

    /// What a watch tells from now on.
    fn hints(&self) -> watch::Receiver<Latest<R>> {
        let receiver = self.latest.subscribe();
        let mut following = locked(&self.following);
        if following.as_ref().is_none_or(JoinHandle::is_finished) {
            let (latest, own) = (Arc::clone(&self.latest), Arc::clone(&self.following));
            let follow = hints::follow(Arc::clone(&self.register), self.session.clone(), latest, own);
            *following = Some(tokio::spawn(follow));
        }
        receiver
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
