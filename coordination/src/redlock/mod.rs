//! A lock on a majority of N Leases, one on each of N independent API servers: it is had as long as a majority of
//! them answers, in the time of two rounds of requests to all of them at once.
//!
//! Source: Sanfilippo, "Distributed locks with Redis" (`RedLock`), with what Kleppmann found missing in "How to do distributed
//! locking", 2016: **fencing tokens that rise**. A try reads a majority, and asks for one more than the highest token there;
//! the grant is a compare-and-swap on a majority, so two grants never have one token. Expiry is by what each observes itself, with
//! margins for clocks whose rates differ by [`crate::lock::DRIFT_PERCENT`] each.
//!
//! It depends on time, as its holders' validity does; a lock over a [`crate::quorum::QuorumRegister`] depends on time in that
//! only, serves in order of arrival, and costs a consensus. Which to take: `docs/quorum.md`.
//!
//! A Lease that is missing is not free: the member may have been wiped while somebody held it. It takes part again when it was
//! away for the longest time that was ever granted, with the token of the majority.

mod held;
mod lease;
mod member;
mod state;

use std::{future::Future, sync::Arc, time::Duration};

use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use kube::Client;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    KubeRegister, Register, Session,
    lock::{Invalid, believed, check_identity, check_ttl, object_name, patience},
};
pub use held::RedHeld;
use member::{Member, Standing, View};
pub use state::{Holder, MemberState, Sign};

/// No call to a member takes longer: a grant is of one moment.
const LONGEST_CALL: Duration = Duration::from_millis(500);
/// The longest wait after the first try that came to nothing; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// See [`FIRST_WAIT`].
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Why the lock is not held.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedLockError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// It has no members.
    #[error("lock {lock} has no members: name the clusters whose Leases it is made of")]
    NoMembers {
        /// Namespace and name.
        lock: String,
    },
    /// Others hold it.
    #[error("lock {lock} is held by {by}: not granted within {} ms", waited.as_millis())]
    Busy {
        /// Namespace and name.
        lock: String,
        /// Who holds it.
        by: String,
        /// For how long it was waited for.
        waited: Duration,
    },
    /// Too few members can be had.
    #[error("lock {lock}: {needed} of its {members} members are needed, and were not to be had: {why}")]
    NoMajority {
        /// Namespace and name.
        lock: String,
        /// How many are needed.
        needed: usize,
        /// How many there are.
        members: usize,
        /// What is the matter with each of the others.
        why: String,
    },
    /// It is not new.
    #[error("lock {lock} is not new: member {member} knows it: acquire it, and what is missing joins by itself")]
    Exists {
        /// Namespace and name.
        lock: String,
        /// Who knows it.
        member: String,
    },
    /// It was lost before it was given back.
    #[error("lock {lock} was lost before it was given back: others may have had it since")]
    Lost {
        /// Namespace and name.
        lock: String,
    },
}

/// See the module. Clones are the same participant.
pub struct RedLock<R: Register<State = MemberState>>(Arc<Inner<R>>);

impl<R: Register<State = MemberState>> Clone for RedLock<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<R: Register<State = MemberState>> {
    members: Vec<Arc<Member<R>>>,
    session: Session,
    name: String,
    ttl: Duration,
}

/// Why a round came to nothing: a word on each member that did not agree.
#[derive(Debug, Default)]
struct Short {
    held_by: Vec<String>,
    other: Vec<String>,
}

/// A member that answers in the background if nobody waits for it any more.
type Answers<T> = FuturesUnordered<JoinHandle<(String, Result<T, String>)>>;

impl RedLock<KubeRegister<MemberState>> {
    /// The lock on the Leases of this name on each of these API servers, which are independent of each other. Its grants are
    /// valid for `ttl` without being renewed.
    ///
    /// # Errors
    /// When the name is none that a Lease can have, there is no member, or `ttl` is out of range.
    pub fn on_leases(
        clients: Vec<(String, Client)>,
        namespace: &str,
        name: &str,
        session: Session,
        ttl: Duration,
    ) -> Result<Self, RedLockError> {
        object_name(name)?;
        // Not signed: a pod's uid proves something in its own cluster only.
        let member = |(member, client)| (member, KubeRegister::new(client, namespace, name, LONGEST_CALL));
        let members = clients.into_iter().map(member).collect();
        Self::new(members, session, &format!("{namespace}/{name}"), ttl)
    }
}

impl<R: Register<State = MemberState>> RedLock<R> {
    /// The lock on these registers, with a name for each that errors call it by. See [`RedLock::on_leases`].
    ///
    /// # Errors
    /// When there is no member, or `ttl` or the session's identity is out of range.
    pub fn new(members: Vec<(String, R)>, session: Session, name: &str, ttl: Duration) -> Result<Self, RedLockError> {
        check_ttl(ttl)?;
        check_identity(&session.identity)?;
        if members.is_empty() {
            return Err(RedLockError::NoMembers { lock: name.to_owned() });
        }
        let limit = LONGEST_CALL.min(ttl / 5);
        let members =
            members.into_iter().map(|(name, register)| Arc::new(Member::new(&name, register, limit))).collect();
        Ok(Self(Arc::new(Inner { members, session, name: name.to_owned(), ttl })))
    }

