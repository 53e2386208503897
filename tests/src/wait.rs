//! Waiting for a condition, with a deadline: never for a time.

use std::{future::Future, time::Duration};

use anyhow::bail;
use tokio::time::{Instant, sleep};

/// How long anything may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Asks until there is an answer.
///
/// # Errors
/// When there is none within [`DEADLINE`]: what was waited for, and the last reason why not.
pub async fn wait_for<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(why) if start.elapsed() > DEADLINE => bail!("waited {} s for {what}: {why}", DEADLINE.as_secs()),
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    }
}
