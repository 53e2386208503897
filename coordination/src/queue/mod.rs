//! Queues: work that is handed out one by one, and again until it is acknowledged.
//!
//! ```no_run
//! # async fn example(client: kube::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use quorate_coordination::{Queue, Session};
//!
//! let session = Session::new("web-0")?;
//! let queue = Queue::on_object(client, "shop", "mails", session, Duration::from_secs(10))?;
//! queue.send("to: all", Some("order-7")).await?;
//! if let Some(mail) = queue.receive(None, Duration::from_secs(20)).await? {
//!     println!("{:?}, handed out for the {}. time", mail.payload(), mail.attempts());
//!     mail.acknowledge().await?;
//! }
//! # Ok(()) }
//! ```
//!
//! **An item is handed out at least once**: again when the consumer's time is up without an acknowledgement, whatever it has done by
//! then. Each time it has another receipt, and only the present one acknowledges. A send whose answer was lost is settled, and done once.
//! Items are handed out in the order of their sequence, which is that of sends that did not overlap. Consumers that work at the same time
//! may end in any order, and to spare each other conflicts, consumers in different processes may leave the first items to each other.

mod admin;
mod delivery;
mod error;
pub mod item;
pub mod janitor;
mod kube_store;
mod limits;
mod name;
mod numbers;
mod object;
mod payload;
mod receive;
mod send;
mod shelf;
mod sim_store;
mod state;
mod store;
mod turn;
mod view;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use kube::Client;
use tokio::sync::mpsc;

pub use admin::{Length, Peeked};
pub use delivery::Delivery;
pub use error::QueueError;
pub use item::Item;
pub use kube_store::KubeStore;
pub use limits::{Invalid, LONGEST_VISIBILITY, SHORTEST_VISIBILITY};
pub use payload::Payload;
pub use send::Sent;
pub use sim_store::{SimItem, SimQueue, SimStore, Written};
pub use state::{Numbers, QueueState};
pub use store::{Event, Store, VersionOf, Which};

use crate::{Clock, Driver, Session};
use numbers::{Ask, Numberer};
use view::View;

/// Those who may wait for the next number; who comes then waits before.
const WAITING: usize = 1024;
/// A call to the API server gets no more than this of an operation's time.
const LONGEST_CALL: Duration = Duration::from_secs(5);

/// A queue by its name. Clones share what they know of it, and their sends are combined.
pub struct Queue<S: Store>(Arc<Inner<S>>);

impl<S: Store> Clone for Queue<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<S: Store> {
    view: Arc<View<S>>,
    /// The queue's own name.
    name: String,
    limit: Duration,
    asks: mpsc::Sender<Ask>,
    /// How many of the first items are left to others, in sixteenths.
    spread: AtomicU64,
    /// Microseconds that the last claim took.
    claim: AtomicU64,
}

impl Queue<KubeStore> {
    /// The queue that is this DistributedQueue, which must exist. An operation has this much time, beside that to wait for an item.
    ///
    /// Must be called in a tokio runtime, which works for it.
    ///
    /// # Errors
    /// When the name is none that a queue can have.
    pub fn on_object(
        client: Client,
        namespace: &str,
        name: &str,
        session: Session,
        limit: Duration,
    ) -> Result<Self, QueueError> {
        let store = KubeStore::new(client, namespace, name, (limit / 3).min(LONGEST_CALL));
        Self::new(store, name, session, limit)
    }
}

impl<S: Store> Queue<S> {
    /// The queue of this name in this store. See [`Queue::on_object`].
    ///
    /// # Errors
    /// When the name is none that a queue can have.
    pub fn new(store: S, name: &str, session: Session, limit: Duration) -> Result<Self, QueueError> {
        limits::queue_name(name)?;
        let (asks, waiting) = mpsc::channel(WAITING);
        let view = Arc::new(View::new(store, session));
        tokio::spawn(Numberer::new(Arc::clone(&view), limit, waiting).run());
        Ok(Self(Arc::new(Inner {
            view,
            name: name.to_owned(),
            limit,
            asks,
            spread: AtomicU64::new(0),
            claim: AtomicU64::new(0),
        })))
    }

    fn clock(&self) -> &dyn Clock {
        &*self.session().clock
    }

    fn session(&self) -> &Session {
        &self.0.view.session
    }

    fn driver(&self) -> Driver<'_> {
        self.session().driver(self.0.limit)
    }

    /// What people know this participant by, as far as there is room for it.
    fn identity(&self) -> String {
        self.session().identity.chars().take(253).collect()
    }
}
