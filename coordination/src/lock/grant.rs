//! For how long a grant is valid, when it is renewed, and why it is lost: what a holder and its keeper share.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::watch;

use crate::Session;

/// Between two tries to renew when that fails.
pub const RETRY: Duration = Duration::from_millis(250);

/// Until a grant of this time is renewed: a third of it, less some, so that many who began together do not go on together.
pub fn interval(ttl: Duration, session: &Session) -> Duration {
    let third = ttl / 3;
    third.saturating_sub(session.random.up_to(third / 10))
}

/// See the module.
#[derive(Default)]
pub struct Grant {
    /// Until when it is valid, in nanoseconds of the session's clock.
    until: AtomicU64,
    /// Why it is lost.
    lost: watch::Sender<Option<String>>,
}

impl Grant {
    pub fn left(&self, now: Duration) -> Duration {
        if self.lost.borrow().is_some() {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.until.load(Ordering::Acquire)).saturating_sub(now)
    }

    /// Until loss is told: a tenth of its time before it ends.
    pub fn left_to_renew(&self, now: Duration, ttl: Duration) -> Duration {
        self.left(now).saturating_sub(ttl / 10)
    }

    pub fn extend(&self, until: Duration) {
        let nanos = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.until.fetch_max(nanos, Ordering::AcqRel);
    }

    pub fn lose(&self, reason: String) {
        self.lost.send_replace(Some(reason));
    }

    /// Returns, with the reason, when it is lost.
    pub async fn lost(&self) -> String {
        let mut lost = self.lost.subscribe();
        match lost.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "its keeper ended".to_owned(),
        }
    }
}
