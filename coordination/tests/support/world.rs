//! A lock's register in virtual time, as clients find a real one behind a network: requests and replies are lost or
//! late, writes are done late or twice, watches are late, skip and end, clients are cut off for a while or for good, and their clocks
//! run at rates of their own.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream::BoxStream};
use jiff::Timestamp;
use quorate_coordination::{Clock, Failure, LockState, Random, Register, Versioned};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    contender::{Place, choose},
    history::{Event, Seen},
};

/// How bad it is.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Of a hundred calls, how many something befalls.
    pub faults: usize,
    /// Requests and replies take up to this.
    pub latency: Duration,
    /// A call that is not answered ends after this.
    pub limit: Duration,
    /// Clients are cut off for up to this.
    pub cut: Duration,
    /// Whether a write is refused that is based on an older version. Without, nothing can be right.
    pub checks_versions: bool,
    /// Whether what the lock protects refuses lower tokens.
    pub fenced: bool,
}

/// The register, and all that is noted.
pub struct World {
    weather: Weather,
    began: Instant,
    random: Random,
    present: watch::Sender<Versioned<LockState, u64>>,
    versions: Mutex<Vec<Seen>>,
    events: Mutex<Vec<Event>>,
    accepted: Mutex<Vec<u64>>,
}

impl World {
    pub fn new(weather: Weather, seed: &str) -> Arc<Self> {
        Arc::new(Self {
            weather,
            began: Instant::now(),
            random: Random::from_seed(&format!("{seed} world")),
            present: watch::Sender::new(Versioned { state: LockState::default(), version: 0 }),
            versions: Mutex::default(),
            events: Mutex::default(),
            accepted: Mutex::default(),
        })
    }

    pub fn versions(&self) -> Vec<Seen> {
        locked(&self.versions).clone()
    }

    pub fn events(&self) -> Vec<Event> {
        locked(&self.events).clone()
    }

    /// The tokens of the writes to what the lock protects, in their order.
    pub fn accepted(&self) -> Vec<u64> {
        locked(&self.accepted).clone()
    }

    fn write_state(&self, base: u64, next: &LockState) -> Result<u64, Failure> {
        let present = self.present.borrow().version;
        if present != base && self.weather.checks_versions {
            return Err(Failure::Conflict);
        }
        let version = present + 1;
        locked(&self.versions).push(Seen { token: version, state: next.clone() });
        self.present.send_replace(Versioned { state: next.clone(), version });
        Ok(version)
    }
}

impl Place for World {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn note(&self, event: Event) {
        locked(&self.events).push(event);
    }

    async fn write(&self, _: &str, token: u64) -> Option<bool> {
        let mut accepted = locked(&self.accepted);
        let good = !self.weather.fenced || accepted.last().is_none_or(|last| *last <= token);
        if good {
            accepted.push(token);
        }
        Some(good)
    }
}

/// One client's way to the register. Clones are the same way.
#[derive(Clone)]
pub struct Link {
    world: Arc<World>,
    random: Arc<Random>,
    /// Cut off until then.
    cut: Arc<Mutex<Instant>>,
    dead: Arc<AtomicBool>,
}

impl Link {
    pub fn new(world: &Arc<World>, seed: &str) -> Self {
        let random = Arc::new(Random::from_seed(&format!("{seed} link")));
        Self { world: Arc::clone(world), random, cut: Arc::new(Mutex::new(Instant::now())), dead: Arc::default() }
    }

    /// Nothing of this client arrives any more.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    fn befalls(&self) -> bool {
        choose(&self.random, 100) < self.world.weather.faults
    }

    async fn latency(&self) {
        sleep(self.random.up_to(self.world.weather.latency)).await;
    }

    /// The way there or back. What is under way when the client is cut off arrives when it is so no longer, if ever.
    async fn way(&self, deadline: Instant) -> Result<(), Failure> {
        if self.befalls() && choose(&self.random, 4) == 0 {
            *locked(&self.cut) = Instant::now() + self.random.up_to(self.world.weather.cut);
        }
        self.latency().await;
        let cut = *locked(&self.cut);
        if cut > deadline || self.dead.load(Ordering::Relaxed) {
            sleep_until(deadline).await;
            return lost();
        }
        sleep_until(cut).await;
        Ok(())
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.world.weather.limit
    }
}

impl Register for Link {
    type State = LockState;
    type Version = u64;

    async fn read(&self) -> Result<Versioned<LockState, u64>, Failure> {
        let deadline = self.deadline();
        self.way(deadline).await?;
        if self.befalls() {
            // A token that has expired, say, or a right that is missing for a moment.
            let refused = choose(&self.random, 2) == 0;
            return Err(if refused { Failure::Refused("403".to_owned()) } else { Failure::Unknown("503".to_owned()) });
        }
        let present = self.world.present.borrow().clone();
        self.way(deadline).await?;
        Ok(present)
    }

    async fn compare_and_swap(&self, base: &u64, next: &LockState) -> Result<u64, Failure> {
        let deadline = self.deadline();
        self.way(deadline).await?;
        let fault = if self.befalls() { choose(&self.random, 4) } else { usize::MAX };
        let answer = match fault {
            // Refused before it came to anything: 429, 500.
            0 => return lost(),
            // Done, and the reply is lost.
            1 => {
                let _ = self.world.write_state(*base, next);
                sleep_until(deadline).await;
                return lost();
            }
            // Done twice by something in between: the second answer is what comes back.
            2 => self.world.write_state(*base, next).and_then(|_| self.world.write_state(*base, next)),
            // No reply, and it is done at some time later.
            3 => {
                let (world, base, next) = (Arc::clone(&self.world), *base, next.clone());
                let late = self.random.up_to(self.world.weather.limit * 4);
                tokio::spawn(async move {
                    sleep(late).await;
                    let _ = world.write_state(base, &next);
                });
                sleep_until(deadline).await;
                return lost();
            }
            _ => self.world.write_state(*base, next),
        };
        self.way(deadline).await?;
        answer
    }

    fn watch(&self, from: &u64) -> BoxStream<'static, Option<Versioned<LockState, u64>>> {
        let (link, present, from) = (self.clone(), self.world.present.subscribe(), *from);
        futures::stream::unfold((link, present, from), |(link, mut present, from)| async move {
            let newer = present.wait_for(|at| at.version > from).await.ok()?.clone();
            link.way(link.deadline()).await.ok()?;
            let fault = if link.befalls() { choose(&link.random, 3) } else { usize::MAX };
            match fault {
                0 => return None,
                1 => sleep(link.random.up_to(link.world.weather.cut)).await,
                2 => return Some((None, (link, present, newer.version))),
                _ => {}
            }
            let version = newer.version;
            Some((Some(newer), (link, present, version)))
        })
        .boxed()
    }

    fn name(&self) -> String {
        "a register in virtual time".to_owned()
    }
}

/// A clock that is faster than the shared one by this factor, and whose wall is anywhere within an hour.
pub struct Skewed {
    began: Instant,
    rate: f64,
    wall: Timestamp,
}

impl Skewed {
    pub fn new(rate: f64, random: &Random) -> Self {
        let hour = Duration::from_secs(3600);
        let wall = Timestamp::UNIX_EPOCH + random.up_to(hour * 2);
        Self { began: Instant::now(), rate, wall }
    }
}

impl Clock for Skewed {
    fn now(&self) -> Duration {
        self.began.elapsed().mul_f64(self.rate)
    }

    fn wall(&self) -> Timestamp {
        self.wall + self.began.elapsed()
    }
}

fn lost<T>() -> Result<T, Failure> {
    Err(Failure::Unknown("no answer".to_owned()))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
