//! The clock by which a sidecar's knowledge ages: one that goes on while the machine sleeps.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// See the module. Only differences mean something.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Duration;
}

/// The system's, since boot, sleep included.
#[derive(Clone, Copy, Debug, Default)]
pub struct Boottime;

impl Clock for Boottime {
    fn now(&self) -> Duration {
        // Neither is ever negative or out of range.
        let time = clock_gettime(ClockId::Boottime);
        Duration::new(time.tv_sec.try_into().unwrap_or_default(), time.tv_nsec.try_into().unwrap_or_default())
    }
}

/// Tokio's, which tests can turn: it stands still while the machine sleeps.
#[derive(Clone, Copy, Debug)]
pub struct Virtual(tokio::time::Instant);

impl Default for Virtual {
    fn default() -> Self {
        Self(tokio::time::Instant::now())
    }
}

impl Clock for Virtual {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
