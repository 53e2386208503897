//! What a pod asks for by its annotations, and what it has already.

use std::collections::BTreeMap;

use serde_json::Value;

use super::parameters::{Parameters, SETTINGS};

/// The label of pods that are to be injected, when it is "true".
pub const LABEL: &str = "quorate.io/inject";
/// Before the name of every annotation.
pub const PREFIX: &str = "quorate.io/";
/// The sidecar's name.
pub const SIDECAR: &str = "quorate-sidecar";

/// See the module.
#[derive(Debug)]
pub struct Request<'v> {
    /// The annotations, without their prefix.
    pub asked: BTreeMap<String, String>,
    /// What the pod says of [`SETTINGS`], or else the default.
    pub settings: BTreeMap<&'static str, String>,
    /// The configs.
    pub configs: Vec<String>,
    /// The pod's spec.
    pub spec: &'v Value,
}

impl<'v> Request<'v> {
    /// Of a pod, or a template.
    ///
    /// # Errors
    /// What the API server would not even read.
    pub fn of(pod: &'v Value, parameters: &Parameters) -> Result<Self, Vec<String>> {
        if !is_sound(&pod["spec"]) {
            return Err(vec![
                "the pod's spec cannot be read: it needs containers, and they, initContainers and volumes are \
                             lists of objects"
                    .into(),
            ]);
        }
        let (mut asked, mut problems) = (BTreeMap::new(), Vec::new());
        for (key, value) in pod["metadata"]["annotations"].as_object().into_iter().flatten() {
            match (key.strip_prefix(PREFIX), value.as_str()) {
                (None, _) => {}
                (Some(name), Some(text)) => drop(asked.insert(name.to_owned(), text.to_owned())),
                (Some(_), None) => problems.push(format!("{key} must be text: put its value in quotes")),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let setting = |name: &'static str| {
            let default = || parameters.get(name).to_owned();
            (name, asked.get(name).cloned().unwrap_or_else(default))
        };
        let settings = SETTINGS.into_iter().map(setting).collect();
        let names = asked.get("config").map(String::as_str).unwrap_or_default();
        let configs = names.split(',').map(|name| name.trim().to_owned()).collect();
        Ok(Self { asked, settings, configs, spec: &pod["spec"] })
    }

    /// What an annotation says.
    #[must_use]
    pub fn asked(&self, name: &str) -> Option<&str> {
        self.asked.get(name).map(String::as_str)
    }

    /// A setting.
    #[must_use]
    pub fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map(String::as_str).unwrap_or_default()
    }

    /// The containers.
    #[must_use]
    pub fn containers(&self) -> &'v [Value] {
        list(&self.spec["containers"])
    }

    /// The init containers.
    #[must_use]
    pub fn init_containers(&self) -> &'v [Value] {
        list(&self.spec["initContainers"])
    }

    /// The volumes.
    #[must_use]
    pub fn volumes(&self) -> &'v [Value] {
        list(&self.spec["volumes"])
    }

    /// Whether the pod has a sidecar already.
    #[must_use]
    pub fn is_injected(&self) -> bool {
        self.init_containers().iter().any(|container| container["name"] == SIDECAR)
    }

    /// Whether the sidecar comes before all other init containers.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.setting("order") == "first"
    }

    /// Whether an init container runs when the files are there: what ended before does not need them.
    #[must_use]
    pub fn reads(&self, init_container: &Value) -> bool {
        init_container["name"] != SIDECAR && (self.is_first() || init_container["restartPolicy"] == "Always")
    }

    /// All containers that run when the files are there, apart from the sidecar.
    pub fn readers(&self) -> impl Iterator<Item = &'v Value> {
        self.init_containers().iter().filter(|container| self.reads(container)).chain(self.containers())
    }

    /// Whether a native sidecar runs before this one.
    #[must_use]
    pub fn has_forerunner(&self) -> bool {
        !self.is_first() && self.init_containers().iter().any(|container| self.reads(container))
    }

    /// The hooks that run a program.
    pub fn programs(&self) -> impl Iterator<Item = &'static str> {
        ["check-exec", "notify-exec"].into_iter().filter(|name| self.asked.contains_key(*name))
    }

    /// The volume with the user's programs.
    #[must_use]
    pub fn tools(&self) -> Option<&'v Value> {
        let name = self.asked("tools-volume")?;
        self.volumes().iter().find(|volume| volume["name"] == name)
    }

    /// The pod's own group for volumes; ours if it has none.
    #[must_use]
    pub fn fs_group(&self) -> i64 {
        self.spec["securityContext"]["fsGroup"].as_i64().unwrap_or(65532)
    }
}

/// Whether a spec has the shape that all else here relies on.
fn is_sound(spec: &Value) -> bool {
    let are_objects = |value: &Value| value.is_null() || value.is_array() && list(value).iter().all(Value::is_object);
    let mut containers = list(&spec["containers"]).iter().chain(list(&spec["initContainers"]));
    !list(&spec["containers"]).is_empty()
        && ["containers", "initContainers", "volumes"].iter().all(|name| are_objects(&spec[*name]))
        && containers.all(|container| are_objects(&container["volumeMounts"]))
        && (spec["securityContext"].is_null() || spec["securityContext"].is_object())
}

/// A list, also where there is none.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
