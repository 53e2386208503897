//! From a write to what is seen of it.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, timeout};

/// What takes longer has failed.
const LIMIT: Duration = Duration::from_secs(90);

/// Milliseconds from the start of the write until it was seen; the answer to the write may come later.
pub async fn timed<T>(
    write: impl Future<Output = kube::Result<T>>,
    seen: impl Future<Output = Result<Instant>>,
) -> Result<f64> {
    let start = Instant::now();
    let both = async { tokio::try_join!(async { write.await.map_err(anyhow::Error::from) }, seen) };
    let (_, seen) = timeout(LIMIT, both).await.with_context(|| format!("not seen within {} s", LIMIT.as_secs()))??;
    Ok(seen.duration_since(start).as_secs_f64() * 1e3)
}
