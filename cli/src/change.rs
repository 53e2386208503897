//! Changes to a config: read, decide, write what was read, again if somebody came between.

use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use quorate_crds::DistributedConfig;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, call},
    exit::{Failure, Result},
};

/// How often a write is tried again after somebody else's, or without an answer.
const TRIES: usize = 8;
/// Whose change it is, in managedFields.
const MANAGER: &str = "kubectl-quorate";

/// What to do to a config as it was read.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// It is so already.
    Nothing,
    /// Merge this into it (RFC 7396).
    Merge(Value),
}

/// Carries a plan out. `plan` is asked again whenever the config is another one than was read, so
/// that nothing is done to what the user has not seen; it refuses by an error. Returns the config
/// as it is then, and whether anything was written.
///
/// # Errors
/// Those of the plan and of the API server.
pub async fn change(
    cluster: &Cluster,
    name: &str,
    plan: impl Fn(&DistributedConfig) -> Result<Plan>,
) -> Result<(DistributedConfig, bool)> {
    let what = format!("DistributedConfig {}/{name}", cluster.namespace);
    let (mut uid, mut written) = (None, false);
    let mut unknown = None;
    for _ in 0..TRIES {
        let config = cluster.config(name).await?;
        if *uid.get_or_insert_with(|| config.uid()) != config.uid() {
            return Err(Failure::error(format!(
                "{what} was deleted and made again meanwhile; look at the new one first"
            )));
        }
        let Plan::Merge(merge) = plan(&config)? else { return Ok((config, written)) };
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let patch = Patch::Merge(conditional(merge, &config));
        match call(&format!("patch {what}"), cluster.configs().patch(name, &params, &patch)).await {
            Ok(config) => return Ok((config, true)),
            // Somebody else wrote, or our own write without an answer did land: the next reading tells.
            Err(error) if error.code == Some(409) => {}
            Err(error) if error.code.is_none() || error.code >= Some(500) => {
                written = true;
                unknown = Some(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(unknown.map_or_else(
        || Failure::error(format!("{what} is changed by others all the time; nothing was done, try again")),
        |error| Failure::error(format!("{}; whether it was done is not known", error.message())),
    ))
}

/// The patch, on condition that the object is still the one that was read.
fn conditional(mut merge: Value, config: &DistributedConfig) -> Value {
    let version = json!({"uid": config.uid(), "resourceVersion": config.resource_version()});
    json_merge(&mut merge, json!({"metadata": version}));
    merge
}

fn json_merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                json_merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// A plan that sets an annotation, or removes it.
#[must_use]
pub fn annotate(config: &DistributedConfig, annotation: &str, value: Option<&str>) -> Plan {
    if config.annotations().get(annotation).map(String::as_str) == value {
        return Plan::Nothing;
    }
    Plan::Merge(json!({"metadata": {"annotations": {annotation: value}}}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{config, config_with};

    #[test]
    fn a_patch_names_the_object_it_is_meant_for() {
        let Plan::Merge(merge) = annotate(&config(), "quorate.io/abort", Some("4")) else { panic!("nothing to do?") };
        assert_eq!(
            conditional(merge, &config()),
            json!({"metadata": {"annotations": {"quorate.io/abort": "4"}, "uid": "u1", "resourceVersion": "10"}})
        );
    }

    #[test]
    fn what_is_so_already_is_not_written() {
        let paused = config_with(&|c| {
            c.metadata.annotations = Some([("quorate.io/paused".to_owned(), "true".to_owned())].into());
        });
        assert_eq!(annotate(&paused, "quorate.io/paused", Some("true")), Plan::Nothing);
        assert_eq!(annotate(&config(), "quorate.io/paused", None), Plan::Nothing);
        let removal = Plan::Merge(json!({"metadata": {"annotations": {"quorate.io/paused": null}}}));
        assert_eq!(annotate(&paused, "quorate.io/paused", None), removal);
    }
}
