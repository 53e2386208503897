//! Somebody who takes a lock again and again, holds it for a while, writes to what it protects, and notes it all down.

use std::time::Duration;

use quorate_coordination::{
    Held, Lock, LockError, LockState, Mode, Random, Register,
    lock::{Sign, believed},
};
use tokio::time::{sleep, timeout};

use super::history::{Event, Grant};

/// What a contender is told to do.
#[derive(Clone, Debug)]
pub struct Script {
    pub who: String,
    /// The lock's.
    pub ttl: Duration,
    pub modes: Vec<Mode>,
    /// So often it takes it.
    pub cycles: usize,
    /// It holds it for up to this.
    pub hold: Duration,
    /// It pauses for up to this: between two cycles, and now and then between asking whether it still holds the lock and
    /// writing.
    pub pause: Duration,
    /// By how much its clock is faster than the shared one.
    pub rate: f64,
    pub variant: Variant,
}

/// As it should be, or wrong in one way, which a check must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Right,
    /// Believes for the whole of its time, without a margin.
    WholeTtl,
    /// Counts its time from the moment at which it heard of its grant.
    SinceNews,
    /// Takes the lock from whoever holds it, without having seen it expire.
    Thief,
}

/// Where it all happens.
pub trait Place: Sync {
    /// By the clock that all share.
    fn now(&self) -> Duration;
    fn note(&self, event: Event);
    /// Writes to what the lock protects, with the token; whether that was accepted; none if nobody can tell.
    fn write(&self, who: &str, token: u64) -> impl Future<Output = Option<bool>> + Send;
}

/// Plays the script. Refusals that a lock makes in the normal course of things are part of it; others end it.
pub async fn contend<R: Register<State = LockState>>(
    lock: &Lock<R>,
    script: &Script,
    random: &Random,
    place: &impl Place,
) -> Result<(), LockError> {
    let mut done = 0;
    while done < script.cycles {
        sleep(random.up_to(script.pause)).await;
        let mode = script.modes[choose(random, script.modes.len())];
        let mut asked = place.now();
        let held = match choose(random, 8) {
            0 => lock.try_acquire(mode).await,
            1 => lock.acquire(mode, Some(random.up_to(script.ttl))).await,
            // Some lose patience, and drop it all.
            2 => match timeout(random.up_to(script.ttl), lock.acquire(mode, None)).await {
                Ok(held) => held,
                Err(_) => continue,
            },
            _ => wait(lock, mode, script).await,
        };
        let mut held = match held {
            Ok(held) => held,
            Err(LockError::Busy { .. } | LockError::Undone(_) | LockError::OtherPermits { .. }) => continue,
            Err(error) => return Err(error),
        };
        loop {
            done += 1;
            let claim = held.claim().to_owned();
            let from = place.now();
            let grant = Grant { who: script.who.clone(), claim, mode, token: held.token(), asked, from, until: from };
            place.note(Event::Granted(grant));
            use_it(&held, script, random, place).await;
            place.note(Event::Ended { claim: held.claim().to_owned(), at: place.now() });
            asked = place.now();
            let again = match choose(random, 8) {
                0 => {
                    drop(held);
                    break;
                }
                1 => held.pass_on(Some(random.up_to(script.ttl))).await,
                2 | 3 => held.pass_on(None).await,
                _ => {
                    // Lost, or not to be had now: it will be free in time.
                    let _ = held.release().await;
                    break;
                }
            };
            let Ok(again) = again else { break };
            held = again;
        }
    }
    Ok(())
}

async fn wait<R: Register<State = LockState>>(
    lock: &Lock<R>,
    mode: Mode,
    script: &Script,
) -> Result<Held<R>, LockError> {
    if script.variant != Variant::Thief {
        return lock.acquire(mode, None).await;
    }
    let steal = async {
        loop {
            sleep(script.ttl / 10).await;
            if let Ok(at) = lock.state().await
                && let Some((sign @ Sign::Ours(..), _)) = at.state.signs().next()
            {
                let _ = lock.steal(&sign).await;
            }
        }
    };
    tokio::select! {
        held = lock.acquire(mode, None) => held,
        () = steal => unreachable!("it goes on for ever"),
    }
}

/// Holds it for a while, and writes.
async fn use_it<R: Register<State = LockState>>(held: &Held<R>, script: &Script, random: &Random, place: &impl Place) {
    let (granted, hold) = (place.now(), random.up_to(script.hold));
    let mut valid = match script.variant {
        Variant::SinceNews => believed(script.ttl),
        _ => valid_for(held, script),
    };
    while !valid.is_zero() {
        let until = place.now() + valid.div_f64(script.rate);
        place.note(Event::Believes { claim: held.claim().to_owned(), until });
        // Whatever happens between the check and the write: only the token helps.
        if choose(random, 10) == 0 {
            sleep(random.up_to(script.pause * 2)).await;
        }
        if let Some(accepted) = place.write(&script.who, held.token()).await {
            place.note(Event::Wrote { claim: held.claim().to_owned(), token: held.token(), accepted });
        }
        if place.now() >= granted + hold {
            return;
        }
        // Until it is told that it lost it, or wants to write again.
        let _ = timeout(random.up_to(script.hold / 4).min(hold), held.lost()).await;
        valid = valid_for(held, script);
    }
}

fn valid_for<R: Register<State = LockState>>(held: &Held<R>, script: &Script) -> Duration {
    let valid = held.valid_for();
    let margin = script.ttl.saturating_sub(believed(script.ttl));
    if script.variant == Variant::WholeTtl && !valid.is_zero() { valid + margin } else { valid }
}

/// One of so many.
pub fn choose(random: &Random, of: usize) -> usize {
    usize::try_from(random.bits() % of as u64).unwrap_or_default()
}
