//! What the pods' files said, and when. They are read about twice a millisecond all the time, so
//! that it is noticed when a pod reads for a moment what it should not.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::Result;
use k8s_openapi::jiff::Timestamp;
use quorate_tests::wait::wait_for;

/// A file said something else than before.
#[derive(Clone)]
struct Seen {
    pod: usize,
    text: String,
    at: Timestamp,
}

/// Reads the pods' files until it is dropped.
pub struct Reading {
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Reading {
    /// Of a file of each pod; pods go by their index here.
    pub fn start(files: Vec<PathBuf>) -> Self {
        let seen = Arc::default();
        let reader = Arc::downgrade(&seen);
        thread::spawn(move || {
            let mut last = vec![String::new(); files.len()];
            while let Some(seen) = reader.upgrade() {
                for (pod, (file, last)) in files.iter().zip(&mut last).enumerate() {
                    // It is not there at first; and the set it was opened in may just have been removed.
                    let Ok(text) = fs::read_to_string(file) else { continue };
                    if text != *last {
                        last.clone_from(&text);
                        lock(&seen).push(Seen { pod, text, at: Timestamp::now() });
                    }
                }
                drop(seen);
                thread::sleep(Duration::from_micros(500));
            }
        });
        Self { seen }
    }

    /// The pods that have read a line since then, and when first, in the order of time.
    pub fn readers(&self, line: &str, since: Timestamp) -> Vec<(usize, Timestamp)> {
        let mut readers: Vec<(usize, Timestamp)> = Vec::new();
        for seen in lock(&self.seen).iter().filter(|seen| seen.at >= since && has(&seen.text, line)) {
            if readers.iter().all(|(pod, _)| *pod != seen.pod) {
                readers.push((seen.pod, seen.at));
            }
        }
        readers
    }

    /// Waits until so many pods have read a line since then.
    pub async fn until(&self, pods: usize, line: &str, since: Timestamp) -> Result<Vec<(usize, Timestamp)>> {
        wait_for(&format!("{pods} pods to read {line:?}"), || async {
            let readers = self.readers(line, since);
            if readers.len() >= pods { Ok(readers) } else { Err(format!("{} do", readers.len())) }
        })
        .await
    }

    /// The pods that read a line now.
    pub fn now(&self, line: &str) -> Vec<usize> {
        let seen = lock(&self.seen);
        let is_last = |index: usize, pod: usize| seen[index + 1..].iter().all(|later| later.pod != pod);
        let last = seen.iter().enumerate().filter(|(index, seen)| is_last(*index, seen.pod) && has(&seen.text, line));
        let mut pods: Vec<usize> = last.map(|(_, seen)| seen.pod).collect();
        pods.sort_unstable();
        pods
    }
}

fn has(text: &str, line: &str) -> bool {
    text.lines().any(|found| found == line)
}

fn lock(seen: &Mutex<Vec<Seen>>) -> std::sync::MutexGuard<'_, Vec<Seen>> {
    // Whoever panicked had pushed or not: both are fine.
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