    /// Makes a lock that never was: so its first grant need not wait for the time for which a holder might live that was
    /// forgotten by all.
    ///
    /// # Errors
    /// [`RedLockError::Exists`] when a member knows it, and [`RedLockError::NoMajority`] when not all of them answer.
    pub async fn create(&self) -> Result<(), RedLockError> {
        self.0.create().await
    }

    /// Holds it if that is possible at once.
    ///
    /// # Errors
    /// See [`RedLockError`].
    pub async fn try_acquire(&self) -> Result<RedHeld<R>, RedLockError> {
        self.acquire(Some(Duration::ZERO)).await
    }

    /// Waits for it, for this long at most; without a limit for as long as it takes. Whoever waits tries again and again; there is
    /// no order among them.
    ///
    /// # Errors
    /// See [`RedLockError`].
    pub async fn acquire(&self, limit: Option<Duration>) -> Result<RedHeld<R>, RedLockError> {
        let (inner, began, mut longest) = (&self.0, Instant::now(), FIRST_WAIT);
        loop {
            let short = match inner.attempt().await {
                Ok((holder, token, until)) => return Ok(RedHeld::new(Arc::clone(inner), holder, token, until)),
                Err(short) => short,
            };
            inner.mend().await;
            let wait = inner.session.random.up_to(longest);
            if limit.is_some_and(|limit| began.elapsed() + wait >= limit) {
                return Err(inner.error(&short, began.elapsed()));
            }
            sleep(wait).await;
            longest = (longest * 2).min(LONGEST_WAIT);
        }
    }
}

impl<R: Register<State = MemberState>> Inner<R> {
    const fn majority(&self) -> usize {
        self.members.len() / 2 + 1
    }

    /// One try: the holder, its token, and until when it is valid by the session's clock.
    async fn attempt(&self) -> Result<(Holder, u64, Duration), Short> {
        // What is remembered costs no round: the grant itself is refused where it is not so any more.
        if let Some(token) = self.next_token(self.members.iter().filter_map(|member| member.remembered(&self.session)))
            && let Ok(granted) = self.granted(token).await
        {
            return Ok(granted);
        }
        let token = self.read_token().await?;
        self.granted(token).await
    }

    /// Asks all to grant it with this token. What they granted is given back if they are too few.
    async fn granted(&self, token: u64) -> Result<(Holder, u64, Duration), Short> {
        let Session { clock, random, identity, .. } = &self.session;
        // A claim of its own for each try: what lands late is not taken for this one's.
        let holder = Holder { claim: random.id(), identity: identity.clone(), ttl: self.ttl, renewals: 0 };
        let until = clock.now() + believed(self.ttl);
        let round = {
            let holder = holder.clone();
            self.round(move |member, session| {
                let holder = holder.clone();
                async move { member.grant(&session, &holder, token).await }
            })
        };
        match round.await {
            Ok(()) if clock.now() < until => Ok((holder, token, until)),
            short => {
                self.release(&holder.claim).await;
                Err(short.err().unwrap_or_else(|| Short::of("the answers came too late")))
            }
        }
    }

    /// Gives back what this claim holds, wherever it does; at how many members it did.
    async fn release(&self, claim: &str) -> usize {
        let claim = claim.to_owned();
        let answers = self.asked(move |member, session| {
            let claim = claim.clone();
            async move { member.release(&session, &claim).await }
        });
        answers.filter(|answer| std::future::ready(matches!(answer, Ok((_, Ok(true)))))).count().await
    }

    /// Reads members until a majority is free; one more than the highest token of those that take part.
    async fn read_token(&self) -> Result<u64, Short> {
        let mut answers = self.asked(|member, session| async move { member.look(&session).await });
        let (mut views, mut short) = (Vec::new(), Short::default());
        while let Some(answer) = answers.next().await {
            // Cut short only when all of this process is.
            let Ok((name, answer)) = answer else { continue };
            match answer {
                Ok(view) => {
                    short.note(&name, &view);
                    views.push(view);
                }
                Err(why) => short.other.push(format!("{name}: {why}")),
            }
            if let Some(token) = self.next_token(views.iter().cloned()) {
                return Ok(token);
            }
        }
        Err(short)
    }

    /// The token to ask for, if a majority of these is free.
    fn next_token(&self, views: impl Iterator<Item = View>) -> Option<u64> {
        let taking_part: Vec<View> = views.filter(|view| !matches!(view.standing, Standing::Absent(_))).collect();
        let free = taking_part.iter().filter(|view| view.standing == Standing::Free).count();
        let highest = taking_part.iter().map(|view| view.token).max()?;
        (free >= self.majority()).then(|| highest.saturating_add(1))
    }

