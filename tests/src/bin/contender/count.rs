//! Who counts.

use std::time::Duration;

use anyhow::Result;
use kube::Client;
use quorate_coordination::{Boottime, Clock, Counter, Random, Session};
use serde_json::json;
use tokio::time::sleep;

use super::Arguments;

/// For so long an increment is tried.
const PATIENCE: Duration = Duration::from_secs(60);

/// Counts until it is killed, and says when it asked for each increment, when it had the answer, and what it was.
pub async fn count(client: Client, arguments: &Arguments, session: Session) -> Result<()> {
    let counter = Counter::on_object(client, &arguments.namespace, &arguments.object, session, PATIENCE)?;
    let (random, pause) = (Random::from_seed(&arguments.who), Duration::from_millis(arguments.pause_millis));
    loop {
        sleep(random.up_to(pause)).await;
        let invoked = Boottime.now();
        match counter.add(1).await {
            Ok(given) => {
                let answered = Boottime.now();
                println!("{}", json!({"invoked": invoked, "answered": answered, "before": given.before}));
            }
            Err(error) => eprintln!("{error}"),
        }
    }
}
