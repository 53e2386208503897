//! Who sends to a queue, and who receives from it.

#[path = "../../../../coordination/tests/queue/history.rs"]
mod history;
#[path = "../../../../coordination/tests/queue/worker.rs"]
mod worker;

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use kube::Client;
use quorate_coordination::{Boottime, Clock, Queue, Random, Session};

use super::Arguments;
use history::Notes;
use worker::{Habits, Shared, consume, produce};

/// For so long a queue is asked again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends to the queue, or receives from it, until it is killed.
pub async fn work(client: Client, arguments: &Arguments, session: Session, ttl: Duration) -> Result<()> {
    let queue = Queue::on_object(client, &arguments.namespace, &arguments.object, session, PATIENCE)?;
    // Nothing in it can fail to be JSON.
    let note: Notes = Arc::new(|event| println!("{}", serde_json::to_string(&event).unwrap_or_default()));
    let pause = Duration::from_millis(arguments.pause_millis);
    if arguments.what == "produce" {
        produce(&queue, &arguments.who, usize::MAX, pause, &note).await;
    } else {
        let habits = Habits { visibility: ttl, work: pause, abandons: 8, releases: 8, extends: 15 };
        let now: Shared = Arc::new(|| Boottime.now());
        consume(&queue, habits, &Random::from_seed(&arguments.who), 1.0, &now, &note, || false).await;
    }
    Ok(())
}
