//! What the history of a lock must be, whoever wrote it down: a simulation in virtual time, or processes on a real
//! API server.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use quorate_coordination::{
    LockState, Mode, Step,
    lock::{Claim, MAX_HOLDERS},
};
use serde::{Deserialize, Serialize};

/// What a contender did or believed. Times are of one clock that all share, not of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    /// It was granted the lock.
    Granted(Grant),
    /// It asked how long it holds the lock: until then.
    Believes { claim: String, until: Duration },
    /// It gave the lock back, and believes no longer.
    Ended { claim: String, at: Duration },
    /// It wrote to what the lock protects; whether that was accepted.
    Wrote { claim: String, token: u64, accepted: bool },
}

/// A grant, and for how long its holder believed in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Grant {
    pub who: String,
    pub claim: String,
    pub mode: Mode,
    pub token: u64,
    pub asked: Duration,
    pub from: Duration,
    pub until: Duration,
}

/// One version of the lock.
#[derive(Clone, Debug)]
pub struct Seen {
    pub token: u64,
    pub state: LockState,
}

/// The grants of a history; each contender's events are in their order.
pub fn grants(events: &[Event]) -> Vec<Grant> {
    let mut grants: Vec<Grant> = Vec::new();
    let mut index = HashMap::new();
    for event in events {
        match event {
            Event::Granted(grant) => {
                index.insert(&grant.claim, grants.len());
                grants.push(grant.clone());
            }
            Event::Believes { claim, until } => grants[index[claim]].until = grants[index[claim]].until.max(*until),
            Event::Ended { claim, at } => grants[index[claim]].until = grants[index[claim]].until.min(*at),
            Event::Wrote { .. } => {}
        }
    }
    grants
}

/// Nobody ever believes in an exclusive grant while somebody else believes in any; permits are never exceeded.
pub fn beliefs(grants: &[Grant]) -> Result<(), String> {
    // Whatever is wrong is so at first when one of them begins.
    for newest in grants {
        let now: Vec<&Grant> = grants.iter().filter(|g| g.from <= newest.from && newest.from < g.until).collect();
        if !together(now.iter().map(|grant| grant.mode)) {
            return Err(format!("they all believe that they hold it: {now:#?}"));
        }
    }
    Ok(())
}

/// Tokens rise: who asked after another was granted the lock has a higher one, and no two exclusive grants have the same.
pub fn tokens(grants: &[Grant]) -> Result<(), String> {
    let mut exclusive = HashMap::new();
    for grant in grants.iter().filter(|grant| grant.mode == Mode::Exclusive) {
        if let Some(other) = exclusive.insert(grant.token, grant) {
            return Err(format!("the same token: {other:?} and {grant:?}"));
        }
    }
    for earlier in grants {
        if let Some(later) = grants.iter().find(|later| later.asked > earlier.from && later.token <= earlier.token) {
            return Err(format!("no higher token: {earlier:?} and then {later:?}"));
        }
    }
    Ok(())
}

/// Each grant's token is a version that shows it as a holder.
pub fn shown(grants: &[Grant], versions: &[Seen]) -> Result<(), String> {
    for grant in grants {
        let version = versions.iter().find(|seen| seen.token == grant.token);
        if !version.is_some_and(|seen| seen.state.holds(&grant.claim)) {
            return Err(format!("the version of its token does not show it: {grant:?}, {version:?}"));
        }
    }
    Ok(())
}

/// Consecutive versions of a lock: who holds it may hold it together; claims are granted in the order in which they
/// came, but for those that left; a claim that has left never comes back; nothing is free while the first who
/// waits would fit.
pub fn versions(versions: &[Seen]) -> Result<(), String> {
    let mut arrivals: HashMap<&str, usize> = HashMap::new();
    let mut gone: HashSet<&str> = HashSet::new();
    let first = Seen { token: 0, state: LockState::default() };
    for (before, after) in std::iter::once(&first).chain(versions).zip(versions) {
        let wrong = |what: &str| Err(format!("{what}: {before:#?} and then {after:#?}"));
        let (old, new) = (&before.state, &after.state);
        if !together(new.holders.iter().map(|holder| holder.claim.mode)) {
            return wrong("they cannot hold it together");
        }
        if new.foreign.is_some() && !new.holders.is_empty() {
            return wrong("held by others and ours at once");
        }
        let present: HashSet<&str> = claims(new).map(|claim| claim.id.as_str()).collect();
        gone.extend(claims(old).map(|claim| claim.id.as_str()).filter(|id| !present.contains(id)));
        if let Some(id) = present.iter().find(|id| gone.contains(*id)) {
            return wrong(&format!("claim {id} has come back"));
        }
        for claim in claims(new) {
            let next = arrivals.len();
            arrivals.entry(&claim.id).or_insert(next);
        }
        let order: Vec<usize> = new.waiters.iter().map(|claim| arrivals[claim.id.as_str()]).collect();
        if !order.is_sorted() {
            return wrong("the queue has another order");
        }
        let granted = new.holders.iter().filter(|holder| !old.holds(&holder.claim.id));
        for holder in granted {
            if order.first().is_some_and(|first| *first < arrivals[holder.claim.id.as_str()]) {
                return wrong("somebody came first and waits");
            }
        }
        // Who is none of ours leaves without granting it to the next.
        if old.foreign.is_none() && matches!(new.settle(jiff::Timestamp::UNIX_EPOCH), Step::Write(..)) {
            return wrong("it is free for the first in the queue");
        }
    }
    Ok(())
}

/// What was accepted of writes with tokens, in the order in which it was: they never fall.
pub fn fenced(accepted: &[u64]) -> Result<(), String> {
    match accepted.windows(2).find(|pair| pair[1] < pair[0]) {
        Some(pair) => Err(format!("a write with token {} was accepted after one with {}", pair[1], pair[0])),
        None => Ok(()),
    }
}

fn claims(state: &LockState) -> impl Iterator<Item = &Claim> {
    state.holders.iter().map(|holder| &holder.claim).chain(&state.waiters)
}

/// Whether these may hold the lock at the same time. Said once more, in other words than the lock's own.
fn together(modes: impl Iterator<Item = Mode>) -> bool {
    let modes: Vec<Mode> = modes.collect();
    match modes.first() {
        None => true,
        Some(Mode::Exclusive) => modes.len() == 1,
        Some(Mode::Shared) => modes.iter().all(|mode| *mode == Mode::Shared) && modes.len() <= MAX_HOLDERS,
        Some(Mode::Permits { of, .. }) => {
            let taken = modes.iter().map(|mode| match mode {
                Mode::Permits { take, of: same } if same == of => Some(u64::from(*take)),
                _ => None,
            });
            taken.sum::<Option<u64>>().is_some_and(|taken| taken <= u64::from(*of))
        }
    }
}
