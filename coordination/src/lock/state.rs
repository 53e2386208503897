//! The lock as a pure state machine: who holds it, who waits, and what each operation makes of that.
//!
//! One state has one set of holders. A claim is granted in the write that appends it, if what is held allows it
//! and nobody waits before it; whoever gives the lock back, for good or to wait for it again, grants it to the next in the
//! same write.
//! Invariants, which `tests/lock.rs` checks: an exclusive holder is alone; holders never exceed the permits;
//! claims are granted in the order in which they came; nothing is free while a claim that would fit is first in the queue.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Process, Stamp, Stamped, Stamps, Step};

/// Claims that may wait: the object that keeps them is not to grow without bound.
pub const MAX_WAITERS: usize = 512;
/// Bytes that all claims may have together, as JSON: an object's annotations have 256 KiB.
pub const MAX_BYTES: usize = 220 * 1024;
/// Claims that may hold a shared lock or a semaphore at once.
pub const MAX_HOLDERS: usize = 512;

/// How much of the lock is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// All of it.
    Exclusive,
    /// It, together with others who share it.
    Shared,
    /// So many permits of a semaphore.
    Permits {
        /// Permits claimed.
        take: u32,
        /// Permits there are: all who use the semaphore say the same.
        of: u32,
    },
}

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// The operation's id: nobody else's, and never used again.
    pub id: String,
    /// The id of the [`crate::Session`].
    pub client: String,
    /// What people know the claimant by.
    pub identity: String,
    /// How much is claimed.
    pub mode: Mode,
    /// For how long it holds without being renewed, in milliseconds.
    pub ttl_millis: u64,
    /// Whose end would end it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
}

impl Claim {
    /// For how long it holds without being renewed.
    #[must_use]
    pub const fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_millis)
    }
}

impl Claim {
    /// With some room for what a holder has beside.
    fn bytes(&self) -> usize {
        serde_json::to_string(self).map_or(0, |text| text.len()) + 40
    }
}

/// A claim that was granted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// The claim.
    #[serde(flatten)]
    pub claim: Claim,
    /// How often it was renewed: who sees no change of this for the claim's time may take the lock away.
    pub renewals: u64,
}

/// A holder that is none of ours: client-go's leader election, or a person.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Foreign {
    /// Its name for itself.
    pub identity: String,
    /// For how long it holds without being renewed.
    pub ttl: Duration,
    /// When it renewed last, by its own clock: only whether this changes means something.
    pub renewed: Option<Timestamp>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct LockState {
    /// Who holds it, in the order in which they were granted it.
    pub holders: Vec<Holder>,
    /// Who waits, first come first.
    pub waiters: Vec<Claim>,
    /// Who holds it that is none of ours; then nobody of ours does.
    pub foreign: Option<Foreign>,
    /// The client whom the last grant went to, or [`MANY`].
    pub granted: Option<String>,
    /// How often it went from one holder to another.
    pub transitions: i32,
    /// The highest Lamport stamp of an operation on it.
    pub lamport: i64,
    /// The highest stamp of its users' hybrid logical clocks.
    pub hlc: Stamp,
    /// When it was granted last, by that writer's clock. Shown, nothing more.
    pub acquired: Option<Timestamp>,
    /// When it was renewed last, by that writer's clock. Changes with every renewal.
    pub renewed: Option<Timestamp>,
}

impl Stamped for LockState {
    fn stamps(&self) -> Stamps {
        Stamps { lamport: self.lamport, hlc: self.hlc }
    }

    fn stamp(&mut self, Stamps { lamport, hlc }: Stamps) {
        (self.lamport, self.hlc) = (lamport, hlc);
    }
}

/// Value of [`LockState::granted`] when several were granted in one write.
pub const MANY: &str = "many";

/// What came of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// It holds.
    Granted,
    /// It waits, and so many are before it.
    Waiting(usize),
    /// Others hold it, and the claim was not to wait. Their names.
    Busy(String),
    /// The lock takes no more claims.
    Full,
    /// The semaphore has another number of permits for those who use it now.
    OtherPermits(u32),
    /// What was to be passed on is not held.
    Lost,
}

