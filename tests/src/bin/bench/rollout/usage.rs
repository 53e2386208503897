//! What a rollout uses: API writes, as the API server counts them, and CPU, as the kernel does.

use std::{collections::BTreeMap, fmt, time::Duration};

use anyhow::{Context, Result, bail};
use kube::Client;
use quorate_tests::process::Process;
use tokio::time::{Instant, sleep};

use crate::Ground;

/// When nothing was written for so long, nothing will be: the operator's status waits at most 250 ms.
const QUIET: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(60);

/// So far, or between two moments.
#[derive(Clone, Debug)]
pub struct Usage {
    pub writes: Writes,
    pub cpu: Cpu,
}

/// Seconds.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    pub api_server: f64,
    pub etcd: f64,
    pub operator: f64,
    pub sidecars: f64,
}

impl Usage {
    pub fn since(&self, before: &Self) -> Self {
        let (now, old) = (&self.cpu, &before.cpu);
        let cpu = Cpu {
            api_server: now.api_server - old.api_server,
            etcd: now.etcd - old.etcd,
            operator: now.operator - old.operator,
            sidecars: now.sidecars - old.sidecars,
        };
        let count = |(what, count): (&String, &u64)| {
            (what.clone(), count - before.writes.0.get(what).copied().unwrap_or_default())
        };
        let writes = self.writes.0.iter().map(count).filter(|(_, count)| *count > 0).collect();
        Self { writes: Writes(writes), cpu }
    }
}

/// Waits until nobody writes any more.
pub async fn at_rest(ground: &Ground, sidecars: &[Process]) -> Result<Usage> {
    let start = Instant::now();
    let mut before = Writes::count(&ground.client).await?;
    loop {
        sleep(QUIET).await;
        let writes = Writes::count(&ground.client).await?;
        if writes == before {
            let of = |processes: &[Process]| {
                let seconds = processes.iter().map(|p| p.cpu_seconds().context("no CPU figure"));
                seconds.sum::<Result<f64>>()
            };
            let cpu = Cpu {
                api_server: of(&ground.cluster.api_servers)?,
                etcd: of(&ground.cluster.etcd)?,
                operator: of(std::slice::from_ref(&ground.operator.process))?,
                sidecars: of(sidecars)?,
            };
            return Ok(Usage { writes, cpu });
        }
        if start.elapsed() > LIMIT {
            bail!("somebody writes all the time: {before}, then {writes}");
        }
        before = writes;
    }
}

/// How often which kind of object was written, by anybody, but for the API server's own lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes(BTreeMap<String, u64>);

impl Writes {
    async fn count(client: &Client) -> Result<Self> {
        let text = client.request_text(http::Request::get("/metrics").body(Vec::new())?).await?;
        Self::read(&text)
    }

    /// From lines such as `apiserver_request_total{code="200",…,resource="pods",…,verb="PUT"} 7`.
    fn read(metrics: &str) -> Result<Self> {
        let mut writes = BTreeMap::new();
        for line in metrics.lines() {
            let Some(labels) = line.strip_prefix("apiserver_request_total{") else { continue };
            let (labels, value) = labels.rsplit_once("} ").with_context(|| format!("not understood: {line}"))?;
            let label = |name: &str| {
                let mut pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
                pairs.find(|(key, _)| *key == name).map_or("", |(_, value)| value.trim_matches('"'))
            };
            let resource = label("resource");
            let is_write = matches!(label("verb"), "POST" | "PUT" | "PATCH" | "APPLY" | "DELETE" | "DELETECOLLECTION");
            if !is_write || resource == "leases" {
                continue;
            }
            let subresource = Some(label("subresource")).filter(|name| !name.is_empty());
            let what = subresource.map_or(resource.to_owned(), |sub| format!("{resource}/{sub}"));
            // The code tells of conflicts.
            let code = label("code");
            let what = if code.starts_with('2') { what } else { format!("{what} ({code})") };
            // Counts are whole; Prometheus writes all numbers as floats.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let count = value.trim().parse::<f64>()? as u64;
            *writes.entry(what).or_default() += count;
        }
        anyhow::ensure!(!writes.is_empty(), "the API server's metrics tell of no writes");
        Ok(Self(writes))
    }

    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Those of ConfigReplicas: nobody else writes them.
    pub fn by_pods(&self) -> u64 {
        self.0.iter().filter(|(what, _)| what.starts_with("configreplicas")).map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<String> = self.0.iter().map(|(what, count)| format!("{what} {count}")).collect();
        f.write_str(&counts.join(", "))
    }
}
