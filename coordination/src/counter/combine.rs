//! The task that writes for all callers of a handle: what they ask for while a write is under way, or while it is the turn of
//! other writers, goes into the next one.

use std::time::Duration;

use futures::{StreamExt, stream::BoxStream};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

use super::{
    Answer, CounterError,
    key::Key,
    state::{Batch, CounterState, Operation, Outcome, Signature},
    turns::Turns,
};
use crate::{Done, Register, Session, Step, Undone, Version, Versioned};

/// Operations in one write.
const MAX_BATCH: usize = 4096;
/// What was known after the last write is not used any more after this: somebody will have written since, or
/// forgotten this writer.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What a caller asks for.
pub(super) struct Call {
    pub operation: Operation,
    pub key: Option<Key>,
    pub until: Instant,
    pub reply: oneshot::Sender<Result<Answer, CounterError>>,
}

/// See the module.
pub(super) struct Combiner<R: Register<State = CounterState>> {
    register: R,
    session: Session,
    limit: Duration,
    calls: mpsc::Receiver<Call>,
    writer: Option<Writer>,
    /// The state after the last write, and when that was.
    known: Option<(At<R>, Duration)>,
    turns: Turns,
    /// Tells the writer of this id of its turns.
    told: Option<(String, BoxStream<'static, Option<At<R>>>)>,
}

type At<R> = Versioned<CounterState, <R as Register>::Version>;

/// Under what it is registered.
#[derive(Clone)]
struct Writer {
    id: String,
    /// Of the last batch that may have been applied.
    sequence: i64,
    /// The Lamport stamp of its last write.
    last: i64,
}

impl<R: Register<State = CounterState>> Combiner<R> {
    pub fn new(register: R, session: Session, limit: Duration, calls: mpsc::Receiver<Call>) -> Self {
        Self { register, session, limit, calls, writer: None, known: None, turns: Turns::default(), told: None }
    }

    /// Until the last handle is gone.
    pub async fn run(mut self) {
        while let Some(first) = self.calls.recv().await {
            // Others who were answered just now ask again at once.
            tokio::task::yield_now().await;
            let mut calls = vec![first];
            self.gather(&mut calls);
            let done = if calls.iter().all(|call| call.operation == Operation::Get) {
                self.read(calls.len()).await
            } else {
                self.write(&mut calls).await
            };
            self.answer(calls, done);
        }
        self.leave().await;
    }

    /// All others that wait, too, but for those whose time is up.
    fn gather(&mut self, calls: &mut Vec<Call>) {
        while let (true, Ok(call)) = (calls.len() < MAX_BATCH, self.calls.try_recv()) {
            calls.push(call);
        }
        // Who does not wait for it any more did not want it.
        calls.retain(|call| !call.reply.is_closed());
        let now = Instant::now();
        for call in calls.extract_if(.., |call| call.until <= now) {
            let why = "others were before it, and the API server is slow or does not answer".to_owned();
            let late = Undone::TimedOut { register: self.register.name(), limit: self.limit, why };
            let _ = call.reply.send(Err(late.into()));
        }
        // As a batch has them.
        calls.sort_by_key(|call| call.key.is_some());
    }

    /// Waits for one's turn, where others write too.
    async fn turn(&mut self, id: &str) {
        let now = self.session.clock.now();
        let Some((mut seen, since)) = self.known.take().filter(|(_, since)| *since + REMEMBERED > now) else { return };
        let before = seen.state.before(id).unwrap_or_default();
        if before == 0 {
            // It is alone.
            (self.known, self.told) = (Some((seen, since)), None);
            return;
        }
        if !self.turns.busy() {
            // It is old, most likely: to read it costs less than a write in vain.
            self.told = None;
            return;
        }
        let mut wait = (since + self.turns.patience(before, &self.session.random)).saturating_sub(now);
        loop {
            if let Ok(at) = timeout(wait, self.told(id, &seen.version)).await {
                self.know(at);
                return;
            }
            // In trouble the operation will find it too, and tell of it.
            let Ok(at) = self.session.driver(self.limit).read(&self.register).await else { return };
            let (before, stalled) = (at.state.before(id).unwrap_or_default(), at.version == seen.version);
            if before == 0 {
                // The watch should have told.
                self.told = None;
            }
            if before == 0 || stalled {
                self.know(at);
                return;
            }
            wait = self.turns.patience(before, &self.session.random);
            seen = at;
        }
    }

    /// Waits until the watch says that it is this writer's turn.
    async fn told(&mut self, id: &str, after: &R::Version) -> At<R> {
        let open = || (id.to_owned(), self.register.watch_for(after, id));
        let (_, events) = match self.told.take().filter(|(of, _)| of == id) {
            Some(told) => self.told.insert(told),
            None => self.told.insert(open()),
        };
        while let Some(event) = events.next().await {
            let news = event.filter(|at| at.version.token() > after.token());
            if let Some(at) = news.filter(|at| at.state.before(id) == Some(0)) {
                return at;
            }
        }
        // It has ended, and is opened again at the next turn.
        self.told = None;
        std::future::pending().await
    }

    fn know(&mut self, at: At<R>) {
        self.known = Some((at, self.session.clock.now()));
    }

