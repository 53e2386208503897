//! What a sidecar takes in its pod, after its work: its container has a cgroup of its own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Ground;
use crate::results::rounded;

const MIB: f64 = 1024.0 * 1024.0;

/// The row: all that is charged to the cgroup (its files in memory, too) without what the kernel would drop first, which is what
/// kubelet counts; and the pages of the program itself, which this node's disk, being memory, charges to containerd.
pub async fn measure(ground: &Ground) -> Result<Value> {
    let pod = ground.pods().get("bench").await?;
    let statuses = pod.status.and_then(|status| status.init_container_statuses).unwrap_or_default();
    let sidecar = statuses.into_iter().find(|container| container.name == "quorate-sidecar");
    let id = sidecar.and_then(|sidecar| sidecar.container_id).context("pod bench has no sidecar")?;
    let status = ground.node()?.process(&id)?;
    // All that is resident but no data of its own; KiB.
    let program = field(&status, "VmRSS:").zip(field(&status, "RssAnon:")).map(|(all, own)| (all - own) * 1024.0);
    let program = program.context("no VmRSS or RssAnon")?;

    let name = id.trim_start_matches("containerd://");
    let pods = ground.node()?.machine().cgroup();
    // Version 2 has one hierarchy, version 1 one of memory.
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/memory"].map(|root| Path::new(root).join(pods));
    let cgroup = roots.iter().find_map(|root| found(root, name, "memory.stat")).context("the sidecar has no cgroup")?;
    let usage = number(&cgroup, "memory.current").or_else(|_| number(&cgroup, "memory.usage_in_bytes"))?;
    let stat = fs::read_to_string(cgroup.join("memory.stat"))?;
    // Version 1 has another without `total_`, which leaves out what is below.
    let inactive = field(&stat, "total_inactive_file ").or_else(|| field(&stat, "inactive_file "));
    let charged = usage - inactive.context("no inactive_file")?;
    Ok(json!({
        "bench": "memory", "name": "sidecar-pod", "unit": "MiB", "value": rounded((charged + program) / MIB),
        "cgroup": rounded(charged / MIB), "program": rounded(program / MIB),
    }))
}

/// The number of a line `NAME NUMBER …`.
fn field(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// The folder of this name, somewhere below, that has this file.
fn found(below: &Path, name: &str, file: &str) -> Option<PathBuf> {
    let candidate = below.join(name);
    if candidate.join(file).exists() {
        return Some(candidate);
    }
    let entries = fs::read_dir(below).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).find_map(|path| found(&path, name, file))
}

fn number(cgroup: &Path, file: &str) -> Result<f64> {
    Ok(fs::read_to_string(cgroup.join(file))?.trim().parse()?)
}
