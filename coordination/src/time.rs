//! The two clocks: one by which validity and expiry are judged, and the wall's, which is only shown.

use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// See the module.
pub trait Clock: Send + Sync {
    /// Now, since some time in the past; it goes on while the machine sleeps and is never set. Only
    /// differences mean something.
    fn now(&self) -> Duration;

    /// Now, on the wall: it may be an hour off. Nothing is decided by it.
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }
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

    fn wall(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + self.0.elapsed()
    }
}
