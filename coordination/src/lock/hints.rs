//! What a lock's watch tells, for all who wait for the lock or hold it in this process.
//!
//! One watch for each lock, not for each claim, and it lingers: a watch that is opened and closed for each turn
//! costs more than the lock. It only saves time. Whoever relies on it also reads now and then.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::StreamExt;
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use super::{locked, state::LockState};
use crate::{Driver, Register, Session, Version, Versioned};

/// An unused watch is closed after this.
const LINGER: Duration = Duration::from_secs(30);
/// The time limit of the read that begins a watch.
const READING: Duration = Duration::from_secs(5);
/// Between two watches; it doubles up to [`LONGEST_PAUSE`] while they tell nothing.
const PAUSE: Duration = Duration::from_millis(200);
/// See [`PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The newest state that was seen, by anybody here.
pub type Latest<R> = Option<Versioned<LockState, <R as Register>::Version>>;

/// Who watches now; none when nobody does.
pub type Following = Arc<Mutex<Option<JoinHandle<()>>>>;

/// Keeps the newest of both.
pub fn saw<R: Register<State = LockState>>(
    latest: &watch::Sender<Latest<R>>,
    seen: &Versioned<LockState, R::Version>,
) -> bool {
    latest.send_if_modified(|latest| {
        let newer = latest.as_ref().is_none_or(|known| known.version.token() < seen.version.token());
        if newer {
            *latest = Some(seen.clone());
        }
        newer
    })
}

/// Watches until nobody has listened for a while.
pub async fn follow<R: Register<State = LockState>>(
    register: Arc<R>,
    session: Session,
    latest: Arc<watch::Sender<Latest<R>>>,
    following: Following,
) {
    let driver = Driver { clock: &*session.clock, random: &session.random, limit: READING };
    let mut pause = PAUSE;
    loop {
        let known = latest.borrow().clone();
        let from = match known {
            Some(known) => Ok(known),
            None => driver.read(&*register).await,
        };
        if let Ok(from) = from {
            saw::<R>(&latest, &from);
            let mut events = register.watch(&from.version);
            loop {
                match timeout(LINGER, events.next()).await {
                    Ok(Some(Some(seen))) => {
                        pause = PAUSE;
                        saw::<R>(&latest, &seen);
                    }
                    // It concerns us no more, or was deleted: those who hold or wait find out by reading.
                    Ok(Some(None)) => latest.send_modify(|_| {}),
                    Ok(None) => break,
                    Err(_) if latest.receiver_count() == 0 => break,
                    Err(_) => {}
                }
            }
        }
        // Who begins to listen at this moment sees that nobody watches, or is counted.
        let mut following = locked(&following);
        if latest.receiver_count() == 0 {
            *following = None;
            return;
        }
        drop(following);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        // From the present on: the version may be too old to watch from.
        if let Ok(now) = driver.read(&*register).await {
            saw::<R>(&latest, &now);
        }
    }
}
