//! Noticing files at the moment they change.

use std::{path::Path, time::Duration};

use anyhow::Result;
use rustix::fs::inotify;
use tokio::{sync::mpsc, time::Instant};

/// Tells the time of each change in a folder: a file written and closed, or renamed to.
///
/// # Errors
/// When the folder cannot be watched.
pub fn changes(folder: &Path) -> Result<mpsc::Receiver<Instant>> {
    let queue = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&queue, folder, inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CLOSE_WRITE)?;
    let (sender, receiver) = mpsc::channel(1024);
    std::thread::spawn(move || {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(queue, &mut buffer);
        while reader.next().is_ok() {
            // Nobody asks any more, or not soon enough: then the time is of no use.
            if sender.try_send(Instant::now()).is_err() && sender.is_closed() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Asks until it is so; when it was, to the millisecond or so.
///
/// # Errors
/// When it is not so within a minute.
pub async fn moment(what: &str, is_so: impl Fn() -> bool) -> Result<Instant> {
    let start = Instant::now();
    while !is_so() {
        anyhow::ensure!(start.elapsed() < crate::wait::DEADLINE, "waited a minute for {what}");
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    Ok(Instant::now())
}