    /// Tells callers what came of it, each what concerns it. Who has gone meanwhile cannot be told.
    fn answer(&self, calls: Vec<Call>, done: Result<Served<R>, CounterError>) {
        let (outcomes, at) = match done {
            Ok(done) => done,
            Err(error) => {
                for call in calls {
                    let _ = call.reply.send(Err(error.clone()));
                }
                return;
            }
        };
        for (call, outcome) in calls.into_iter().zip(outcomes) {
            let refused = |why| CounterError::refused(&self.register, why);
            let told = outcome.map_err(refused).map(|change| Answer::new(change, at.version.token(), &at.state));
            let _ = call.reply.send(told);
        }
    }

    /// Reads it for so many callers: who does nothing else needs no right to write.
    async fn read(&mut self, callers: usize) -> Result<Served<R>, CounterError> {
        let at = self.session.driver(self.limit).read(&self.register).await?;
        self.see(&at.state);
        let value = at.state.status.value;
        let outcome = Ok(super::Change { before: value, after: value });
        Ok((vec![outcome; callers], at))
    }

    /// Does what these ask for, and those who come until it is this writer's turn.
    async fn write(&mut self, calls: &mut Vec<Call>) -> Result<Served<R>, CounterError> {
        loop {
            let id = match &self.writer {
                Some(writer) => writer.id.clone(),
                None => self.register().await?,
            };
            self.turn(&id).await;
            self.gather(calls);
            let Some(writer) = &mut self.writer else { continue };
            writer.sequence += 1;
            let writer = writer.clone();
            let batch = batch(calls, &writer);
            let mut sent = false;
            let done = self.operate(|state, signature| {
                let step = state.apply(&batch, signature);
                sent |= matches!(step, Step::Write(..));
                step
            });
            let Done { outcome, at, sent: since, .. } = done.await?;
            match outcome {
                Some(outcomes) => {
                    self.wrote(&writer, &at, since);
                    return Ok((outcomes, at));
                }
                // It was idle for long, or the counter was made again: another id is needed, and nothing has happened.
                None if !sent => self.writer = None,
                None => {
                    self.writer = None;
                    return Err(CounterError::Forgotten { counter: self.register.name() });
                }
            }
        }
    }

    /// Registers under a new id.
    async fn register(&mut self) -> Result<String, CounterError> {
        let id = self.session.random.id();
        let began = self.session.clock.now();
        let entered = self.operate(|state, signature| state.register(&id, signature)).await?;
        let Done { outcome: room, at, conflicts, .. } = entered;
        if !room {
            return Err(CounterError::Full { counter: self.register.name() });
        }
        let now = self.session.clock.now();
        self.turns.entered(now, now.saturating_sub(began), conflicts);
        let last = at.state.status.lamport;
        self.writer = Some(Writer { id: id.clone(), sequence: 0, last });
        Ok(id)
    }

    /// Others need not wait until it has been idle for long.
    async fn leave(&mut self) {
        let Some(Writer { id, .. }) = self.writer.take() else { return };
        // If this fails, it is forgotten in time.
        let _ = self.operate(|state, signature| state.leave(&id, signature)).await;
    }

    /// Runs an operation of the state machine, signed.
    async fn operate<O>(
        &mut self,
        mut operation: impl FnMut(&CounterState, &Signature) -> Step<CounterState, O>,
    ) -> Result<Done<R, O>, Undone> {
        let known = self.known.take().map(|(at, _)| at);
        let session = &self.session;
        let signed = |at: &At<R>| operation(&at.state, &signature(session, &at.state));
        let done = session.driver(self.limit).run(&self.register, known, signed).await?;
        self.see(&done.at.state);
        self.know(done.at.clone());
        Ok(done)
    }

    fn see(&self, state: &CounterState) {
        self.session.lamport.see(state.status.lamport);
        if let Err(far) = self.session.hlc.see(state.hlc(), self.session.clock.wall()) {
            tracing::debug!(counter = self.register.name(), "{far}");
        }
    }

    /// How fast all write is known anew.
    fn wrote(&mut self, writer: &Writer, at: &At<R>, began: Duration) {
        let Some(entry) = at.state.status.writers.get(&writer.id) else { return };
        if entry.lamport == writer.last {
            // All was refused, or changed nothing.
            return;
        }
        let now = self.session.clock.now();
        self.turns.wrote(now, now.saturating_sub(began), at.state.others_since(writer.last, &writer.id));
        if let Some(written) = &mut self.writer {
            written.last = entry.lamport;
        }
    }
}

/// What came of each call, and the state in which it did.
type Served<R> = (Vec<Outcome>, At<R>);

/// What a write that is based on this state says of itself.
fn signature(session: &Session, state: &CounterState) -> Signature {
    let Session { lamport, hlc, clock, identity, process, .. } = session;
    lamport.see(state.status.lamport);
    let at = clock.wall();
    Signature {
        by: identity.chars().take(253).collect(),
        uid: process.as_ref().map(|process| process.uid.clone()),
        lamport: lamport.tick(),
        hlc: hlc.above(state.hlc(), at),
        at: at.round(jiff::Unit::Second).unwrap_or(at),
    }
}

/// The next batch of a writer. Calls with a key come last.
fn batch(calls: &[Call], writer: &Writer) -> Batch {
    let keyed = calls.iter().filter_map(|call| Some((call.key.clone()?, call.operation)));
    let plain = calls.iter().filter(|call| call.key.is_none()).map(|call| call.operation);
    let (plain, keyed) = (plain.collect(), keyed.collect());
    Batch { writer: writer.id.clone(), sequence: writer.sequence, plain, keyed }
}
