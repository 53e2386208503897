//! One process that takes a lock, stands for an election, counts, or sends to a queue or receives from it, again and again, through
//! a client that things go wrong for. Each line of its output is JSON: an event of the lock's or the queue's history, or a
//! belief in being the leader.
#![allow(missing_docs, dead_code, clippy::unwrap_used, clippy::panic)]

#[path = "../../../../coordination/tests/support/contender.rs"]
mod contender;
mod count;
#[path = "../../../../coordination/tests/support/history.rs"]
mod history;
mod work;

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use clap::Parser;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, api::PostParams};
use quorate_coordination::{Boottime, Clock, Election, Lock, LockError, Mode, Random, Session};
use quorate_crds::names::FENCING_TOKEN;
use quorate_tests::{
    cluster,
    faults::{self, Faults},
};
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};

use contender::{Place, Script, Variant, contend};
use history::Event;

/// Writes to what the lock protects end after this.
const WRITING: Duration = Duration::from_secs(5);

#[derive(Parser)]
struct Arguments {
    /// What it does.
    #[arg(value_parser = ["lock", "lead", "count", "produce", "consume"])]
    what: String,
    /// Its name, which is the seed of its dice too.
    who: String,
    #[arg(long)]
    kubeconfig: PathBuf,
    #[arg(long, default_value = "default")]
    namespace: String,
    /// The Lease, the counter, or the queue.
    #[arg(long)]
    object: String,
    #[arg(long, default_value_t = 15_000)]
    ttl_millis: u64,
    /// Of a hundred requests, how many something befalls.
    #[arg(long, default_value_t = 0)]
    faults: u64,
    /// A Secret that the lock protects.
    #[arg(long)]
    protects: Option<String>,
    /// It pauses for up to this.
    #[arg(long, default_value_t = 0)]
    pause_millis: u64,
    /// The lock is used as: exclusive, shared (and exclusive).
    #[arg(long, default_value = "exclusive")]
    mode: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let ttl = Duration::from_millis(arguments.ttl_millis);
    let random = Random::from_seed(&arguments.who);
    let faults = Faults { percent: arguments.faults, stall: ttl / 2, random };
    let client = faults::client(&arguments.kubeconfig, faults).await?;
    // Of its ids, nothing may come again.
    let session = Session::new(&arguments.who)?;
    match arguments.what.as_str() {
        "lock" => lock(client, arguments, session, ttl).await,
        "count" => count::count(client, &arguments, session).await,
        "lead" => lead(client, &arguments, session, ttl).await,
        _ => work::work(client, &arguments, session, ttl).await,
    }
}

/// Takes it again and again, until it is killed.
async fn lock(client: Client, arguments: Arguments, session: Session, ttl: Duration) -> Result<()> {
    let lock = Lock::on_lease(client.clone(), &arguments.namespace, &arguments.object, session, ttl)?;
    let modes = match arguments.mode.as_str() {
        "shared" => vec![Mode::Exclusive, Mode::Shared, Mode::Shared],
        _ => vec![Mode::Exclusive],
    };
    let pause = Duration::from_millis(arguments.pause_millis);
    let script = Script {
        who: arguments.who.clone(),
        ttl,
        modes,
        cycles: usize::MAX,
        hold: ttl / 16,
        pause,
        rate: 1.0,
        variant: Variant::Right,
    };
    // What it protects is written through a client that nothing befalls: each write is to be told from the next.
    let secrets = Api::namespaced(cluster::client(&arguments.kubeconfig).await?, &arguments.namespace);
    let place = Outputs { secrets, protects: arguments.protects };
    let random = Random::from_system()?;
    loop {
        if let Err(error) = contend(&lock, &script, &random, &place).await {
            // The namespace may be gone for a while, or a right.
            eprintln!("{error}");
            sleep(ttl / 10).await;
        }
    }
}

/// Stands for election until it is killed; SIGTERM makes it resign, and stand again.
async fn lead(client: Client, arguments: &Arguments, session: Session, ttl: Duration) -> Result<()> {
    let election = Election::on_lease(client, &arguments.namespace, &arguments.object, session, ttl)?;
    let mut resign = signal(SignalKind::terminate())?;
    loop {
        let leadership = match election.campaign().await {
            Ok(leadership) => leadership,
            Err(error @ LockError::Undone(_)) => {
                eprintln!("{error}");
                sleep(ttl / 10).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        loop {
            // Whoever is stopped between these lines has said what was so before.
            let at = Boottime.now();
            if leadership.valid_for().is_zero() {
                break;
            }
            println!(
                "{}",
                json!({"who": arguments.who, "at": u64::try_from(at.as_nanos())?, "term": leadership.term()})
            );
            if timeout(Duration::from_millis(2), resign.recv()).await.is_ok() {
                // If it cannot be told now: it ends in time.
                let _ = leadership.resign().await;
                break;
            }
        }
    }
}

/// Events go to the output; what the lock protects is a Secret.
struct Outputs {
    secrets: Api<Secret>,
    protects: Option<String>,
}

impl Place for Outputs {
    fn now(&self) -> Duration {
        Boottime.now()
    }

    fn note(&self, event: Event) {
        // Nothing in it can fail to be JSON.
        println!("{}", serde_json::to_string(&event).unwrap_or_default());
    }

    async fn write(&self, who: &str, token: u64) -> Option<bool> {
        let name = self.protects.as_ref()?;
        let write = async {
            let mut secret = self.secrets.get(name).await.ok()?;
            let annotations = secret.metadata.annotations.get_or_insert_default();
            annotations.insert(FENCING_TOKEN.to_owned(), token.to_string());
            // No two writes are the same, so each is a version of its own.
            annotations.insert("by".to_owned(), format!("{who} at {}", self.now().as_nanos()));
            match self.secrets.replace(name, &PostParams::default(), &secret).await {
                Ok(_) => Some(true),
                Err(kube::Error::Api(status)) if status.message.contains("must not fall") => Some(false),
                Err(_) => None,
            }
        };
        timeout(WRITING, write).await.ok().flatten()
    }
}
