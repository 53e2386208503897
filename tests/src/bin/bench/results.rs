//! The rows: `target/bench/results.json`, and the tables that people read.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use quorate_tests::cluster::root;
use serde_json::Value;

pub fn path() -> PathBuf {
    root().join("target/bench/results.json")
}

pub fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Of samples: the one that so many percent are below.
pub fn percentile(mut samples: Vec<f64>) -> impl Fn(usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    move |percent| rounded(samples[(samples.len() * percent / 100).min(samples.len() - 1)])
}

/// One array for all benches: what is measured anew takes the place of what was.
pub fn store(rows: &[Value]) -> Result<()> {
    let path = path();
    fs::create_dir_all(path.parent().context("no folder")?)?;
    let old: Vec<Value> = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{}: delete it", path.display()))?,
        Err(_) => Vec::new(),
    };
    let anew = |old: &Value| rows.iter().any(|row| row["bench"] == old["bench"] && row["name"] == old["name"]);
    let all: Vec<&Value> = old.iter().filter(|old| !anew(old)).chain(rows).collect();
    ensure!(!all.is_empty(), "nothing was measured");
    Ok(fs::write(&path, serde_json::to_string_pretty(&all)? + "\n")?)
}

/// A table for each bench that is among the rows.
pub fn print(rows: &[Value]) {
    let table = |bench: &str, print: fn(&[&Value])| {
        let of_bench: Vec<&Value> = rows.iter().filter(|row| row["bench"] == bench).collect();
        if !of_bench.is_empty() {
            print(&of_bench);
        }
    };
    table("propagation", propagation);
    table("memory", memory);
    table("rollout-500", rollout);
    table("pod-propagation", pods);
    table("pod-start", starts);
}

fn propagation(rows: &[&Value]) {
    let (relay, mirror) = (p50(rows, "relay"), p50(rows, "plain-mirror"));
    println!("\n| propagation, ms | p50 | p99 | n | p50 / relay | p50 / plain-mirror |\n|---|---|---|---|---|---|");
    for row in rows {
        let (p50, p99) = (number(row, "p50"), number(row, "p99"));
        println!("| {} | {p50:.2} | {p99:.2} | {} | {:.2} | {:.2} |", name(row), row["n"], p50 / relay, p50 / mirror);
    }
}

fn memory(rows: &[&Value]) {
    println!("\n| memory, resident MiB | |\n|---|---|");
    for row in rows {
        println!("| {} | {:.1} |", name(row), number(row, "value"));
    }
}

fn pods(rows: &[&Value]) {
    let kubelet = p50(rows, "kubelet-configmap");
    println!("\n| into pods, ms | p50 | max | n | sooner than kubelet-configmap |\n|---|---|---|---|---|");
    for row in rows {
        let (p50, max) = (number(row, "p50"), number(row, "max"));
        println!("| {} | {p50:.1} | {max:.1} | {} | {:.0} x |", name(row), row["n"], kubelet / p50);
    }
}

fn starts(rows: &[&Value]) {
    println!("\n| pod scheduled to application started, ms | p50 | max | n |\n|---|---|---|---|");
    for row in rows {
        println!("| {} | {:.0} | {:.0} | {} |", name(row), number(row, "p50"), number(row, "max"), row["n"]);
    }
}

fn rollout(rows: &[&Value]) {
    let floor = p50(rows, "floor");
    println!(
        "\n| rollout to 500 pods, ms | p50 | max | n | p50 / floor | API writes | operator CPU, s | operator, MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for row in rows {
        let (p50, max, ratio) = (number(row, "p50"), number(row, "max"), number(row, "p50") / floor);
        print!("| {} | {p50:.0} | {max:.0} | {} | {ratio:.2} | {} |", name(row), row["n"], row["writes"]);
        if row["operator_cpu_s"].is_null() {
            println!(" | |");
        } else {
            println!(" {:.2} | {:.1} |", number(row, "operator_cpu_s"), number(row, "operator_mib"));
        }
    }
}

fn name(row: &Value) -> &str {
    row["name"].as_str().unwrap_or_default()
}

fn number(row: &Value, field: &str) -> f64 {
    row[field].as_f64().unwrap_or_default()
}

fn p50(rows: &[&Value], of: &str) -> f64 {
    rows.iter().find(|row| name(row) == of).map_or(f64::NAN, |row| number(row, "p50"))
}
