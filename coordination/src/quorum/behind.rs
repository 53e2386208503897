//! Members that were not asked to accept a value, since others are quicker: they are told of the last one a moment later, so that they
//! are not far behind when they are needed.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use tokio::time::sleep;

use super::{AcceptorState, Ballot, Member, Value};
use crate::Register;

/// They are behind for so long at most, while they answer.
const MOMENT: Duration = Duration::from_millis(100);

/// What they are to accept.
pub(super) struct Late<S, R: Register> {
    pub members: Vec<Arc<Member<S, R>>>,
    pub ballot: Ballot,
    pub value: S,
    /// What they promise with it.
    pub next: Ballot,
}

/// See the module.
pub(super) struct Behind<S, R: Register>(Arc<Mutex<State<S, R>>>);

struct State<S, R: Register> {
    last: Option<Late<S, R>>,
    /// Whether somebody will tell them.
    told: bool,
}

impl<S, R: Register> Default for Behind<S, R> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { last: None, told: false })))
    }
}

impl<S: Value, R: Register<State = AcceptorState<S>>> Behind<S, R> {
    /// They are told of this, or of what comes after it. If something later came to them meanwhile, they refuse.
    pub fn follow(&self, late: Late<S, R>) {
        let mut state = locked(&self.0);
        state.last = Some(late);
        if !std::mem::replace(&mut state.told, true) {
            tokio::spawn(tell(Arc::clone(&self.0)));
        }
    }
}

async fn tell<S: Value, R: Register<State = AcceptorState<S>>>(behind: Arc<Mutex<State<S, R>>>) {
    loop {
        sleep(MOMENT).await;
        let last = {
            let mut state = locked(&behind);
            state.told = state.last.is_some();
            state.last.take()
        };
        let Some(Late { members, ballot, value, next }) = last else { return };
        // What they answer decides nothing.
        join_all(members.iter().map(|member| member.accept(&ballot, &value, &next))).await;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
