//! Stores that break what the queue relies on, one thing each: the checks must find it.

use futures::stream::BoxStream;
use quorate_coordination::{
    Failure, Register, Versioned,
    queue::{Event, Item, SimItem, SimQueue, SimStore, Store, Which},
};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// A write is done whatever the present version is.
    Unconditional,
    /// An item that is made is said to be, and is not.
    Forgetful,
    /// What is acknowledged is made ready again.
    Undone,
}

/// See the module.
#[derive(Clone)]
pub struct Broken(pub SimStore, pub Fault);

pub struct BrokenItem {
    item: SimItem,
    fault: Fault,
}

impl Register for BrokenItem {
    type State = Item;
    type Version = u64;

    async fn read(&self) -> Result<Versioned<Item, u64>, Failure> {
        self.item.read().await
    }

    async fn compare_and_swap(&self, base: &u64, next: &Item) -> Result<u64, Failure> {
        match self.fault {
            Fault::Unconditional => loop {
                let now = self.item.read().await?.version;
                match self.item.compare_and_swap(&now, next).await {
                    Err(Failure::Conflict) => {}
                    answer => return answer,
                }
            },
            Fault::Forgetful if *base == 0 => Ok(1),
            Fault::Undone if next.state() == quorate_crds::QueueItemState::Acknowledged => {
                let version = self.item.compare_and_swap(base, next).await?;
                let again = Item { status: quorate_crds::QueueItemStatus::default(), ..next.clone() };
                self.item.compare_and_swap(&version, &again).await
            }
            _ => self.item.compare_and_swap(base, next).await,
        }
    }

    fn watch(&self, from: &u64) -> BoxStream<'static, Option<Versioned<Item, u64>>> {
        self.item.watch(from)
    }

    fn name(&self) -> String {
        self.item.name()
    }
}

impl Store for Broken {
    type Queue = SimQueue;
    type Item = BrokenItem;

    fn queue(&self) -> &SimQueue {
        self.0.queue()
    }

    fn item(&self, name: &str) -> BrokenItem {
        BrokenItem { item: self.0.item(name), fault: self.1 }
    }

    async fn list(
        &self,
        which: Which,
        each: &mut (dyn FnMut(String, Versioned<Item, u64>) + Send),
    ) -> Result<u64, Failure> {
        self.0.list(which, each).await
    }

    fn watch(&self, from: u64) -> BoxStream<'static, Event<u64>> {
        self.0.watch(from)
    }

    async fn remove(&self, name: &str, version: &u64) -> Result<(), Failure> {
        self.0.remove(name, version).await
    }
}
