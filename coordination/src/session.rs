//! Who takes part: one process, or one client of a process that serves many.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::{Boottime, Clock, Driver, Hlc, Lamport, Random};

/// What all primitives of one participant share. Cheap to clone.
#[derive(Clone)]
pub struct Session {
    /// What people know it by: a pod's name.
    pub identity: String,
    /// What tells it from all others that ever were, also from itself after a restart.
    pub id: String,
    /// By which validity and expiry are judged.
    pub clock: Arc<dyn Clock>,
    /// Of ids and jitter.
    pub random: Arc<Random>,
    /// Its Lamport clock: every operation carries a stamp.
    pub lamport: Arc<Lamport>,
    /// Its hybrid logical clock.
    pub hlc: Arc<Hlc>,
    /// Its process, as a kubelet knows it.
    pub process: Option<Process>,
}

/// A process, as its kubelet knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    /// The pod's name.
    pub pod: String,
    /// The pod's uid.
    pub uid: String,
    /// The container; without one it ends with the last container of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// A time at which it lived, by its node's clock, which is kubelet's too: it tells the container's process from the one
    /// that is started after it.
    pub alive: Timestamp,
}

impl Process {
    /// This process, which lives now, in this container of this pod.
    #[must_use]
    pub fn of_pod(pod: String, uid: String, container: Option<String>) -> Self {
        // Asked of the kernel: what tools put before the C library, to test with a wrong time, does not count here.
        let now = clock_gettime(ClockId::Realtime);
        let nanos = i32::try_from(now.tv_nsec).unwrap_or_default();
        Self { pod, uid, container, alive: Timestamp::new(now.tv_sec, nanos).unwrap_or_default() }
    }
}

impl Session {
    /// A participant with the system's clock and randomness.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn new(identity: &str) -> std::io::Result<Self> {
        Ok(Self::with(identity, Arc::new(Boottime), Arc::new(Random::from_system()?)))
    }

    /// A participant with this clock and this randomness: for simulations.
    #[must_use]
    pub fn with(identity: &str, clock: Arc<dyn Clock>, random: Arc<Random>) -> Self {
        let (identity, id) = (identity.to_owned(), random.id());
        Self { identity, id, clock, random, lamport: Arc::default(), hlc: Arc::default(), process: None }
    }

    /// The same participant, which is this process: what it holds ends when the kubelet says that the process has ended.
    #[must_use]
    pub fn of_process(self, process: Process) -> Self {
        Self { process: Some(process), ..self }
    }

    /// A driver of operations that may take this long.
    #[must_use]
    pub fn driver(&self, limit: Duration) -> Driver<'_> {
        Driver { clock: &*self.clock, random: &self.random, limit }
    }
}