/// What one holder is known by, to those who watch for its expiry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Sign {
    /// One of ours: its claim's id and its renewals.
    Ours(String, u64),
    /// Somebody else.
    Foreign(Foreign),
}

impl LockState {
    /// Whether the claim of this id holds.
    #[must_use]
    pub fn holds(&self, id: &str) -> bool {
        self.holders.iter().any(|holder| holder.claim.id == id)
    }

    /// Whether the claim of this id holds or waits.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.holds(id) || self.position(id).is_some()
    }

    /// How many wait before the claim of this id; none if it does not wait.
    #[must_use]
    pub fn position(&self, id: &str) -> Option<usize> {
        self.waiters.iter().position(|claim| claim.id == id)
    }

    /// Whether nobody holds it.
    #[must_use]
    pub const fn is_free(&self) -> bool {
        self.holders.is_empty() && self.foreign.is_none()
    }

    /// Each holder's sign, and for how long it holds without being renewed.
    pub fn signs(&self) -> impl Iterator<Item = (Sign, Duration)> {
        let ours = self.holders.iter().map(|h| (Sign::Ours(h.claim.id.clone(), h.renewals), h.claim.ttl()));
        ours.chain(self.foreign.iter().map(|foreign| (Sign::Foreign(foreign.clone()), foreign.ttl)))
    }

    /// Who holds it, for people.
    #[must_use]
    pub fn held_by(&self) -> String {
        if let Some(foreign) = &self.foreign {
            return foreign.identity.clone();
        }
        let mut names: Vec<_> = self.holders.iter().take(3).map(|holder| holder.claim.identity.as_str()).collect();
        let more = format!("{} more", self.holders.len().saturating_sub(3));
        if self.holders.len() > 3 {
            names.push(&more);
        }
        names.join(", ")
    }

    /// Claims it. A claim that does not wait is granted at once or not at all.
    #[must_use]
    pub fn acquire(&self, claim: &Claim, waits: bool, now: Timestamp) -> Step<Self, Claimed> {
        if self.holds(&claim.id) {
            return Step::Answer(Claimed::Granted);
        }
        if let Some(before) = self.position(&claim.id) {
            return Step::Answer(Claimed::Waiting(before));
        }
        if let Some(others) = self.other_permits(claim.mode) {
            return Step::Answer(Claimed::OtherPermits(others));
        }
        let at_once = self.waiters.is_empty() && self.fits(claim.mode);
        if !at_once && !waits {
            return Step::Answer(Claimed::Busy(self.held_by()));
        }
        if self.is_full(claim) {
            return Step::Answer(Claimed::Full);
        }
        self.clone().enqueue(claim, now)
    }

    /// Renews a holder whose renewals are fewer than these; whether it still holds.
    #[must_use]
    pub fn renew(&self, id: &str, renewals: u64, now: Timestamp) -> Step<Self, bool> {
        let mut next = self.clone();
        match next.holders.iter_mut().find(|holder| holder.claim.id == id) {
            None => Step::Answer(false),
            Some(holder) if holder.renewals >= renewals => Step::Answer(true),
            Some(holder) => {
                holder.renewals = renewals;
                next.stamp_renewal(now);
                Step::Write(next, true)
            }
        }
    }

    /// Takes a claim back, whether it holds or waits, and grants what is free to the next; whether there was one.
    #[must_use]
    pub fn release(&self, id: &str, now: Timestamp) -> Step<Self, bool> {
        let mut next = self.clone();
        next.holders.retain(|holder| holder.claim.id != id);
        next.waiters.retain(|claim| claim.id != id);
        if next.holders.len() == self.holders.len() && next.waiters.len() == self.waiters.len() {
            return Step::Answer(false);
        }
        next.promote(now);
        Step::Write(next, true)
    }

    /// Gives a claim that holds back, and makes another one in its place, which comes after all who wait: one write for
    /// what would be two.
    #[must_use]
    pub fn pass_on(&self, id: &str, claim: &Claim, now: Timestamp) -> Step<Self, Claimed> {
        if self.has(&claim.id) {
            return self.acquire(claim, true, now);
        }
        let mut next = self.clone();
        next.holders.retain(|holder| holder.claim.id != id);
        if next.holders.len() == self.holders.len() {
            return Step::Answer(Claimed::Lost);
        }
        if next.is_full(claim) {
            return Step::Answer(Claimed::Full);
        }
        next.enqueue(claim, now)
    }

    /// Takes the lock from a holder that still shows this sign, and grants it to the next; whether it did.
    #[must_use]
    pub fn steal(&self, sign: &Sign, now: Timestamp) -> Step<Self, bool> {
        if !self.signs().any(|(present, _)| present == *sign) {
            return Step::Answer(false);
        }
        let mut next = self.clone();
        match sign {
            Sign::Ours(id, _) => next.holders.retain(|holder| holder.claim.id != *id),
            Sign::Foreign(_) => next.foreign = None,
        }
        next.promote(now);
        Step::Write(next, true)
    }

    /// Grants what is free to those who are first: after a holder that is none of ours has left.
    #[must_use]
    pub fn settle(&self, now: Timestamp) -> Step<Self, bool> {
        let mut next = self.clone();
        next.promote(now);
        if next.holders.len() == self.holders.len() { Step::Answer(false) } else { Step::Write(next, true) }
    }

    fn enqueue(mut self, claim: &Claim, now: Timestamp) -> Step<Self, Claimed> {
        self.waiters.push(claim.clone());
        self.promote(now);
        let claimed = self.position(&claim.id).map_or(Claimed::Granted, Claimed::Waiting);
        Step::Write(self, claimed)
    }

    /// Grants it to the first in the queue, as long as what is held allows it.
    fn promote(&mut self, now: Timestamp) {
        let mut granted = Vec::new();
        while self.waiters.first().is_some_and(|first| self.fits(first.mode)) {
            let claim = self.waiters.remove(0);
            granted.push(claim.client.clone());
            self.holders.push(Holder { claim, renewals: 0 });
        }
        let Some(first) = granted.first() else { return };
        self.granted = Some(if granted.len() == 1 { first.clone() } else { MANY.to_owned() });
        self.transitions = self.transitions.saturating_add(1);
        self.acquired = Some(now);
        self.stamp_renewal(now);
    }

    /// Those who do not know our annotation see a renewal by this, so it must change.
    fn stamp_renewal(&mut self, now: Timestamp) {
        let next = self.renewed.and_then(|last| last.checked_add(jiff::SignedDuration::from_micros(1)).ok());
        self.renewed = Some(next.map_or(now, |next| next.max(now)));
    }

    /// Whether there is no room for one more claim.
    fn is_full(&self, claim: &Claim) -> bool {
        self.waiters.len() >= MAX_WAITERS || self.bytes() + claim.bytes() > MAX_BYTES
    }

    fn bytes(&self) -> usize {
        self.holders.iter().map(|holder| &holder.claim).chain(&self.waiters).map(Claim::bytes).sum()
    }

    /// Whether what is held allows this beside it.
    fn fits(&self, mode: Mode) -> bool {
        let held = self.holders.iter().map(|holder| holder.claim.mode);
        if self.foreign.is_some() || self.holders.len() >= MAX_HOLDERS {
            return false;
        }
        match mode {
            Mode::Exclusive => self.holders.is_empty(),
            Mode::Shared => held.into_iter().all(|held| held == Mode::Shared),
            Mode::Permits { take, of } => held
                .into_iter()
                .try_fold(take, |sum, held| match held {
                    Mode::Permits { take, of: same } if same == of => sum.checked_add(take),
                    _ => None,
                })
                .is_some_and(|sum| sum <= of),
        }
    }

    /// The number of permits that others, who use it now, say there are, if it is another.
    fn other_permits(&self, mode: Mode) -> Option<u32> {
        let Mode::Permits { of, .. } = mode else { return None };
        let used = self.holders.iter().map(|holder| &holder.claim).chain(&self.waiters);
        used.into_iter().find_map(|claim| match claim.mode {
            Mode::Permits { of: others, .. } if others != of => Some(others),
            _ => None,
        })
    }
}
