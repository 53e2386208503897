//! Coordination on nothing but the Kubernetes API: locks, elections, counters, queues and clocks.
//!
//! Every primitive is a pure state machine, which [`Driver`] runs over any [`Register`].

pub mod clusters;
pub mod counter;
mod driver;
mod election;
mod hlc;
mod kube_register;
mod lamport;
pub mod lock;
mod pace;
pub mod queue;
pub mod quorum;
mod random;
pub mod redlock;
mod register;
mod session;
mod sim;
mod stamped;
mod time;

pub use counter::{Answer, Counter, CounterError, CounterState};
pub use driver::{Done, Driver, Step, Undone};
pub use election::{Election, Leadership};
pub use hlc::{Hlc, MAX_AHEAD, Stamp, TooFarAhead};
pub use kube_register::{KubeRegister, ObjectVersion, Stored};
pub use lamport::Lamport;
pub use lock::{Held, Lock, LockError, LockState, Mode};
pub use pace::Pace;
pub use queue::{Delivery, Payload, Queue, QueueError, Sent};
pub use quorum::QuorumRegister;
pub use random::Random;
pub use redlock::{RedLock, RedLockError};
pub use register::{Failure, Register, Version, Versioned};
pub use session::{Process, Session};
pub use sim::{Fault, SimRegister};
pub use stamped::{Stamped, Stamps};
pub use time::{Boottime, Clock, Virtual};
