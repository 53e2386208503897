//! What the chart holds: the CRDs of the types, rights with reasons, metrics that exist.

use std::{collections::BTreeSet, fs};

use quorate_tests::{
    cluster::root,
    helm::{Helm, chart},
};
use serde_json::Value;

/// The documents of a manifest.
fn documents(manifest: &str) -> Vec<Value> {
    let documents = manifest.split("\n---").map(|text| serde_yaml::from_str::<Value>(text).unwrap());
    documents.filter(|document| !document.is_null()).collect()
}

const EVERYTHING: &[&str] = &["--values", concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/quorate/ci/all-values.yaml")];

fn rendered(arguments: &[&str]) -> Vec<Value> {
    documents(&Helm::new(None).unwrap().template(arguments).unwrap())
}

#[test]
fn the_crds_are_those_of_the_types_and_nothing_else() {
    let mut rendered = rendered(&["--show-only", "templates/crds.yaml"]);
    for crd in &mut rendered {
        let metadata = crd["metadata"].as_object_mut().unwrap();
        assert_eq!(metadata.remove("annotations").unwrap()["helm.sh/resource-policy"], "keep");
        assert!(metadata.remove("labels").is_some());
    }
    let expected: Vec<Value> =
        quorate_crds::crd_documents().unwrap().iter().map(|(_, text)| serde_yaml::from_str(text).unwrap()).collect();
    let by_name = |crds: &[Value]| {
        let mut texts: Vec<String> = crds.iter().map(ToString::to_string).collect();
        texts.sort();
        texts
    };
    assert_eq!(by_name(&rendered), by_name(&expected));
}

#[test]
fn a_package_holds_the_crds_and_no_sources() {
    let folder = tempfile::tempdir().unwrap();
    let (destination, chart) = (folder.path().display().to_string(), chart().display().to_string());
    let helm = Helm::new(None).unwrap();
    helm.run(&["package", &chart, "--destination", &destination]).unwrap();
    let package = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let listed = std::process::Command::new("tar").arg("tf").arg(&package).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("quorate/files/crds/quorate.io_distributedconfigs.yaml"), "{listed}");
    assert!(!listed.contains(".rs") && !listed.contains("ci/") && !listed.contains("Cargo"), "{listed}");
    // What is installed from the package is what is tested here.
    let package = package.display().to_string();
    let from_package = helm.run(&["template", "quorate", &package, "--namespace", "quorate-system"]).unwrap();
    assert_eq!(from_package, helm.template(&[]).unwrap());
}

#[test]
fn no_right_is_a_wildcard_or_makes_more_rights() {
    let mut rules = 0;
    for object in rendered(EVERYTHING) {
        for rule in object["rules"].as_array().into_iter().flatten() {
            rules += 1;
            let words = ["apiGroups", "resources", "verbs"].map(|list| rule[list].as_array().unwrap().clone()).concat();
            for word in words {
                let word = word.as_str().unwrap();
                let harmless = !word.contains('*') && !["escalate", "bind", "impersonate"].contains(&word);
                assert!(harmless, "{} has {word}", object["metadata"]["name"]);
            }
        }
    }
    assert!(rules > 10);
}

#[test]
fn every_rule_of_operator_and_users_says_why() {
    for file in ["_rules.tpl", "users-rbac.yaml", "users-coordination.yaml"] {
        let text = fs::read_to_string(chart().join("templates").join(file)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("- apiGroups")) {
            assert!(lines[number - 1].starts_with("# "), "{file}:{}: {line}: no reason above it", number + 1);
        }
    }
}

#[test]
fn secrets_are_the_operators_alone() {
    for object in rendered(EVERYTHING) {
        assert_ne!(object["roleRef"]["name"], "quorate-members", "{object}");
        for rule in object["rules"].as_array().into_iter().flatten() {
            let of_secrets = rule["resources"].as_array().unwrap().iter().any(|resource| resource == "secrets");
            let named = rule["resourceNames"].as_array().is_some();
            let whose = object["metadata"]["name"].as_str().unwrap();
            // The role for other clusters is for people to bind, and part of no other.
            let of_members =
                whose == "quorate-members" && !object["metadata"]["labels"].to_string().contains("aggregate");
            assert!(!of_secrets || named || whose == "quorate-operator" || of_members, "{whose}");
        }
    }
}

#[test]
fn whoever_has_no_rights_for_the_cluster_can_install_as_the_guide_says() {
    let guide = fs::read_to_string(root().join("docs/install.md")).unwrap();
    let (_, command) = guide.split_once("helm install … ").unwrap();
    let command = command.split("\n\n").next().unwrap().replace("\\\n", " ");
    let words: Vec<&str> = command.split_whitespace().collect();
    let of_the_cluster = |arguments: &[&str]| {
        let kinds = rendered(arguments).into_iter().map(|object| object["kind"].as_str().unwrap().to_owned());
        let of_cluster = |kind: &String| {
            kind.starts_with("Cluster") || kind.contains("Admission") || kind == "CustomResourceDefinition"
        };
        kinds.filter(of_cluster).collect::<BTreeSet<String>>()
    };
    let namespaces = ["--set", "operator.namespaces={shop}"];
    assert_eq!(of_the_cluster(&[&namespaces, &words[..]].concat()), BTreeSet::new());
    // It would be seen.
    assert!(of_the_cluster(&namespaces).len() > 3);
}

/// The names of Quorate's metrics in an expression.
fn metrics_of(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("quorate_")).map(str::to_owned).collect()
}

/// All strings below a key, wherever it is.
fn strings_of(value: &Value, key: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if let (true, Some(text)) = (name == key, value.as_str()) {
                    found.push(text.to_owned());
                }
                strings_of(value, key, found);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| strings_of(value, key, found)),
        _ => {}
    }
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_exist() {
    let operator = quorate_operator::metrics::Metrics::default();
    operator.error("any");
    operator.rollout("refused");
    let sidecar = quorate_sidecar::metrics::Metrics::default();
    sidecar.error("any");
    sidecar.shown("web", 1);
    sidecar.aged("web", std::time::Duration::from_secs(1), false);
    let known = metrics_of(&(operator.text() + &sidecar.text()));

    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(chart().join("files/dashboard.json")).unwrap()).unwrap();
    let alerts = rendered(&[EVERYTHING, &["--show-only", "templates/metrics-prometheusrule.yaml"]].concat());
    let mut expressions = Vec::new();
    strings_of(&dashboard, "expr", &mut expressions);
    strings_of(&dashboard, "query", &mut expressions);
    strings_of(&alerts[0], "expr", &mut expressions);
    assert!(expressions.len() > 20);
    for expression in &expressions {
        let unknown: Vec<String> = metrics_of(expression).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{expression}: {unknown:?} are no metrics; there are {known:?}");
    }
}

#[test]
fn every_alert_has_its_words_in_the_operations_guide() {
    let guide = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let alerts = rendered(&[EVERYTHING, &["--show-only", "templates/metrics-prometheusrule.yaml"]].concat());
    let mut names = Vec::new();
    strings_of(&alerts[0], "alert", &mut names);
    assert!(!names.is_empty());
    for name in names {
        assert!(guide.contains(&name), "docs/operations.md does not say what {name} means");
    }
}
