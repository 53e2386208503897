//! The local API: what the containers of a pod, in any language, ask of their sidecar by HTTP under `/v1`.
//!
//! `listen -> guard -> stamp -> routes`, and a file for each kind of thing that can be asked for.

pub mod backend;
mod clock;
mod configs;
mod counters;
mod guard;
mod handles;
mod input;
mod json;
mod keeper;
pub mod listen;
mod locks;
mod openapi;
mod problem;
mod queues;
mod routes;
mod stream;

use std::sync::Arc;

use axum::Router;
use quorate_coordination::{Counter, Process, Queue, Session};

use crate::Shared;
use backend::Backend;
use handles::Handles;
use input::Container;
pub use input::{MOST_BYTES, is_label};
use keeper::Keeper;
pub use keeper::MOST_LOCKS;

/// See the module.
pub struct Api<B: Backend> {
    shared: Arc<Shared>,
    backend: B,
    session: Session,
    keeper: Keeper,
    counters: Handles<Counter>,
    queues: Handles<Queue<B::Queue>>,
}

impl<B: Backend> Api<B> {
    /// Of a sidecar, which takes part as `session`.
    #[must_use]
    pub fn new(shared: Arc<Shared>, backend: B, session: Session) -> Arc<Self> {
        let keeper = Keeper::new(Arc::clone(&shared));
        Arc::new(Self { shared, backend, session, keeper, counters: Handles::default(), queues: Handles::default() })
    }

    /// What answers.
    pub fn router(self: &Arc<Self>) -> Router {
        routes::router(self)
    }

    /// Gives back all locks, as the sidecar ends.
    pub async fn close(&self) {
        self.keeper.close().await;
    }

    /// The participant that is this container, if it is known.
    ///
    /// It is made anew for each request: that says that the container's process lives **now**, and what is held for it must not
    /// be taken for what an earlier process of the container held.
    fn session_of(&self, container: Container) -> Session {
        let options = &self.shared.options;
        let session = self.session.clone();
        if options.pod_name.is_empty() || options.pod_uid.is_empty() {
            return session;
        }
        let container = container.0.or_else(|| options.container.clone());
        session.of_process(Process::of_pod(options.pod_name.clone(), options.pod_uid.clone(), container))
    }
}

/// The sidecar as a participant, with the clocks that all its parts share.
///
/// # Errors
/// When the system has no randomness to give.
pub fn session(shared: &Shared) -> std::io::Result<Session> {
    let pod = &shared.options.pod_name;
    let session = Session::new(if pod.is_empty() { "quorate-sidecar" } else { pod })?;
    Ok(Session { lamport: Arc::clone(&shared.lamport), hlc: Arc::clone(&shared.hlc), ..session })
}
