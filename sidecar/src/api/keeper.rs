//! Locks that this pod holds, each kept by a task: for as long as somebody wants it, and given back at once when
//! nobody does.
//!
//! A lock that is held by **lease** id is wanted until its time has passed without a word from the application; one that
//! is held by a **stream**, for as long as the stream is open.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use quorate_coordination::{Held, LockError, LockState, Register};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};

use super::problem::Problem;
use crate::{
    Shared,
    events::{Event, LockLost},
};

/// Locks that a pod may hold and wait for at once.
pub const MOST_LOCKS: usize = 64;
/// Leases that have ended and that nobody has asked for since: as many are remembered, with the reason.
const MOST_ENDED: usize = 64;
/// Questions to a keeper that may wait.
const QUESTIONS: usize = 8;
/// For how long giving everything back may delay the sidecar's end.
const FAREWELL: Duration = Duration::from_secs(2);
/// Giving back is answered within this; if not, it is tried on.
const GIVING_BACK: Duration = Duration::from_secs(10);

enum Question {
    /// It is still wanted. The answer is for how long it is certainly held.
    Renew(oneshot::Sender<Duration>),
    /// It is not wanted any more.
    Release(oneshot::Sender<Result<(), LockError>>),
}

/// A lock that is held: dropped, it is given back.
pub struct Kept {
    /// The lock.
    pub lock: String,
    /// Its fencing token.
    pub token: u64,
    questions: mpsc::Sender<Question>,
    ended: watch::Receiver<Option<String>>,
}

impl Kept {
    /// For how long it is certainly held, now that it is wanted further.
    ///
    /// # Errors
    /// When it is not held any more.
    pub async fn renew(&self) -> Result<Duration, Problem> {
        let (reply, answer) = oneshot::channel();
        // Whether it is heard or not: the answer tells.
        let _ = self.questions.send(Question::Renew(reply)).await;
        match answer.await {
            Ok(left) if !left.is_zero() => Ok(left),
            _ => Err(self.gone()),
        }
    }

    /// Gives it back.
    ///
    /// # Errors
    /// When it was not held any more, or the API server gave no answer.
    pub async fn release(self) -> Result<(), Problem> {
        let (reply, answer) = oneshot::channel();
        let _ = self.questions.send(Question::Release(reply)).await;
        match timeout(GIVING_BACK, answer).await {
            Ok(Ok(released)) => Ok(released?),
            Ok(Err(_)) => Err(self.gone()),
            Err(_) => Err(Problem::uncertain(format!(
                "lock {}: no answer within {} s; giving it back is tried on, and at the worst it is free when its time is up",
                self.lock,
                GIVING_BACK.as_secs()
            ))),
        }
    }

    /// Returns when it is not held any more, with the reason.
    pub async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "its keeper ended".to_owned(),
        }
    }

    fn gone(&self) -> Problem {
        let reason = self.ended.borrow().clone();
        let reason = reason.unwrap_or_else(|| "its time is up".to_owned());
        Problem::gone(format!("lock {} with token {} is lost: {reason}: acquire it again", self.lock, self.token))
    }

    fn has_ended(&self) -> bool {
        self.questions.is_closed()
    }
}

/// All locks that this pod holds. See the module.
pub struct Keeper {
    shared: Arc<Shared>,
    slots: Arc<Semaphore>,
    closing: watch::Sender<bool>,
    leases: Mutex<HashMap<String, Kept>>,
}

impl Keeper {
    /// Of nothing yet. Losses are told to the events of `shared`.
    pub fn new(shared: Arc<Shared>) -> Self {
        let (slots, closing) = (Arc::new(Semaphore::new(MOST_LOCKS)), watch::Sender::new(false));
        Self { shared, slots, closing, leases: Mutex::default() }
    }

    /// Room for one more lock.
    ///
    /// # Errors
    /// When there is none.
    pub fn slot(&self) -> Result<OwnedSemaphorePermit, Problem> {
        if *self.closing.borrow() {
            return Err(Problem::unavailable("the sidecar is ending: no more locks are taken"));
        }
        Arc::clone(&self.slots).try_acquire_owned().map_err(|_| {
            let detail = format!("the pod holds and waits for {MOST_LOCKS} locks, which is the most: give some back");
            Problem::too_many(detail)
        })
    }

