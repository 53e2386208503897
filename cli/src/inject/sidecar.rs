//! What an injected pod gets.

use serde_json::{Map, Value, json};

use super::{
    Parameters,
    request::{Request, SIDECAR},
};

/// What is handed on as it is.
const OPTIONS: [&str; 7] =
    ["check-exec", "check-http", "notify-exec", "notify-http", "notify-signal", "hook-seconds", "api"];

/// Where clients of the API server look for their token.
pub const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What is added to a pod.
pub struct Addition {
    fs_group: i64,
    volumes: [Value; 2],
    mount: Value,
    /// Which init containers get the mount; all containers do.
    init_readers: Vec<usize>,
    sidecar: Value,
    is_first: bool,
}

/// What a request without problems comes to.
#[must_use]
pub fn addition(request: &Request<'_>, parameters: &Parameters) -> Addition {
    let readers = request.init_containers().iter().enumerate().filter(|(_, container)| request.reads(container));
    Addition {
        fs_group: request.fs_group(),
        volumes: [files_volume(request), token_volume()],
        mount: json!({"name": "quorate", "mountPath": request.setting("path"), "readOnly": true}),
        init_readers: readers.map(|(index, _)| index).collect(),
        sidecar: sidecar(request, parameters),
        is_first: request.is_first(),
    }
}

impl Addition {
    /// Adds it. Ours comes first in each list: what other plugins append then comes in the same order
    /// whether policy or plugin injected.
    pub fn to(self, spec: &mut Value) {
        spec["securityContext"]["fsGroup"] = self.fs_group.into();
        for volume in self.volumes.into_iter().rev() {
            insert(&mut spec["volumes"], true, volume);
        }
        for container in spec["containers"].as_array_mut().into_iter().flatten() {
            insert(&mut container["volumeMounts"], true, self.mount.clone());
        }
        for index in self.init_readers {
            insert(&mut spec["initContainers"][index]["volumeMounts"], true, self.mount.clone());
        }
        insert(&mut spec["initContainers"], self.is_first, self.sidecar);
    }
}

/// Puts an item at the front or the end of a list, which is made where there is none.
fn insert(list: &mut Value, at_front: bool, item: Value) {
    match list {
        Value::Array(items) => items.insert(if at_front { 0 } else { items.len() }, item),
        _ => *list = vec![item].into(),
    }
}

/// In memory, since the files may hold Secrets.
fn files_volume(request: &Request<'_>) -> Value {
    json!({"name": "quorate", "emptyDir": {"medium": "Memory", "sizeLimit": request.setting("volume-size")}})
}

/// The sidecar's own token, so that the application needs none (automountServiceAccountToken: false).
fn token_volume() -> Value {
    json!({"name": "quorate-token", "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]}})
}

fn sidecar(request: &Request<'_>, parameters: &Parameters) -> Value {
    let number = |name: &str| request.setting(name).parse::<i64>().unwrap_or_default();
    let probe = |path: &str, period: u32, failures: u32| {
        json!({"httpGet": {"path": path, "port": "quorate"}, "periodSeconds": period, "timeoutSeconds": 5,
            "failureThreshold": failures})
    };
    json!({
        "name": SIDECAR,
        "image": parameters.get("image"),
        "imagePullPolicy": parameters.get("image-pull-policy"),
        "restartPolicy": "Always",
        "env": env(request, parameters),
        "ports": [{"name": "quorate", "containerPort": number("port")}],
        "resources": {"requests": amounts(request, "request"), "limits": amounts(request, "limit")},
        "startupProbe": probe("/readyz", 1, 600),
        "livenessProbe": probe("/livez", 30, 3),
        "readinessProbe": probe("/readyz", 5, 2),
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": number("user"),
            // Folders lose their set-group bit with their mode, so files get the pod's group this way.
            "runAsGroup": request.fs_group(),
            "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts(request),
    })
}

/// `args` is one value to every tool that merges, `env` is a list by names.
fn env(request: &Request<'_>, parameters: &Parameters) -> Vec<Value> {
    let of_pod = [
        ("POD_NAME", "metadata.name"),
        ("POD_NAMESPACE", "metadata.namespace"),
        ("POD_UID", "metadata.uid"),
        ("NODE_NAME", "spec.nodeName"),
    ];
    let of_pod =
        of_pod.into_iter().map(|(name, path)| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}));
    let ours = [
        ("CONFIG", request.configs.join(",")),
        ("DIRECTORY", request.setting("path").to_owned()),
        ("LISTEN", format!("{}:{}", parameters.get("listen"), request.setting("port"))),
        ("LOG_FORMAT", parameters.get("log-format").to_owned()),
    ];
    let ours = ours.into_iter().map(|(name, value)| json!({"name": format!("QUORATE_{name}"), "value": value}));
    let options = OPTIONS.into_iter().filter_map(|name| Some((name, request.asked(name)?)));
    let options = options.map(|(name, value)| {
        let name = name.to_ascii_uppercase().replace('-', "_");
        json!({"name": format!("QUORATE_{name}"), "value": value})
    });
    of_pod.chain(ours).chain(options).collect()
}

fn amounts(request: &Request<'_>, what: &str) -> Value {
    let amounts = ["cpu", "memory"].into_iter().map(|name| (name, request.setting(&format!("{name}-{what}"))));
    let given = amounts.filter(|(_, amount)| !amount.is_empty());
    Value::Object(given.map(|(name, amount)| (name.to_owned(), amount.into())).collect::<Map<_, _>>())
}

fn mounts(request: &Request<'_>) -> Vec<Value> {
    let mut mounts = vec![
        json!({"name": "quorate", "mountPath": request.setting("path")}),
        json!({"name": "quorate-token", "mountPath": TOKEN_PATH, "readOnly": true}),
    ];
    if let Some(tools) = request.tools() {
        mounts.push(json!({"name": tools["name"], "mountPath": "/tools", "readOnly": true}));
    }
    mounts
}