    /// Has members take part again that were away for so long that nobody can hold them any more.
    async fn mend(&self) {
        let absent = |member: &Arc<Member<R>>| {
            member.remembered(&self.session).is_some_and(|view| matches!(view.standing, Standing::Absent(_)))
        };
        if !self.members.iter().any(absent) {
            return;
        }
        // First the time, then the reading: what was granted until then is seen.
        let now = self.session.clock.now();
        let views = self.views().await;
        let present = || views.iter().filter(|(_, view)| !matches!(view.standing, Standing::Absent(_)));
        let never_granted = views.len() == self.members.len() && present().all(|(_, view)| view.token == 0);
        if present().count() < self.majority() && !never_granted {
            return;
        }
        let token = present().map(|(_, view)| view.token).max().unwrap_or_default();
        let longest = present().map(|(_, view)| view.longest).max().unwrap_or_default().max(self.ttl);
        let due = |view: &View| matches!(view.standing, Standing::Absent(since) if since + patience(longest) <= now);
        let joins = views.iter().filter(|(_, view)| due(view));
        join_all(joins.map(|(member, _)| self.join(member, token, longest))).await;
    }

    async fn create(&self) -> Result<(), RedLockError> {
        let views = self.views().await;
        if let Some((member, _)) = views.iter().find(|(_, view)| view.token > 0) {
            return Err(RedLockError::Exists { lock: self.name.clone(), member: member.name.clone() });
        }
        let joined = join_all(views.iter().map(|(member, _)| self.join(member, 0, self.ttl))).await;
        let (needed, members) = (self.members.len(), self.members.len());
        if joined.into_iter().filter(|joined| *joined).count() == needed {
            return Ok(());
        }
        let why = "to make a new lock, all have to answer".to_owned();
        Err(RedLockError::NoMajority { lock: self.name.clone(), needed, members, why })
    }

    async fn join(&self, member: &Member<R>, token: u64, longest: Duration) -> bool {
        match member.join(&self.session, token, longest).await {
            Ok(joined) => joined,
            Err(why) => {
                tracing::debug!(lock = self.name, member = member.name, "joining: {why}");
                false
            }
        }
    }

    /// All members that answer, read anew.
    async fn views(&self) -> Vec<(Arc<Member<R>>, View)> {
        let looks = self
            .members
            .iter()
            .map(|member| async move { Some((Arc::clone(member), member.look(&self.session).await.ok()?)) });
        join_all(looks).await.into_iter().flatten().collect()
    }

    /// Asks all members at once, and waits until a majority agrees, or cannot any more.
    async fn round<F: Future<Output = Result<bool, String>> + Send + 'static>(
        &self,
        ask: impl Fn(Arc<Member<R>>, Session) -> F,
    ) -> Result<(), Short> {
        let mut answers = self.asked(ask);
        let (mut agreed, mut short) = (0, Short::default());
        while agreed + answers.len() >= self.majority() {
            let Some(answer) = answers.next().await else { break };
            let Ok((name, answer)) = answer else { continue };
            match answer {
                Ok(true) => agreed += 1,
                Ok(false) => short.held_by.push(format!("another at {name}")),
                Err(why) => short.other.push(format!("{name}: {why}")),
            }
            if agreed >= self.majority() {
                return Ok(());
            }
        }
        Err(short)
    }

    fn asked<T: Send + 'static, F: Future<Output = Result<T, String>> + Send + 'static>(
        &self,
        ask: impl Fn(Arc<Member<R>>, Session) -> F,
    ) -> Answers<T> {
        let calls = self.members.iter().map(|member| {
            let (name, answer) = (member.name.clone(), ask(Arc::clone(member), self.session.clone()));
            tokio::spawn(async move { (name, answer.await) })
        });
        calls.collect()
    }

    fn error(&self, short: &Short, waited: Duration) -> RedLockError {
        let (lock, needed, members) = (self.name.clone(), self.majority(), self.members.len());
        if short.other.len() <= members - needed
            && let Some(by) = short.held_by.first()
        {
            return RedLockError::Busy { lock, by: by.clone(), waited };
        }
        let why = short.held_by.iter().map(|by| format!("held by {by}")).chain(short.other.iter().cloned());
        RedLockError::NoMajority { lock, needed, members, why: why.collect::<Vec<_>>().join("; ") }
    }
}

impl Short {
    fn of(why: &str) -> Self {
        Self { other: vec![why.to_owned()], ..Self::default() }
    }

    fn note(&mut self, name: &str, view: &View) {
        match &view.standing {
            Standing::Free => {}
            Standing::Held(by) => self.held_by.push(by.clone()),
            Standing::Absent(_) => self.other.push(format!(
                "{name}: its Lease is missing, or older than it was: it takes part again when the longest time that was granted has passed"
            )),
        }
    }
}
