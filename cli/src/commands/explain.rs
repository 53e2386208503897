//! `explain`: which layer gave each value that pods read, and whose values that overrode.
//!
//! The head says it, without values. Values come from resolving the layers again with the user's
//! own rights, and are shown only if that gives exactly what the head holds; those from Secrets
//! never are.

use std::collections::BTreeMap;

use kube::ResourceExt;
use quorate_crds::{DistributedConfig, Layer, head::Head, names};
use quorate_resolve::{Merged, Provenance, SourceKind, SourceRef, Sources, Tree, merge, resolve};
use serde::Serialize;
use serde_json::Value;

use crate::{
    answer::{Answer, note},
    cluster::Cluster,
    exit::{Exit, Failure, Result},
    format::{Cell, Style, Tone, table},
    options, pointer, snapshot, stored,
};

/// What stands for a value from a Secret.
const REDACTED: &str = "«redacted»";
/// The longest value that a table shows.
const VALUE: usize = 60;

/// Who gave each value.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The config's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The revision this explains; absent when it is of the layers as they are, not of what pods read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// The layers, lowest precedence first.
    pub layers: Vec<LayerView>,
    /// The values asked for.
    pub keys: Vec<Key>,
    /// Why something is missing here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A layer.
#[derive(Debug, PartialEq, Serialize)]
pub struct LayerView {
    /// Its name.
    pub name: String,
    /// Where its values come from.
    pub source: String,
}

/// A leaf: a scalar, a list or an empty object.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    /// Its pointer.
    pub key: String,
    /// Its value, where it is known and no Secret's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// Whether the value is a Secret's, where that is known.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
    /// Whether a null deleted it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// The layer that gave it, or deleted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// The layers it overrode, newest first.
    pub overrode: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// When the config or key does not exist, or neither the head nor the layers may be read.
pub async fn run(cluster: &Cluster, answer: Answer, options: &options::Explain) -> Result {
    let asked = pointer::tokens(options.key.as_deref().unwrap_or_default()).map_err(Failure::error)?;
    let config = cluster.config(&options.name).await?;
    let head = head(cluster, &config).await;
    let sources = snapshot::of(cluster, &config).await;
    let explanation = explain(&config, head, sources, &pointer::of(&asked))?;
    if explanation.keys.is_empty() {
        return Err(Failure::not_found(format!(
            "DistributedConfig {}/{} has no value at {}",
            explanation.namespace,
            explanation.name,
            options.key.as_deref().unwrap_or("/")
        )));
    }
    if let Some(text) = &explanation.note {
        note(text);
    }
    answer.give(&explanation, |style| text(style, &explanation))?;
    Ok(Exit::Ok)
}

async fn head(cluster: &Cluster, config: &DistributedConfig) -> Result<Option<Head>> {
    stored::read(cluster, config, &names::head_name(&config.name_any()), names::HEAD_TYPE).await
}

fn explain(
    config: &DistributedConfig,
    head: Result<Option<Head>>,
    sources: Result<Sources>,
    asked: &str,
) -> Result<Explanation> {
    let resolved = sources.and_then(|sources| resolved(config, &sources));
    let (provenance, revision, merged, note) = match (head, resolved) {
        (Ok(Some(head)), resolved) => {
            let stored: Option<Provenance> = serde_json::from_slice(&head.bundle.provenance).ok();
            let provenance = stored.ok_or_else(|| {
                Failure::not_found(format!(
                    "revision {} tells nothing of its layers: there was no room for it beside the files",
                    head.revision
                ))
            })?;
            let (merged, note) = match resolved {
                Ok((bundle, merged)) if bundle.hash == head.hash && bundle.provenance == head.bundle.provenance => {
                    (Some(merged), None)
                }
                Ok(_) => {
                    (None, Some(format!("values are not shown: the layers do not give revision {} now", head.revision)))
                }
                Err(failure) => (None, Some(format!("values are not shown: {failure}"))),
            };
            (provenance, Some(head.revision), merged, note)
        }
        (head, Ok((_, merged))) => {
            let why = head.err().map_or_else(|| "nothing is published yet".to_owned(), |failure| failure.message);
            let note = format!("this is what the layers give now, not what pods read: {why}");
            (Provenance::of(&merged), None, Some(merged), Some(note))
        }
        (Err(failure), Err(_)) | (Ok(None), Err(failure)) => return Err(failure),
    };
    Ok(Explanation {
        namespace: config.namespace().unwrap_or_default(),
        name: config.name_any(),
        revision,
        layers: provenance.layers.iter().map(|name| layer_view(config, name)).collect(),
        keys: keys(&provenance, merged.as_ref(), asked),
        note,
    })
}

struct Resolved {
    hash: String,
    provenance: Vec<u8>,
}

