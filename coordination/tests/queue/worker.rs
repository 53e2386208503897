//! Producers that send, and consumers that work, fail, dawdle and die, as a script says; all of it is noted.

use std::{sync::Arc, time::Duration};

use quorate_coordination::{Clock, Queue, QueueError, Random, queue::Store};
use tokio::time::sleep;

use super::history::{Delivered, Event, Notes};

/// By which all that happens is noted.
pub type Shared = Arc<dyn Fn() -> Duration + Send + Sync>;

/// How consumers behave.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// They ask for this visibility time.
    pub visibility: Duration,
    /// They work for up to this.
    pub work: Duration,
    /// Of a hundred, so many items are left without a word.
    pub abandons: u64,
    /// Of a hundred, so many are given back.
    pub releases: u64,
    /// Of a hundred, so many are extended.
    pub extends: u64,
}

/// Sends so many items with a pause before each, each with a payload of its own, and each second one under a name, which is sent twice. Gives up a send
/// only if it is full or uncertain.
pub async fn produce<S: Store>(queue: &Queue<S>, who: &str, items: usize, pause: Duration, note: &Notes) {
    for number in 0..items {
        sleep(pause).await;
        let payload = format!("{who}-{number}");
        let name = (number % 2 == 1).then_some(payload.as_str());
        loop {
            match queue.send(payload.as_str(), name).await {
                Ok(sent) => {
                    note(Event::Sent { payload: payload.clone(), item: sent.item });
                    break;
                }
                // Nothing was sent for certain.
                Err(QueueError::Full { .. }) => sleep(Duration::from_millis(50)).await,
                Err(error) => panic!("{error}"),
            }
        }
        if let Some(name) = name {
            let duplicate = queue.send("again", Some(name)).await.unwrap().duplicate;
            note(Event::SentAgain { payload, duplicate });
        }
    }
}

/// Receives, and does as its habits are, until `done` says that nothing is left.
pub async fn consume<S: Store>(
    queue: &Queue<S>,
    habits: Habits,
    random: &Random,
    rate: f64,
    now: &Shared,
    note: &Notes,
    done: impl Fn() -> bool,
) {
    while !done() {
        let wait = Duration::from_secs(5);
        let received = match queue.receive(Some(habits.visibility), wait).await {
            Ok(received) => received,
            // In doubt it is handed out again.
            Err(QueueError::Undone(_)) => continue,
            Err(error) => panic!("{error}"),
        };
        let Some(mut delivery) = received else { continue };
        let at = now();
        let (item, receipt) = (delivery.item().to_owned(), delivery.receipt().to_owned());
        note(Event::Delivered(Delivered {
            item: item.clone(),
            receipt: receipt.clone(),
            payload: delivery.payload().as_text().unwrap_or_default().to_owned(),
            attempt: delivery.attempts(),
            token: delivery.token(),
            sequence: delivery.sequence(),
            at,
            until: at + delivery.valid_for().div_f64(rate),
        }));
        let roll = random.bits() % 100;
        if roll < habits.abandons {
            continue;
        }
        if roll < habits.abandons + habits.releases {
            note(Event::Releases { item, receipt, at: now() });
            let _ = delivery.release(Some("not now")).await;
            continue;
        }
        sleep(random.up_to(habits.work)).await;
        if roll < habits.abandons + habits.releases + habits.extends
            && delivery.extend(Some(habits.visibility)).await.is_ok()
        {
            let until = now() + delivery.valid_for().div_f64(rate);
            note(Event::Believes { item: item.clone(), receipt: receipt.clone(), until });
            sleep(random.up_to(habits.work)).await;
        }
        match delivery.acknowledge().await {
            Ok(()) => note(Event::Acknowledged { item, receipt }),
            // It came too late, or nobody knows.
            Err(QueueError::Stale { .. } | QueueError::Undone(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// A clock that is off by a rate.
pub struct Skewed<C>(pub C, pub f64);

impl<C: Clock> Clock for Skewed<C> {
    fn now(&self) -> Duration {
        self.0.now().mul_f64(self.1)
    }
}
