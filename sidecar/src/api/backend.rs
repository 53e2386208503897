//! Where the primitives are: on the API server; in memory for tests.

use std::time::Duration;

use kube::Client;
use quorate_coordination::{
    Counter, CounterError, KubeRegister, Lock, LockError, LockState, Queue, QueueError, Register, Session,
    queue::{KubeStore, Store},
};

/// An operation on a counter or a queue has this much time.
const OPERATION: Duration = Duration::from_secs(10);

/// See the module.
pub trait Backend: Clone + Send + Sync + 'static {
    /// What a lock is kept in.
    type Lock: Register<State = LockState>;
    /// What a queue is kept in.
    type Queue: Store;

    /// A lock by its name; its grants are valid for `ttl` without being renewed.
    ///
    /// # Errors
    /// When the name or the time makes no sense.
    fn lock(&self, name: &str, session: Session, ttl: Duration) -> Result<Lock<Self::Lock>, LockError>;

    /// A counter by its name.
    ///
    /// # Errors
    /// When the name makes no sense.
    fn counter(&self, name: &str, session: Session) -> Result<Counter, CounterError>;

    /// A queue by its name.
    ///
    /// # Errors
    /// When the name makes no sense.
    fn queue(&self, name: &str, session: Session) -> Result<Queue<Self::Queue>, QueueError>;
}

/// Objects on the API server, in one namespace.
#[derive(Clone)]
pub struct Objects {
    /// The API server.
    pub client: Client,
    /// The namespace.
    pub namespace: String,
}

impl Backend for Objects {
    type Lock = KubeRegister<LockState>;
    type Queue = KubeStore;

    fn lock(&self, name: &str, session: Session, ttl: Duration) -> Result<Lock<Self::Lock>, LockError> {
        Lock::on_lease(self.client.clone(), &self.namespace, name, session, ttl)
    }

    fn counter(&self, name: &str, session: Session) -> Result<Counter, CounterError> {
        Counter::on_object(self.client.clone(), &self.namespace, name, session, OPERATION)
    }

    fn queue(&self, name: &str, session: Session) -> Result<Queue<Self::Queue>, QueueError> {
        Queue::on_object(self.client.clone(), &self.namespace, name, session, OPERATION)
    }
}
