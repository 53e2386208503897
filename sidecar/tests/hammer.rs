//! A reader that hammers a set of two files sees whole sets only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs, io,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
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

fn atomically(publisher: &Publisher<RealDisk>, revision: i64) {
    let file = || BundleFile { mode: 0o444, secret: false, bytes: text(revision) };
    let files = [("a".to_owned(), file()), ("b".to_owned(), file())].into();
    let head = Head::next(None, revision, Bundle { files, provenance: Vec::new() }, Timestamp::UNIX_EPOCH);
    let staged = publisher.stage(&head).unwrap();
    let before = publisher.shown();
    let published = publisher.switch(staged).unwrap();
    publisher.tidy(&published, before.as_deref()).unwrap();
}

/// The negative control: what a plain mirror does.
fn in_place(publisher: &Publisher<RealDisk>, revision: i64) {
    for name in ["a", "b"] {
        fs::write(publisher.directory().join("..data").join(name), text(revision)).unwrap();
    }
}

/// Resolves `..data` once, then reads both files: whole and of one revision, or it is a fault. A set
/// goes only after the one that replaced it is replaced too; a reader slower than that begins again.
fn read_set(directory: &Path) -> Result<Option<i64>, String> {
    let data = directory.join("..data");
    let folder = directory.join(fs::read_link(&data).map_err(|error| format!("..data: {error}"))?);
    let revision = |path: &Path| -> Option<i64> {
        let name = path.file_name()?.to_str()?.strip_prefix("..r")?;
        name.split('.').next()?.parse().ok()
    };
    let mut sets = Vec::new();
    for name in ["a", "b"] {
        match fs::read(folder.join(name)) {
            Ok(bytes) => sets.push(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let now = fs::read_link(&data).map_err(|error| format!("..data: {error}"))?;
                let passed = revision(&now).zip(revision(&folder)).map_or(0, |(now, then)| now - then);
                return if passed >= 2 {
                    Ok(None)
                } else {
                    Err(format!("{name} is missing from {}", folder.display()))
                };
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    let seen = std::str::from_utf8(sets[0].get(..8).ok_or("an empty or torn file")?).unwrap().parse().unwrap();
    if sets.iter().all(|bytes| *bytes == text(seen)) {
        Ok(Some(seen))
    } else {
        Err(format!("torn or mixed: {} bytes beginning with {seen}", sets[0].len()))
    }
}

/// Publishes under a hammering reader; how many different sets it saw.
fn hammer(publish: impl Fn(&Publisher<RealDisk>, i64)) -> Result<usize, String> {
    let directory = tempfile::tempdir().unwrap();
    let publisher = Publisher::new(RealDisk, directory.path().to_owned());
    atomically(&publisher, 1);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = std::collections::BTreeSet::new();
            while !ended.load(Ordering::Relaxed) {
                seen.extend(read_set(directory.path())?);
            }
            Ok(seen.len())
        });
        for revision in 2..=PUBLICATIONS {
            publish(&publisher, revision);
            if reader.is_finished() {
                break;
            }
        }
        ended.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    })
}

#[test]
fn a_thousand_publications_are_seen_whole() {
    let seen = hammer(atomically).unwrap();
    assert!(seen > 10, "the reader saw {seen} sets only: it did not hammer");
}

#[test]
fn the_reader_notices_writing_in_place() {
    let fault = hammer(in_place).unwrap_err();
    assert!(fault.contains("torn") || fault.contains("mixed"), "{fault}");
}
