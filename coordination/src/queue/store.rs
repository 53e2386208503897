//! Where a queue and its items are kept: each of them is a register, and all items together can be listed and watched.

use std::future::Future;

use futures::stream::BoxStream;

use super::{item::Item, state::QueueState};
use crate::{Failure, Register, Version, Versioned};

/// See the module.
pub trait Store: Send + Sync + 'static {
    /// The queue's own register.
    type Queue: Register<State = QueueState>;
    /// An item's register. The default version is that of an item that does not exist.
    type Item: Register<State = Item, Version: Default + Version>;

    /// The queue's own register.
    fn queue(&self) -> &Self::Queue;

    /// The item in the object of this name.
    fn item(&self, name: &str) -> Self::Item;

    /// Tells of all items of which this is asked, as of one moment, and gives the token of that moment. By quorum, never from a cache.
    ///
    /// # Errors
    /// See [`Failure`]. Some items may have been told of by then.
    fn list(
        &self,
        which: Which,
        each: &mut (dyn FnMut(String, Versioned<Item, VersionOf<Self>>) + Send),
    ) -> impl Future<Output = Result<u64, Failure>> + Send;

    /// What happens to live items after the moment with this token, in the order in which it does. It may end at any time, and is
    /// to be taken up again from where it was.
    fn watch(&self, from: u64) -> BoxStream<'static, Event<VersionOf<Self>>>;

    /// Deletes an item, if this is its version.
    ///
    /// # Errors
    /// See [`Failure`].
    fn remove(&self, name: &str, version: &VersionOf<Self>) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The version of an item.
pub type VersionOf<S> = <<S as Store>::Item as Register>::Version;

/// Some of a queue's items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// Those that are ready or claimed.
    Live,
    /// Those that were handed out too often.
    Dead,
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum Event<V> {
    /// A live item is like this.
    Is(String, Box<Versioned<Item, V>>),
    /// An item is no live one since the moment with this token: acknowledged, dead or deleted.
    Gone(String, u64),
    /// All until the moment with this token was told.
    Until(u64),
    /// What happened cannot be told, for this reason: list them again.
    Broken(String),
}
