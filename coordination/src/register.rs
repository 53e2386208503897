//! A register: one value that is replaced as a whole, and only by who knows its present version.
//!
//! Everything else in this crate is made of registers. One Kubernetes object is one
//! ([`crate::KubeRegister`]), a quorum of clusters is another, and [`crate::SimRegister`] is one in memory
//! for models and tests.

use std::{fmt::Debug, future::Future};

use futures::stream::BoxStream;

/// See the module.
pub trait Register: Send + Sync + 'static {
    /// The value.
    type State: Clone + Send + Sync + 'static;
    /// What names one version of the value.
    type Version: Version;

    /// The latest value: a quorum read, never a cache.
    ///
    /// # Errors
    /// [`Failure::Refused`] or, when there was no answer, [`Failure::Unknown`].
    fn read(&self) -> impl Future<Output = Result<Versioned<Self::State, Self::Version>, Failure>> + Send;

    /// Writes `next` if the version still is `base`, and gives the version written.
    ///
    /// # Errors
    /// See [`Failure`]: it matters which.
    fn compare_and_swap(
        &self,
        base: &Self::Version,
        next: &Self::State,
    ) -> impl Future<Output = Result<Self::Version, Failure>> + Send;

    /// Versions newer than `from`, as they come. A hint: it may be late, skip versions, and end at any
    /// time, upon which the caller reads and watches again. `None` says that something happened that only
    /// a read can tell.
    fn watch(&self, from: &Self::Version) -> BoxStream<'static, Option<Versioned<Self::State, Self::Version>>>;

    /// The same, of versions that concern this one only, where that can be told.
    fn watch_for(
        &self,
        from: &Self::Version,
        _concerned: &str,
    ) -> BoxStream<'static, Option<Versioned<Self::State, Self::Version>>> {
        self.watch(from)
    }

    /// What errors call it: kind, namespace and name.
    fn name(&self) -> String;
}

/// The version of a register's value.
pub trait Version: Clone + Debug + PartialEq + Send + Sync + 'static {
    /// A number that rises with every write, also over deletion: the fencing token of who wrote it.
    /// 0 of a register that was never written.
    fn token(&self) -> u64;
}

/// A value, and which version of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Versioned<S, V> {
    /// The value.
    pub state: S,
    /// Its version.
    pub version: V,
}

/// Why a read or a write gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nothing was written: the base is not the present version.
    #[error("another write came first")]
    Conflict,
    /// It may have been written, or may be yet: no answer, or one that does not tell.
    #[error("{0}")]
    Unknown(String),
    /// Nothing was written, and nothing will be as long as the request is the same.
    #[error("{0}")]
    Refused(String),
}
