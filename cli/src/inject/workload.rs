//! Where pods are in objects of other kinds.

use serde_json::Value;

/// The paths of keys and indices to the pods, or templates of pods, of an object: none of a kind that
/// has none.
#[must_use]
pub fn pods(object: &Value) -> Vec<Vec<String>> {
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    let path: &[&str] = match (text("apiVersion"), text("kind")) {
        ("v1", "Pod") => &[],
        ("v1", "PodTemplate") => &["template"],
        ("apps/v1", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("v1", "ReplicationController")
        | ("batch/v1", "Job") => &["spec", "template"],
        ("batch/v1", "CronJob") => &["spec", "jobTemplate", "spec", "template"],
        // What `kubectl get -o yaml` writes.
        (_, kind) if kind.ends_with("List") => return in_items(object),
        _ => return Vec::new(),
    };
    vec![path.iter().map(|token| (*token).to_owned()).collect()]
}

fn in_items(list: &Value) -> Vec<Vec<String>> {
    let items = list["items"].as_array().into_iter().flatten().enumerate();
    let within = |(index, item): (usize, &Value)| {
        let prefix = vec!["items".to_owned(), index.to_string()];
        pods(item).into_iter().map(move |path| [prefix.clone(), path].concat())
    };
    items.flat_map(within).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_kind_has_its_pod_where_kubernetes_has_it() {
        let cases = [
            ("v1", "Pod", Some("")),
            ("v1", "PodTemplate", Some("template")),
            ("v1", "ReplicationController", Some("spec.template")),
            ("apps/v1", "Deployment", Some("spec.template")),
            ("apps/v1", "StatefulSet", Some("spec.template")),
            ("apps/v1", "DaemonSet", Some("spec.template")),
            ("apps/v1", "ReplicaSet", Some("spec.template")),
            ("batch/v1", "Job", Some("spec.template")),
            ("batch/v1", "CronJob", Some("spec.jobTemplate.spec.template")),
            ("v1", "ConfigMap", None),
            ("example.com/v1", "Deployment", None),
        ];
        for (version, kind, expected) in cases {
            let found = pods(&json!({"apiVersion": version, "kind": kind}));
            let found: Vec<String> = found.iter().map(|path| path.join(".")).collect();
            assert_eq!(found, Vec::from_iter(expected), "{kind}");
        }
    }

    #[test]
    fn lists_are_looked_into() {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Secret"}, {"apiVersion": "apps/v1", "kind": "Deployment"},
        ]});
        assert_eq!(pods(&list), [["items", "1", "spec", "template"]]);
    }
}
