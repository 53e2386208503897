//! The work queue: which configs are due, each at most once, never two runs of one at a time.
//!
//! It holds a config at most once, so it is bounded by their number. A config that becomes due
//! while it is being worked on runs again afterwards: no change is missed, and a burst costs one run.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::Key;

/// See the module.
#[derive(Default)]
pub struct Queue {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    by_time: BTreeSet<(Instant, Key)>,
    due: HashMap<Key, Instant>,
    running: HashSet<Key>,
    open: bool,
}

impl Queue {
    /// Makes a config due now.
    pub fn add(&self, key: Key) {
        self.add_after(key, Duration::ZERO);
    }

    /// Makes a config due after a while; an earlier due time stays.
    pub fn add_after(&self, key: Key, delay: Duration) {
        let at = Instant::now() + delay;
        let mut inner = self.lock();
        match inner.due.get(&key).copied() {
            Some(earlier) if earlier <= at => return,
            Some(later) => {
                inner.by_time.remove(&(later, key.clone()));
            }
            None => {}
        }
        inner.due.insert(key.clone(), at);
        inner.by_time.insert((at, key));
        drop(inner);
        self.changed.notify_one();
    }

    /// Lets [`Queue::next`] hand out work: not before every config is known, since one may refer to another.
    pub fn open(&self) {
        self.lock().open = true;
        self.changed.notify_one();
    }

    /// Waits for the next due config that is not running, and marks it running. For one caller.
    pub async fn next(&self) -> Key {
        loop {
            let changed = self.changed.notified();
            let now = Instant::now();
            let wait = {
                let mut inner = self.lock();
                let first = if inner.open {
                    inner.by_time.iter().find(|(_, key)| !inner.running.contains(key)).cloned()
                } else {
                    None
                };
                match first {
                    Some((at, key)) if at <= now => {
                        inner.by_time.remove(&(at, key.clone()));
                        inner.due.remove(&key);
                        inner.running.insert(key.clone());
                        return key;
                    }
                    Some((at, _)) => at - now,
                    None => Duration::from_secs(3600),
                }
            };
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Ends a run.
    pub fn done(&self, key: &Key) {
        self.lock().running.remove(key);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key { namespace: "n".into(), name: name.into() }
    }

    async fn nothing_due(queue: &Queue) -> bool {
        tokio::time::timeout(Duration::from_millis(1), queue.next()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_one_run_and_a_change_during_it_is_another() {
        let queue = Queue::default();
        queue.add(key("a"));
        assert!(nothing_due(&queue).await, "closed until every config is known");
        queue.open();
        queue.add(key("a"));
        assert_eq!(queue.next().await, key("a"));
        queue.add(key("a"));
        assert!(nothing_due(&queue).await, "two runs of one config at a time");
        queue.done(&key("a"));
        assert_eq!(queue.next().await, key("a"));
        queue.done(&key("a"));
        assert!(nothing_due(&queue).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_time_wins_and_nobody_waits_behind_a_running_one() {
        let queue = Queue::default();
        queue.open();
        queue.add_after(key("a"), Duration::from_secs(60));
        queue.add_after(key("a"), Duration::from_secs(5));
        queue.add_after(key("a"), Duration::from_secs(90));
        let start = Instant::now();
        assert_eq!(queue.next().await, key("a"));
        assert_eq!(start.elapsed().as_secs(), 5);
        queue.add(key("a"));
        queue.add_after(key("b"), Duration::from_secs(1));
        assert_eq!(queue.next().await, key("b"));
    }
}
