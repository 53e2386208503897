//! For every value toggle the chart lints, renders, and is what a real API server accepts.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use quorate_tests::{
    Cluster,
    cluster::root,
    helm::{Helm, chart},
};
use serde_json::Value;

use crate::values::defaults;

/// What a toggle cannot be flipped without.
const COMPANIONS: &[(&str, &str)] = &[("serviceAccount.create", "serviceAccount.name=mine")];

/// One way to set values: a name, and arguments of Helm.
type Row = (String, Vec<String>);

/// The defaults; each switch of values.yaml turned over, so that a new one cannot be forgotten; and the files in ci/, for what
/// is no switch.
fn rows() -> Vec<Row> {
    let mut rows = vec![("defaults".to_owned(), Vec::new())];
    switches(&defaults(), "", &mut rows);
    for file in fs::read_dir(chart().join("ci")).unwrap() {
        let path = file.unwrap().path().display().to_string();
        rows.push((path.clone(), vec!["--values".into(), path]));
    }
    rows
}

fn switches(values: &Value, place: &str, rows: &mut Vec<Row>) {
    for (name, value) in values.as_object().into_iter().flatten() {
        let path = format!("{place}{name}");
        if let Some(on) = value.as_bool() {
            let flipped = format!("{path}={}", !on);
            let companion = COMPANIONS.iter().find(|(of, _)| *of == path).map(|(_, needs)| (*needs).to_owned());
            let sets = [Some(flipped.clone()), companion].into_iter().flatten();
            rows.push((flipped, sets.flat_map(|set| ["--set".to_owned(), set]).collect()));
        }
        switches(value, &format!("{path}."), rows);
    }
}

/// kubectl apply --dry-run=server, where every warning is an error: a field that is unknown or deprecated, a pod that
/// Pod Security would not let in, a policy whose expressions do not fit.
fn try_out(cluster: &Cluster, manifest: &str) -> Result<(), String> {
    let mut child = Command::new(cluster.kubectl_path())
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig(0))
        .args(["apply", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() && said.is_empty() { Ok(()) } else { Err(said) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_api_server_accepts_every_way_to_set_the_values() {
    let (cluster, helm) = (Cluster::start().await.unwrap(), Helm::new(None).unwrap());
    let apply = |path: &str| cluster.kubectl(&["apply", "-f", &root().join(path).display().to_string()]).unwrap();
    // The test's DistributedConfig is accepted by its own CRD.
    for (file, _) in quorate_crds::crd_documents().unwrap() {
        apply(&format!("crds/{file}"));
    }
    apply("tests/tests/chart/prerequisites.yaml");

    let rows = rows();
    assert!(rows.len() > 15, "{rows:?}");
    for (name, arguments) in rows {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let chart = chart().display().to_string();
        helm.run(&[&["lint", "--strict", "--quiet", &chart], &arguments[..]].concat()).unwrap();
        let manifest = helm.template(&arguments).unwrap();
        try_out(&cluster, &manifest).unwrap_or_else(|said| panic!("{name}: {said}"));
    }

    // The check does see what is wrong.
    let manifest = helm.template(&[]).unwrap();
    for (good, bad, says) in [
        ("readOnlyRootFilesystem: true", "readonlyRootFilesystem: true", "unknown field"),
        ("drop: [ALL]", "drop: [CHOWN]", "PodSecurity"),
        ("maxUnavailable: 1", "maxUnavailable: -1", "must be greater than or equal to 0"),
    ] {
        let said = try_out(&cluster, &manifest.replace(good, bad)).unwrap_err();
        assert!(said.contains(says), "{bad}: {said}");
    }
}