fn resolved(config: &DistributedConfig, sources: &Sources) -> Result<(Resolved, Merged)> {
    let failed =
        |problems: &dyn std::fmt::Display| Failure::error(format!("the layers do not resolve now: {problems}"));
    let bundle = resolve(config, sources).map_err(|problems| failed(&problems))?;
    let merged = merge(config, sources).map_err(|problems| failed(&problems))?;
    Ok((Resolved { hash: bundle.hash(), provenance: bundle.provenance }, merged))
}

fn keys(provenance: &Provenance, merged: Option<&Merged>, asked: &str) -> Vec<Key> {
    let mut values = BTreeMap::new();
    if let Some(merged) = merged {
        merged.tree.visit_leaves(&mut |pointer, leaf| {
            values.insert(pointer.to_owned(), leaf);
        });
    }
    let name = |index: &u16| provenance.layers.get(usize::from(*index)).cloned().unwrap_or_default();
    // A list is one leaf: what is asked for may be a part of it.
    let relevant = |key: &str| pointer::is_within(key, asked) || (!key.is_empty() && pointer::is_within(asked, key));
    let key = |(key, layers): (&String, &Vec<u16>), deleted: bool| {
        let leaf = values.get(key).copied().filter(|_| !deleted);
        let secret = leaf.is_some_and(Tree::secret);
        Key {
            key: if key.is_empty() { "/".to_owned() } else { key.clone() },
            value: leaf.filter(|_| !secret).and_then(Tree::value),
            secret,
            deleted,
            layer: layers.first().map(name),
            overrode: layers.iter().skip(1).map(name).collect(),
        }
    };
    let given = provenance.leaves.iter().filter(|(pointer, _)| relevant(pointer)).map(|leaf| key(leaf, false));
    let deleted = provenance.deleted.iter().filter(|(pointer, _)| relevant(pointer)).map(|leaf| key(leaf, true));
    let mut all: Vec<Key> = given.chain(deleted).collect();
    all.sort_by(|a, b| a.key.cmp(&b.key));
    all
}

/// A layer by the name that provenance gives it: `platform/base` is inside another config.
fn layer_view(config: &DistributedConfig, name: &str) -> LayerView {
    let (own, inner) = name.split_once('/').map_or((name, None), |(own, inner)| (own, Some(inner)));
    let layer = config.spec.layers.iter().find(|layer| layer.name == own);
    let source = layer.map_or_else(|| "a layer that is not in the spec any more".to_owned(), |l| source(config, l));
    let source = inner.map_or_else(|| source.clone(), |inner| format!("layer {inner} of {source}"));
    LayerView { name: name.to_owned(), source }
}

fn source(config: &DistributedConfig, layer: &Layer) -> String {
    let own = config.namespace().unwrap_or_default();
    let reference = |kind, namespace: &str, name: &str| {
        SourceRef { kind, namespace: namespace.to_owned(), name: name.to_owned() }.to_string()
    };
    let object = |kind, object: &quorate_crds::ObjectRef| {
        let key = object.key.as_ref().map(|key| format!(" key {key}")).unwrap_or_default();
        reference(kind, &own, &object.name) + &key
    };
    let from = match (&layer.config_map_ref, &layer.secret_ref, &layer.config_ref) {
        (Some(map), ..) => object(SourceKind::ConfigMap, map),
        (_, Some(secret), _) => object(SourceKind::Secret, secret),
        (.., Some(target)) => {
            reference(SourceKind::DistributedConfig, target.namespace.as_deref().unwrap_or(&own), &target.name)
        }
        _ => "inline".to_owned(),
    };
    layer.at.as_ref().map_or_else(|| from.clone(), |at| format!("{from} at {at}"))
}

fn text(style: Style, explanation: &Explanation) -> String {
    let rows: Vec<Vec<Cell>> = explanation
        .keys
        .iter()
        .map(|key| {
            let value = match &key.value {
                _ if key.deleted => Cell::toned("(deleted)", Tone::Faint),
                _ if key.secret => Cell::toned(REDACTED, Tone::Faint),
                Some(value) => shortened(&value.to_string()).into(),
                None => "".into(),
            };
            let layer = Cell::toned(key.layer.as_deref().unwrap_or_default(), Tone::Good);
            vec![(&key.key).into(), value, layer, Cell::toned(key.overrode.join(", "), Tone::Faint)]
        })
        .collect();
    let mut text = match explanation.revision {
        Some(revision) => format!("{}/{}, revision {revision}\n\n", explanation.namespace, explanation.name),
        None => format!("{}/{}\n\n", explanation.namespace, explanation.name),
    };
    text += &table(style, &["KEY", "VALUE", "LAYER", "OVERRODE"], &rows);
    let layers: Vec<Vec<Cell>> =
        explanation.layers.iter().map(|layer| vec![(&layer.name).into(), (&layer.source).into()]).collect();
    text + "\n" + &table(style, &["LAYER", "SOURCE (the last wins)"], &layers)
}

