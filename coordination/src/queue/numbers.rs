//! The task that takes numbers for all who send by a handle: those who ask while a write is under way go into the next one.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};

use super::{
    error::QueueError,
    state::{Numbers, QueueState},
    store::Store,
    turn::{Look, Turn},
    view::View,
};
use crate::{Register, Stamped, Stamps, Undone, Versioned};

/// Items whose numbers are taken in one write.
const MAX_BATCH: usize = 1024;

/// An item's number.
pub(super) struct Number {
    pub sequence: i64,
    /// Those of the write that took it.
    pub stamps: Stamps,
    pub queue_uid: String,
    _under_way: UnderWay,
}

/// An item that may be sent at any moment: it counts, although nobody sees it yet.
struct UnderWay(Arc<AtomicI64>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Somebody who asks for a number.
pub(super) struct Ask {
    pub until: Instant,
    pub reply: oneshot::Sender<Result<Number, QueueError>>,
}

/// See the module.
pub(super) struct Numberer<S: Store> {
    view: Arc<View<S>>,
    limit: std::time::Duration,
    asks: mpsc::Receiver<Ask>,
    known: Option<KnownQueue<S>>,
    turn: Turn,
    under_way: Arc<AtomicI64>,
}

type KnownQueue<S> = Versioned<QueueState, <<S as Store>::Queue as Register>::Version>;

impl<S: Store> Numberer<S> {
    pub fn new(view: Arc<View<S>>, limit: std::time::Duration, asks: mpsc::Receiver<Ask>) -> Self {
        Self { view, limit, asks, known: None, turn: Turn::default(), under_way: Arc::default() }
    }

    /// Until the last handle is gone.
    pub async fn run(mut self) {
        while let Some(first) = self.asks.recv().await {
            // Others who were answered just now ask again at once.
            tokio::task::yield_now().await;
            let mut asks = self.gathered(first);
            if let Err(error) = self.serve(&mut asks).await {
                for ask in asks {
                    // Who has gone meanwhile cannot be told.
                    let _ = ask.reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// The one who asks, and all others who do.
    fn gathered(&mut self, first: Ask) -> Vec<Ask> {
        let mut asks = vec![first];
        while let (true, Ok(ask)) = (asks.len() < MAX_BATCH, self.asks.try_recv()) {
            asks.push(ask);
        }
        // Who does not wait for it any more did not want it.
        asks.retain(|ask| !ask.reply.is_closed());
        let now = Instant::now();
        let (asks, late): (Vec<Ask>, Vec<Ask>) = asks.into_iter().partition(|ask| ask.until > now);
        for ask in late {
            let why = "others were before it, and the API server is slow or does not answer".to_owned();
            let late = Undone::TimedOut { register: self.view.store.queue().name(), limit: self.limit, why };
            let _ = ask.reply.send(Err(late.into()));
        }
        asks
    }

    /// Gives a number to each, as long as there is room; those who get none are left.
    async fn serve(&mut self, asks: &mut Vec<Ask>) -> Result<(), QueueError> {
        let view = Arc::clone(&self.view);
        let mut using = None;
        while !asks.is_empty() {
            let counted = self.length();
            let (state, numbers) = self.take(asks.len(), counted).await?;
            for (ask, sequence) in asks.drain(..usize::try_from(numbers.count).unwrap_or_default()).zip(numbers.first..)
            {
                self.under_way.fetch_add(1, Ordering::SeqCst);
                let under_way = UnderWay(Arc::clone(&self.under_way));
                let (stamps, queue_uid) = (state.stamps(), state.uid.clone());
                let _ = ask.reply.send(Ok(Number { sequence, stamps, queue_uid, _under_way: under_way }));
            }
            if !asks.is_empty() {
                if counted.is_some() {
                    let (queue, max) = (self.view.store.queue().name(), state.spec.max_length);
                    return Err(QueueError::Full { queue, length: numbers.length, max });
                }
                // The queue itself tells only how many there are at most.
                using = Some(view.using());
                view.current(self.limit).await?;
            }
        }
        drop(using);
        Ok(())
    }

    /// How many items there are, if that is known, with those that are under way from here.
    fn length(&self) -> Option<i64> {
        let length = i64::try_from(self.view.length()?).unwrap_or(i64::MAX);
        Some(length.saturating_add(self.under_way.load(Ordering::SeqCst)))
    }

    async fn take(&mut self, wanted: usize, length: Option<i64>) -> Result<(QueueState, Numbers), QueueError> {
        let (queue, session) = (self.view.store.queue(), &self.view.session);
        let (wanted, driver) = (i64::try_from(wanted).unwrap_or(i64::MAX), session.driver(self.limit));
        let known = if self.turn.among_others() { Some(self.turn().await?) } else { self.known.take() };
        let done = driver.run(queue, known, |at| session.stamped(&at.state, at.state.number(wanted, length))).await?;
        let Numbers { first, count, .. } = done.outcome;
        if count > 0 {
            self.turn.took(session.clock.now(), first, first + count - 1);
        }
        self.known = Some(done.at.clone());
        Ok((done.at.state, done.outcome))
    }

    /// Waits for one's turn among others; the queue as it is then.
    async fn turn(&self) -> Result<KnownQueue<S>, QueueError> {
        let (session, mut look) = (&self.view.session, Look::default());
        let mut wait = self.turn.wait(session.clock.now());
        loop {
            sleep(wait).await;
            let now = session.driver(self.limit).read(self.view.store.queue()).await?;
            match self.turn.early(&mut look, now.state.status.sequence) {
                Some(early) => wait = early,
                None => return Ok(now),
            }
        }
    }
}
