//! Blocks of unique ids: one write takes a block, which is handed out without any.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::{Counter, CounterError};

/// Unique ids. No two calls ever give the same one, in any process that takes them from this counter in this way only.
/// Those of one handle and its clones rise. There are gaps: what is left of a block when the process ends is lost.
#[derive(Clone)]
pub struct Ids {
    counter: Counter,
    block: u32,
    left: Arc<Mutex<Left>>,
}

/// What is left of a block.
#[derive(Clone, Copy, Default)]
struct Left {
    /// The last that was handed out.
    last: i64,
    /// The last of the block.
    end: i64,
}

impl Ids {
    pub(super) fn new(counter: Counter, block: u32) -> Self {
        Self { counter, block: block.max(1), left: Arc::default() }
    }

    /// The next id. The first one of a counter is `spec.initial` + 1, and its value the highest that was taken.
    ///
    /// # Errors
    /// When no block can be taken. One that was taken and not told of is a gap.
    pub async fn next(&self) -> Result<i64, CounterError> {
        let mut left = self.left.lock().await;
        if left.last == left.end {
            let block = self.counter.add(i64::from(self.block)).await?;
            *left = Left { last: block.before, end: block.after };
        }
        left.last += 1;
        Ok(left.last)
    }
}