fn shortened(value: &str) -> String {
    if value.chars().count() <= VALUE {
        return value.to_owned();
    }
    value.chars().take(VALUE - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PLAIN, at};
    use quorate_resolve::Keys;
    use serde_json::json;
    use std::sync::Arc;

    fn config() -> DistributedConfig {
        serde_json::from_value(json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
            "spec": {
                "layers": [
                    {"name": "base", "inline": {"server": {"port": 8080, "hosts": ["a", "b"], "debug": true}, "db": {"user": "web"}}},
                    {"name": "region", "configMapRef": {"name": "web-eu", "key": "values.yaml"}},
                    {"name": "creds", "at": "/db", "secretRef": {"name": "web-db"}}
                ],
                "files": [{"path": "app.yaml"}]
            }
        }))
        .unwrap()
    }

    fn sources(port: &str) -> Sources {
        let keys =
            |name: &str, value: &str| Some(Arc::new(Keys([(name.to_owned(), value.as_bytes().to_vec())].into())));
        let reference = |kind, name: &str| SourceRef { kind, namespace: "shop".into(), name: name.into() };
        let region = format!("server: {{port: {port}, debug: null}}");
        let mut sources = Sources::default();
        sources.keys.insert(reference(SourceKind::ConfigMap, "web-eu"), keys("values.yaml", &region));
        sources.keys.insert(reference(SourceKind::Secret, "web-db"), keys("password", "hunter2"));
        sources
    }

    fn head() -> Head {
        Head::next(None, 7, resolve(&config(), &sources("8443")).unwrap(), at(0))
    }

    #[test]
    fn who_won_and_whom_it_overrode_with_values_but_for_secrets() {
        let explanation = explain(&config(), Ok(Some(head())), Ok(sources("8443")), "").unwrap();
        assert_eq!(explanation.note, None);
        let text = text(PLAIN, &explanation);
        assert_eq!(
            text,
            "shop/web, revision 7\n\
             \n\
             KEY             VALUE        LAYER    OVERRODE\n\
             /db/password    «redacted»   creds\n\
             /db/user        \"web\"        base\n\
             /server/debug   (deleted)    region   base\n\
             /server/hosts   [\"a\",\"b\"]    base\n\
             /server/port    8443         region   base\n\
             \n\
             LAYER    SOURCE (the last wins)\n\
             base     inline\n\
             region   ConfigMap shop/web-eu key values.yaml\n\
             creds    Secret shop/web-db at /db\n"
        );
        let json = serde_json::to_string(&explanation).unwrap();
        assert!(!json.contains("hunter2") && json.contains("\"secret\":true"), "{json}");
    }

    #[test]
    fn a_key_lists_what_is_below_it_or_the_list_it_is_in() {
        let keys = |asked: &str| -> Vec<String> {
            let explanation = explain(&config(), Ok(Some(head())), Ok(sources("8443")), asked).unwrap();
            explanation.keys.into_iter().map(|key| key.key).collect()
        };
        assert_eq!(keys("/db"), ["/db/password", "/db/user"]);
        assert_eq!(keys("/server/port"), ["/server/port"]);
        assert_eq!(keys("/server/hosts/1"), ["/server/hosts"]);
        assert_eq!(keys("/serv"), [""; 0]);
    }

    #[test]
    fn values_are_shown_only_if_they_are_what_pods_read() {
        let valueless = |sources: Result<Sources>, why: &str| {
            let explanation = explain(&config(), Ok(Some(head())), sources, "/server/port").unwrap();
            assert!(explanation.note.clone().unwrap_or_default().contains(why), "{explanation:?}");
            assert_eq!((explanation.keys[0].layer.as_deref(), &explanation.keys[0].value), (Some("region"), &None));
        };
        valueless(Ok(sources("9")), "the layers do not give revision 7 now");
        valueless(Err(Failure::error("get Secret shop/web-db: forbidden (403)")), "forbidden (403)");
        valueless(Ok(Sources::default()), "the layers do not resolve now");
    }

    #[test]
    fn without_a_head_the_layers_are_explained_and_it_is_said() {
        let forbidden = Failure::error("get Secret shop/web.quorate: forbidden (403)");
        let explanation = explain(&config(), Err(forbidden.clone()), Ok(sources("8443")), "").unwrap();
        assert_eq!((explanation.revision, explanation.keys.len()), (None, 5));
        assert!(explanation.note.unwrap().contains("not what pods read"));
        assert_eq!(explain(&config(), Err(forbidden.clone()), Err(Failure::error("x")), ""), Err(forbidden));
    }
}