    /// Keeps a lock. With a `silence` it is given back after so long without [`Kept::renew`].
    pub fn keep<R: Register<State = LockState>>(
        &self,
        lock: &str,
        held: Held<R>,
        silence: Option<Duration>,
        slot: OwnedSemaphorePermit,
    ) -> Kept {
        let (token, lock) = (held.token(), lock.to_owned());
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let (end, ended) = watch::channel(None);
        let (shared, closing, name) = (Arc::clone(&self.shared), self.closing.subscribe(), lock.clone());
        tokio::spawn(async move {
            if let Some(reason) = keep(held, silence, asked, closing, &end).await {
                tracing::warn!(lock = name, token, "a lock is lost: {reason}");
                shared.events.tell(Event::LockLost(LockLost { lock: name, token, reason }));
            }
            drop(slot);
        });
        Kept { lock, token, questions, ended }
    }

    /// From now on the lock is held under this id.
    pub fn lend(&self, lease: String, kept: Kept) {
        let mut leases = self.leases();
        let ended: Vec<String> = leases.iter().filter(|(_, kept)| kept.has_ended()).map(|(id, _)| id.clone()).collect();
        // Whichever: nobody has asked for them since they ended.
        for id in ended.iter().take(ended.len().saturating_sub(MOST_ENDED - 1)) {
            leases.remove(id);
        }
        leases.insert(lease, kept);
    }

    /// The application is there, and wants the lock of this lease further: token, and for how long it is certainly held.
    ///
    /// # Errors
    /// When there is no such lease of this lock, or it is not held any more.
    pub async fn renew(&self, lock: &str, lease: &str) -> Result<(u64, Duration), Problem> {
        let borrowed = {
            let leases = self.leases();
            let kept = leases.get(lease).filter(|kept| kept.lock == lock).ok_or_else(|| no_lease(lock))?;
            Kept {
                lock: kept.lock.clone(),
                token: kept.token,
                questions: kept.questions.clone(),
                ended: kept.ended.clone(),
            }
        };
        Ok((borrowed.token, borrowed.renew().await?))
    }

    /// Gives back the lock of this lease.
    ///
    /// # Errors
    /// As for [`Self::renew`]; then the lease is forgotten all the same.
    pub async fn release(&self, lock: &str, lease: &str) -> Result<(), Problem> {
        let kept = {
            let mut leases = self.leases();
            let known = leases.get(lease).is_some_and(|kept| kept.lock == lock);
            if known { leases.remove(lease) } else { None }
        };
        kept.ok_or_else(|| no_lease(lock))?.release().await
    }

    /// Gives everything back, as the sidecar ends.
    pub async fn close(&self) {
        self.closing.send_replace(true);
        let all = u32::try_from(MOST_LOCKS).unwrap_or(u32::MAX);
        // What is not given back by then is free when its time is up.
        let _ = timeout(FAREWELL, self.slots.acquire_many(all)).await;
    }

    fn leases(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_lease(lock: &str) -> Problem {
    Problem::unknown(format!("lock {lock} is not held here by a lease of this id: acquire it"))
}

/// Until it is lost, or nobody wants it any more. The reason, if it is lost; `end` is told why it ended in any case.
async fn keep<R: Register<State = LockState>>(
    held: Held<R>,
    silence: Option<Duration>,
    mut asked: mpsc::Receiver<Question>,
    mut closing: watch::Receiver<bool>,
    end: &watch::Sender<Option<String>>,
) -> Option<String> {
    let mut until = silence.map(|silence| Instant::now() + silence);
    let unwanted = loop {
        let closed = async { drop(closing.wait_for(|closing| *closing).await) };
        let silent = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let question = tokio::select! {
            biased;
            reason = held.lost() => {
                end.send_replace(Some(reason.clone()));
                return Some(reason);
            }
            question = asked.recv() => question,
            () = silent => {
                let silence = silence.unwrap_or_default().as_secs_f64();
                break format!("it was given back after {silence} s without a renewal");
            }
            () = closed => break "the sidecar is ending, and gave it back".to_owned(),
        };
        match question {
            Some(Question::Renew(reply)) => {
                until = silence.map(|silence| Instant::now() + silence);
                let _ = reply.send(held.valid_for());
            }
            Some(Question::Release(reply)) => {
                end.send_replace(Some("it was given back".to_owned()));
                let _ = reply.send(held.release().await);
                return None;
            }
            None => break "nobody wants it any more".to_owned(),
        }
    };
    end.send_replace(Some(unwanted));
    // If there is no answer, it is tried on in the background.
    let _ = held.release().await;
    None
}
