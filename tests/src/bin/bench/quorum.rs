//! Registers and `RedLock` over three and five control planes, beside one PUT and one GET at one of them. All of them share this
//! machine's processors, so that a majority is not only farther away but also slower.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use quorate_coordination::{
    RedLock, Register as _, Session,
    quorum::{KubeQuorum, open},
};
use quorate_crds::Acceptor;
use quorate_tests::{Cluster, cluster::Options};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{objects::named, results::percentile};

const SIZES: [usize; 2] = [3, 5];
/// Each row is measured so often, in turns.
const ROUNDS: usize = 4;
/// Calls of one turn.
const CALLS: usize = 60;
/// Of one call at one cluster.
const LIMIT: Duration = Duration::from_secs(5);

type Timed = Vec<f64>;

pub async fn measure() -> Result<Vec<Value>> {
    let most = SIZES.into_iter().max().unwrap_or_default();
    eprintln!("Starting {most} times etcd (with fsync) and kube-apiserver");
    let clusters = try_join_all((0..most).map(|_| async {
        let cluster = Cluster::with(Options { fsync: true, ..Options::default() }).await?;
        cluster.install_crds().await?;
        Ok::<_, anyhow::Error>(cluster)
    }));
    let clusters = clusters.await?;
    let mut clients = Vec::new();
    for (number, cluster) in clusters.iter().enumerate() {
        clients.push((format!("c{number}"), cluster.client().await?));
    }
    let (mut writes, mut reads) = (vec![Timed::new(); 1 + SIZES.len()], vec![Timed::new(); 1 + SIZES.len()]);
    let mut acquires = vec![Timed::new(); SIZES.len()];
    let mut registers = Vec::new();
    for size in SIZES {
        registers.push(opened(&clients[..size], size).await?);
    }
    // With something in it.
    for register in &registers {
        let at = register.read().await.context("reading the register")?;
        register.compare_and_swap(&at.version, &0).await.context("writing the register")?;
    }
    let mut single = Single::new(clients[0].1.clone(), &name_of(SIZES[0])).await?;
    for round in 0..ROUNDS {
        eprintln!("  {} of {ROUNDS}", round + 1);
        single.turn(&mut writes[0], &mut reads[0]).await?;
        for (number, size) in SIZES.into_iter().enumerate() {
            turn(&registers[number], &mut writes[1 + number], &mut reads[1 + number]).await?;
            locked(&clients[..size], size, &mut acquires[number]).await?;
        }
    }
    let names = || std::iter::once("single".to_owned()).chain(SIZES.map(|size| format!("members-{size}")));
    let mut rows = Vec::new();
    for (bench, timed) in [("quorum-write", writes), ("quorum-read", reads)] {
        rows.extend(names().zip(timed).map(|(name, timed)| row(bench, &name, timed)));
    }
    rows.extend(names().skip(1).zip(acquires).map(|(name, timed)| row("redlock-acquire", &name, timed)));
    print(&rows);
    Ok(rows)
}

/// One object at one of them, written as a member of a register is.
struct Single {
    api: Api<Acceptor>,
    object: Acceptor,
}

impl Single {
    /// Like this member.
    async fn new(client: Client, member: &str) -> Result<Self> {
        let api: Api<Acceptor> = Api::default_namespaced(client);
        let spec = api.get(member).await?.spec;
        let object = Acceptor { metadata: named("single"), spec };
        let object = api.create(&PostParams::default(), &object).await?;
        Ok(Self { api, object })
    }

    async fn turn(&mut self, writes: &mut Timed, reads: &mut Timed) -> Result<()> {
        for _ in 0..CALLS {
            let spec = &mut self.object.spec;
            let ballot = spec.promised.clone();
            spec.promised.round += 1;
            spec.accepted.get_or_insert_default().ballot = ballot;
            let metadata = ObjectMeta { managed_fields: None, ..self.object.metadata.clone() };
            let wanted = Acceptor { metadata, spec: self.object.spec.clone() };
            let start = Instant::now();
            self.object = self.api.replace("single", &PostParams::default(), &wanted).await?;
            writes.push(milliseconds(start));
        }
        for _ in 0..CALLS {
            let start = Instant::now();
            self.api.get("single").await?;
            reads.push(milliseconds(start));
        }
        Ok(())
    }
}

async fn opened(clients: &[(String, Client)], size: usize) -> Result<KubeQuorum<u64>> {
    let session = Session::new("bench")?;
    Ok(open(clients, "default", &format!("of-{size}"), &name_of(size), 0, &session, LIMIT).await?)
}

fn name_of(size: usize) -> String {
    format!("register-{size}")
}

/// One proposer that goes on.
async fn turn(register: &KubeQuorum<u64>, writes: &mut Timed, reads: &mut Timed) -> Result<()> {
    let mut at = register.read().await.context("reading the register")?;
    // The first of a turn asks for a promise.
    at.version = register.compare_and_swap(&at.version, &0).await.context("writing the register")?;
    for value in 1..=CALLS {
        let start = Instant::now();
        at.version =
            register.compare_and_swap(&at.version, &u64::try_from(value)?).await.context("writing the register")?;
        writes.push(milliseconds(start));
    }
    for _ in 0..CALLS {
        let start = Instant::now();
        register.read().await.context("reading the register")?;
        reads.push(milliseconds(start));
    }
    Ok(())
}

/// Taken and given back by one, whom nobody disturbs.
async fn locked(clients: &[(String, Client)], size: usize, acquires: &mut Timed) -> Result<()> {
    let name = format!("redlock-{size}");
    let lock = RedLock::on_leases(clients.to_vec(), "default", &name, Session::new("bench")?, LIMIT * 3)?;
    // In the first turn it is new.
    let _ = lock.create().await;
    for _ in 0..CALLS {
        let start = Instant::now();
        let held = lock.acquire(Some(LIMIT)).await?;
        acquires.push(milliseconds(start));
        held.release().await?;
    }
    Ok(())
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn row(bench: &str, name: &str, timed: Timed) -> Value {
    let count = timed.len();
    let at = percentile(timed);
    json!({ "bench": bench, "name": name, "unit": "ms", "value": at(50), "p50": at(50), "p99": at(99), "n": count })
}

fn print(rows: &[Value]) {
    let p50 = |row: &Value| row["p50"].as_f64().unwrap_or(f64::NAN);
    println!("\n| | | p50, ms | p99, ms | p50 / one PUT or GET |\n|---|---|---|---|---|");
    for row in rows {
        let beside = if row["bench"] == "quorum-read" { "quorum-read" } else { "quorum-write" };
        let single =
            rows.iter().find(|other| other["bench"] == beside && other["name"] == "single").map_or(f64::NAN, p50);
        let (bench, name) = (row["bench"].as_str().unwrap_or_default(), row["name"].as_str().unwrap_or_default());
        println!(
            "| {bench} | {name} | {:.2} | {:.2} | {:.2} |",
            p50(row),
            row["p99"].as_f64().unwrap_or(f64::NAN),
            p50(row) / single
        );
    }
}
