//! Locks that go from one to the next: ours; a naive mutex on a Lease, as people write it (a watch, and all try at once);
//! client-go's leader election; and the floor, which is one PUT and one watch event.

use std::{
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures::{
    StreamExt,
    future::{join_all, try_join_all},
};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{
    Api, Client,
    api::{PostParams, WatchEvent, WatchParams},
};
use quorate_coordination::{Held, KubeRegister, Lock, LockState, Mode, Session};
use quorate_tests::{
    Cluster,
    cluster::{Options, client, root},
};
use serde_json::{Value, json};
use tokio::{
    process::Command,
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    objects::named,
    results::{percentile, rounded},
};

const TTL: Duration = Duration::from_secs(15);
const CONTENDERS: [usize; 2] = [2, 32];
/// In a hand-over somebody has the lock and does something.
const HOLD: Duration = Duration::from_millis(10);
/// Each is measured so often, in turns.
const ROUNDS: usize = 3;
/// And for so long.
const TIME: Duration = Duration::from_secs(6);
/// Before that, all have come to wait.
const WARM_UP: Duration = Duration::from_secs(3);
/// PUTs and events of the floor, each round.
const FLOOR: usize = 150;
/// Hand-overs of client-go: each takes some seconds.
const ELECTIONS: usize = 12;
/// What takes longer has failed.
const LIMIT: Duration = Duration::from_secs(30);

pub async fn measure() -> Result<Vec<Value>> {
    eprintln!("Starting etcd (with fsync) and kube-apiserver");
    let cluster = Cluster::with(Options { fsync: true, ..Options::default() }).await?;
    let mut rows = uncontended(&cluster).await?;
    for contenders in CONTENDERS {
        rows.extend(handovers(&cluster, contenders).await?);
        rows.extend(cycles(&cluster, contenders).await?);
    }
    print(&rows);
    Ok(rows)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Rival {
    Quorate,
    /// Quorate's, by those who wait for it again as they give it back.
    PassOn,
    Naive,
}

impl Rival {
    const ALL: [Self; 2] = [Self::Quorate, Self::Naive];
    const OF_CYCLES: [Self; 3] = [Self::Quorate, Self::PassOn, Self::Naive];

    const fn name(self) -> &'static str {
        match self {
            Self::Quorate => "quorate",
            Self::PassOn => "quorate-pass-on",
            Self::Naive => "naive",
        }
    }
}

/// Taking a lock that nobody else wants, and giving it back.
async fn uncontended(cluster: &Cluster) -> Result<Vec<Value>> {
    let mut of_rival = Rival::ALL.map(|_| Vec::new());
    for round in 0..ROUNDS {
        for (rival, both) in Rival::ALL.into_iter().zip(&mut of_rival) {
            let turn = contend(cluster, rival, 1, Duration::ZERO, &format!("alone-{round}")).await?;
            both.extend(turn.both);
        }
    }
    Ok(Rival::ALL.into_iter().zip(of_rival).map(|(rival, both)| row("lock-uncontended", rival.name(), both)).collect())
}

/// From the beginning of a release until another holds it.
async fn handovers(cluster: &Cluster, contenders: usize) -> Result<Vec<Value>> {
    let bench = format!("handover-{contenders}");
    let (mut of_rival, mut floors) = (Rival::ALL.map(|_| Vec::new()), Vec::new());
    for round in 0..ROUNDS {
        eprintln!("  {bench}: {} of {ROUNDS}", round + 1);
        floors.extend(floor(cluster, &format!("floor-{contenders}-{round}")).await?);
        for (rival, milliseconds) in Rival::ALL.into_iter().zip(&mut of_rival) {
            let turn = contend(cluster, rival, contenders, HOLD, &format!("handover-{contenders}-{round}")).await?;
            milliseconds.extend(turn.handovers);
        }
    }
    let mut rows: Vec<Value> =
        Rival::ALL.into_iter().zip(of_rival).map(|(rival, ms)| row(&bench, rival.name(), ms)).collect();
    rows.push(row(&bench, "floor", floors));
    eprintln!("  {bench}: client-go");
    rows.push(row(&bench, "client-go", elections(cluster, contenders).await?));
    Ok(rows)
}

/// How often a second it is taken and given back, when nobody holds it for longer than that.
async fn cycles(cluster: &Cluster, contenders: usize) -> Result<Vec<Value>> {
    let bench = format!("lock-cycles-{contenders}");
    let mut of_rival = Rival::OF_CYCLES.map(|_| vec![0_usize; contenders]);
    for round in 0..ROUNDS {
        for (rival, cycles) in Rival::OF_CYCLES.into_iter().zip(&mut of_rival) {
            let turn =
                contend(cluster, rival, contenders, Duration::ZERO, &format!("cycles-{contenders}-{round}")).await?;
            cycles.iter_mut().zip(turn.cycles).for_each(|(sum, more)| *sum += more);
        }
    }
    let seconds = TIME.as_secs_f64() * f64::from(u32::try_from(ROUNDS)?);
    Rival::OF_CYCLES
        .into_iter()
        .zip(of_rival)
        .map(|(rival, cycles)| {
            let all = f64::from(u32::try_from(cycles.iter().sum::<usize>())?);
            let (least, most) = (cycles.iter().min(), cycles.iter().max());
            Ok(json!({"bench": bench, "name": rival.name(), "unit": "cycles/s", "value": rounded(all / seconds),
                "least": least, "most": most}))
        })
        .collect()
}

/// What one turn gave.
#[derive(Default)]
struct Turn {
    /// Milliseconds from the beginning of a release until another holds it.
    handovers: Vec<f64>,
    /// Milliseconds of taking it and giving it back.
    both: Vec<f64>,
    /// How often each contender had it.
    cycles: Vec<usize>,
    /// Who had it last, and when it began to give it back.
    last: Option<(usize, Instant)>,
    inside: bool,
}

/// So many contenders, each with a client of its own, take it again and again.
async fn contend(cluster: &Cluster, rival: Rival, contenders: usize, hold: Duration, name: &str) -> Result<Turn> {
    let kubeconfig = cluster.kubeconfig(0);
    let clients = try_join_all((0..contenders).map(|_| client(&kubeconfig))).await?;
    let name = format!("{name}-{}", rival.name());
    if rival == Rival::Naive {
        leases(&clients[0]).create(&PostParams::default(), &lease(&name)).await?;
    }
    let locks = clients.into_iter().enumerate().map(|(n, client)| contender(rival, client, &name, n));
    let locks = try_join_all(locks).await?;
    let turn = Arc::new(Mutex::new(Turn { cycles: vec![0; contenders], ..Turn::default() }));
    let (from, until) = (Instant::now() + WARM_UP, Instant::now() + WARM_UP + TIME);
    let tasks = locks.into_iter().enumerate().map(|(n, mut lock)| {
        let turn = Arc::clone(&turn);
        tokio::spawn(async move {
            let mut kept = None;
            while Instant::now() < until {
                let began = Instant::now();
                let token = async {
                    match kept.take() {
                        Some(held) => lock.pass_on(held).await,
                        None => lock.acquire().await,
                    }
                };
                let token = timeout(LIMIT, token).await.context("nobody gave it back")??;
                let got = Instant::now();
                enter(&turn, n, got, from)?;
                if !hold.is_zero() {
                    sleep(hold).await;
                }
                let releasing = Instant::now();
                leave(&turn, n, releasing);
                match rival {
                    Rival::PassOn => kept = Some(token),
                    Rival::Quorate | Rival::Naive => lock.release(token).await?,
                }
                if began >= from {
                    let both = (got - began) + releasing.elapsed();
                    turn.lock().unwrap_or_else(PoisonError::into_inner).both.push(milliseconds(both));
                }
            }
            match kept {
                Some(token) => lock.release(token).await,
                None => Ok(()),
            }
        })
    });
    for ended in join_all(tasks).await {
        ended??;
    }
    let turn = Arc::into_inner(turn).context("a contender goes on")?;
    Ok(turn.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn enter(turn: &Mutex<Turn>, who: usize, now: Instant, from: Instant) -> Result<()> {
    let mut turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(!std::mem::replace(&mut turn.inside, true), "two hold it at once");
    if now < from {
        return Ok(());
    }
    turn.cycles[who] += 1;
    match turn.last {
        // Taking it again oneself is no hand-over.
        Some((other, released)) if other != who => turn.handovers.push(milliseconds(now - released)),
        _ => {}
    }
    Ok(())
}

fn leave(turn: &Mutex<Turn>, who: usize, now: Instant) {
    let mut turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    (turn.inside, turn.last) = (false, Some((who, now)));
}

/// One who takes the lock.
enum Contender {
    Quorate(Lock<KubeRegister<LockState>>),
    Naive(Box<Naive>),
}

enum Token {
    Quorate(Held<KubeRegister<LockState>>),
    Naive(Box<Lease>),
}

async fn contender(rival: Rival, client: Client, name: &str, number: usize) -> Result<Contender> {
    Ok(match rival {
        Rival::Quorate | Rival::PassOn => {
            let session = Session::new(&format!("contender-{number}"))?;
            Contender::Quorate(Lock::on_lease(client, "default", name, session, TTL)?)
        }
        Rival::Naive => Contender::Naive(Box::new(Naive::new(client, name, number).await?)),
    })
}

impl Contender {
    async fn acquire(&mut self) -> Result<Token> {
        Ok(match self {
            Self::Quorate(lock) => Token::Quorate(lock.acquire(Mode::Exclusive, None).await?),
            Self::Naive(naive) => Token::Naive(Box::new(naive.acquire().await?)),
        })
    }

    async fn pass_on(&mut self, token: Token) -> Result<Token> {
        match token {
            Token::Quorate(held) => Ok(Token::Quorate(held.pass_on(None).await?)),
            Token::Naive(_) => {
                self.release(token).await?;
                self.acquire().await
            }
        }
    }

    async fn release(&self, token: Token) -> Result<()> {
        match (self, token) {
            (_, Token::Quorate(held)) => Ok(held.release().await?),
            (Self::Naive(naive), Token::Naive(lease)) => Ok(naive.put(&lease, "").await.map(drop)?),
            _ => Ok(()),
        }
    }
}

/// A mutex on a Lease as people write it: it watches the Lease, and who sees that it is free tries to take it.
struct Naive {
    leases: Api<Lease>,
    name: String,
    identity: String,
    seen: watch::Receiver<Lease>,
}

impl Naive {
    async fn new(client: Client, name: &str, number: usize) -> Result<Self> {
        let leases = leases(&client);
        let seen = follow(&leases, leases.get(name).await?).await?;
        Ok(Self { leases, name: name.to_owned(), identity: format!("contender-{number}"), seen })
    }

    async fn acquire(&mut self) -> Result<Lease> {
        let mut refused = None;
        loop {
            let free = |lease: &Lease| {
                let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
                holder.is_none_or(str::is_empty) && lease.metadata.resource_version != refused
            };
            let lease = self.seen.wait_for(free).await?.clone();
            match self.put(&lease, &self.identity).await {
                Ok(held) => return Ok(held),
                Err(kube::Error::Api(status)) if status.code == 409 => refused = lease.metadata.resource_version,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn put(&self, lease: &Lease, holder: &str) -> kube::Result<Lease> {
        let spec = LeaseSpec { holder_identity: Some(holder.to_owned()), ..LeaseSpec::default() };
        let next = Lease { metadata: lease.metadata.clone(), spec: Some(spec) };
        self.leases.replace(&self.name, &PostParams::default(), &next).await
    }
}

/// The newest that a raw watch of this Lease has told.
async fn follow(leases: &Api<Lease>, from: Lease) -> Result<watch::Receiver<Lease>> {
    let name = from.metadata.name.clone().unwrap_or_default();
    let version = from.metadata.resource_version.clone().unwrap_or_default();
    let params = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut events = leases.watch(&params, &version).await?.boxed();
    let (newest, seen) = watch::channel(from);
    tokio::spawn(async move {
        while let Some(Ok(WatchEvent::Modified(lease))) = events.next().await {
            if newest.send(lease).is_err() {
                return;
            }
        }
    });
    Ok(seen)
}

/// Milliseconds from the beginning of a PUT until a watch has told of it.
async fn floor(cluster: &Cluster, name: &str) -> Result<Vec<f64>> {
    let kubeconfig = cluster.kubeconfig(0);
    let (writer, reader) = (leases(&client(&kubeconfig).await?), leases(&client(&kubeconfig).await?));
    let mut lease = writer.create(&PostParams::default(), &lease(name)).await?;
    let mut seen = follow(&reader, lease.clone()).await?;
    let mut floor = Vec::new();
    for sample in 0..FLOOR {
        sleep(HOLD).await;
        lease.spec.get_or_insert_default().holder_identity = Some(format!("sample-{sample}"));
        let began = Instant::now();
        let event = async {
            seen.changed().await?;
            anyhow::Ok(Instant::now())
        };
        let put = async { Ok(writer.replace(name, &PostParams::default(), &lease).await?) };
        let (put, seen) = timeout(LIMIT, async { tokio::try_join!(put, event) }).await.context("no event")??;
        floor.push(milliseconds(seen - began));
        lease = put;
    }
    Ok(floor)
}

/// client-go's, in milliseconds from a leader's resignation until another one leads.
async fn elections(cluster: &Cluster, candidates: usize) -> Result<Vec<f64>> {
    let script = root().join("tests/elect/build.sh");
    let built = Command::new(script).stderr(Stdio::inherit()).output().await?;
    ensure!(built.status.success(), "client-go's election was not built; the reason is above");
    let output = Command::new(String::from_utf8(built.stdout)?.trim())
        .args(["handovers", "-lease", &format!("elected-{candidates}")])
        .args([format!("-candidates={candidates}"), format!("-number={ELECTIONS}")])
        .env("KUBECONFIG", cluster.kubeconfig(0))
        .kill_on_drop(true)
        .output()
        .await?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "elect: {}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(|line| line.parse().with_context(|| line.to_owned())).collect()
}

fn leases(client: &Client) -> Api<Lease> {
    Api::namespaced(client.clone(), "default")
}

fn lease(name: &str) -> Lease {
    Lease { metadata: named(name), spec: Some(LeaseSpec::default()) }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn row(bench: &str, name: &str, milliseconds: Vec<f64>) -> Value {
    let (n, at) = (milliseconds.len(), percentile(milliseconds));
    json!({"bench": bench, "name": name, "unit": "ms", "n": n, "p50": at(50), "p99": at(99)})
}

fn print(rows: &[Value]) {
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    println!("\n| locks, ms | | p50 | p99 | n |\n|---|---|---|---|---|");
    for row in rows.iter().filter(|row| row["unit"] == "ms") {
        println!("| {} | {} | {} | {} | {} |", text(row, "bench"), text(row, "name"), row["p50"], row["p99"], row["n"]);
    }
    println!("\n| locks taken and given back | | a second | least and most of a contender |\n|---|---|---|---|");
    for row in rows.iter().filter(|row| row["unit"] != "ms") {
        let (bench, name, value) = (text(row, "bench"), text(row, "name"), &row["value"]);
        println!("| {bench} | {name} | {value} | {} {} |", row["least"], row["most"]);
    }
}
