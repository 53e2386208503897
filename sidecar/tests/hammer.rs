//! A reader that hammers a set of two files sees whole sets only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod scene;

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    thread,
};

use jiff::Timestamp;
use quorate_crds::head::{Bundle, BundleFile, Head};
use quorate_sidecar::{disk::RealDisk, publish::Publisher};

const PUBLICATIONS: i64 = 1_000;
const BYTES: usize = 20_000;

/// Each file of a revision is its number, again and again, so that a torn one shows.
fn text(revision: i64) -> Vec<u8> {
    let word = format!("{revision:08}");
    word.as_bytes().iter().copied().cycle().take(BYTES).collect()
}

fn head(revision: i64) -> Head {
    let file = || BundleFile { mode: 0o444, secret: false, bytes: text(revision) };
    let files = [("a".to_owned(), file()), ("b".to_owned(), file())].into();
    Head::next(None, revision, Bundle { files, provenance: Vec::new() }, Timestamp::UNIX_EPOCH)
}

fn atomically(publisher: &Publisher<RealDisk>, revision: i64) {
    let staged = publisher.stage(&head(revision), None).unwrap();
    let before = publisher.shown();
    let published = publisher.switch(staged).unwrap();
    publisher.clean(&published, before.as_deref()).unwrap();
}

/// The negative control: what a plain mirror does.
fn in_place(publisher: &Publisher<RealDisk>, revision: i64) {
    for name in ["a", "b"] {
        fs::write(publisher.directory().join("..data").join(name), text(revision)).unwrap();
    }
}

/// Resolves `..data` once, then reads both files: whole and of one revision, or it is a fault.
fn read_set(directory: &Path) -> Result<i64, String> {
    let data = directory.join("..data");
    let folder = directory.join(fs::read_link(&data).map_err(|error| format!("..data: {error}"))?);
    let read = |name| fs::read(folder.join(name)).map_err(|error| format!("{name} in {}: {error}", folder.display()));
    let sets = [read("a")?, read("b")?];
    let seen = std::str::from_utf8(sets[0].get(..8).ok_or("an empty or torn file")?).unwrap().parse().unwrap();
    if sets.iter().all(|bytes| *bytes == text(seen)) {
        Ok(seen)
    } else {
        Err(format!("torn or mixed: {} bytes beginning with {seen}", sets[0].len()))
    }
}

/// Publishes under a reader that never rests; how many different sets it saw. A set goes only after
/// the one that replaced it is replaced too, so each is given time to be read: then nothing is ever
/// missing, and every set must be seen.
fn hammer(publish: impl Fn(&Publisher<RealDisk>, i64)) -> Result<usize, String> {
    let directory = tempfile::tempdir().unwrap();
    let publisher = Publisher::new(RealDisk, directory.path().to_owned());
    atomically(&publisher, 1);
    let (ended, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = std::collections::BTreeSet::new();
            while !ended.load(Ordering::Relaxed) {
                seen.insert(read_set(directory.path())?);
                reads.fetch_add(1, Ordering::Relaxed);
            }
            Ok(seen.len())
        });
        let read_twice = || {
            // The first may have begun before the switch.
            let enough = reads.load(Ordering::Relaxed) + 2;
            while reads.load(Ordering::Relaxed) < enough && !reader.is_finished() {
                thread::yield_now();
            }
        };
        read_twice();
        for revision in 2..=PUBLICATIONS {
            publish(&publisher, revision);
            read_twice();
        }
        ended.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    })
}

#[test]
fn a_thousand_publications_are_seen_whole() {
    assert_eq!(hammer(atomically), Ok(usize::try_from(PUBLICATIONS).unwrap()));
}

#[test]
fn the_reader_notices_writing_in_place() {
    let fault = hammer(in_place).unwrap_err();
    assert!(fault.contains("torn") || fault.contains("mixed"), "{fault}");
}

#[tokio::test]
async fn what_the_follow_loop_publishes_is_seen_whole() {
    let server = scene::Server::default();
    server.publish(&head(1));
    let pod = scene::Pod::start(&server, &[]);
    let directory = pod.directory.path().join("web");
    pod.until("the first set", || directory.join("b").exists()).await;
    let (ended, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
    let (end, last) = (Arc::clone(&ended), Arc::clone(&seen));
    let reader = thread::spawn(move || {
        while !end.load(Ordering::Relaxed) {
            last.store(read_set(&directory)?, Ordering::Relaxed);
        }
        Ok::<(), String>(())
    });
    for revision in 2..=200 {
        server.publish(&head(revision));
        let is_seen = || seen.load(Ordering::Relaxed) == revision || reader.is_finished();
        pod.until("the next set", is_seen).await;
    }
    ended.store(true, Ordering::Relaxed);
    assert_eq!(reader.join().unwrap(), Ok(()));
}
