//! From a write to what is seen of it.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

/// What takes longer has failed.
const LIMIT: Duration = Duration::from_secs(90);

/// Milliseconds from the start of the write until it was seen; the answer to the write may come later.
pub async fn timed<T>(
    write: impl Future<Output = kube::Result<T>>,
    seen: impl Future<Output = Result<Instant>>,
) -> Result<f64> {
    let (start, seen) = timed_within(LIMIT, write, seen).await?;
    Ok(seen.duration_since(start).as_secs_f64() * 1e3)
}

/// The start of the write, and what was seen of it.
pub async fn timed_within<T, S>(
    limit: Duration,
    write: impl Future<Output = kube::Result<T>>,
    seen: impl Future<Output = Result<S>>,
) -> Result<(Instant, S)> {
    let start = Instant::now();
    let both = async { tokio::try_join!(async { write.await.map_err(anyhow::Error::from) }, seen) };
    let (_, seen) = timeout(limit, both).await.with_context(|| format!("not seen within {} s", limit.as_secs()))??;
    Ok((start, seen))
}

/// When a file was seen to have this text, by the changes of its folder.
pub async fn file_seen(changes: &mut mpsc::Receiver<Instant>, file: &Path, text: &str) -> Result<Instant> {
    loop {
        let at = changes.recv().await.context("the folder is not watched any more")?;
        if fs::read_to_string(file).is_ok_and(|found| found == text) {
            return Ok(at);
        }
    }
}
