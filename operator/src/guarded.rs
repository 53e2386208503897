//! A config as it comes off the wire: one that cannot be read does not hide the others.
//!
//! The API server admits values that are nested thousands of levels deep, `serde_json` refuses 128, and
//! with one object the whole list. So every object is taken as text first, and what is nested too
//! deep in it is cut. Resolving refuses a config at a smaller depth, so nothing that is cut would
//! have been used.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Resource,
    core::{PartialObjectMeta, error_boundary::InvalidObject},
};
use quorate_crds::DistributedConfig;
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::value::RawValue;

/// Levels of nesting of an object that are read: more than resolving allows below `spec`, fewer than
/// `serde_json` reads.
const LEVELS: usize = 100;

/// See the module.
#[derive(Clone, Debug)]
pub struct Guarded(pub Result<DistributedConfig, InvalidObject>);

impl<'de> Deserialize<'de> for Guarded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let text = cut(raw.get());
        serde_json::from_str(&text).map(|config| Self(Ok(config))).or_else(|error| {
            let PartialObjectMeta::<DistributedConfig> { metadata, .. } =
                serde_json::from_str(&text).map_err(D::Error::custom)?;
            Ok(Self(Err(InvalidObject { error: error.to_string(), metadata })))
        })
    }
}

/// Puts `null` for every object and array that is nested too deep. The text is valid JSON.
fn cut(json: &str) -> Cow<'_, str> {
    let (mut kept, mut from) = (String::new(), 0);
    let (mut level, mut quoted, mut escaped) = (0_usize, false, false);
    for (at, byte) in json.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' => {
                if level == LEVELS {
                    kept += &json[from..at];
                    kept += "null";
                }
                level += 1;
            }
            b'}' | b']' => {
                level = level.saturating_sub(1);
                if level == LEVELS {
                    from = at + 1;
                }
            }
            _ => {}
        }
    }
    if from == 0 { Cow::Borrowed(json) } else { Cow::Owned(kept + &json[from..]) }
}

impl Resource for Guarded {
    type DynamicType = ();
    type Scope = <DistributedConfig as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        DistributedConfig::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        DistributedConfig::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        DistributedConfig::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        DistributedConfig::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|invalid| &invalid.metadata, Resource::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|invalid| &mut invalid.metadata, Resource::meta_mut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::{ObjectList, WatchEvent};

    fn object(name: &str, inline: &str) -> String {
        format!(
            r#"{{"apiVersion":"quorate.io/v1alpha1","kind":"DistributedConfig","metadata":{{"name":"{name}","namespace":"n"}},
                "spec":{{"layers":[{{"name":"a","inline":{inline}}}],"files":[{{"path":"a.yaml"}}]}}}}"#
        )
    }

    fn nested(levels: usize) -> String {
        r#"{"a":"#.repeat(levels) + "1" + &"}".repeat(levels)
    }

    #[test]
    fn one_object_nested_thousands_of_levels_deep_does_not_hide_the_others() {
        let (good, deep) = (object("good", "{}"), object("deep", &nested(5000)));
        let list = format!(
            r#"{{"apiVersion":"quorate.io/v1alpha1","kind":"DistributedConfigList","metadata":{{"resourceVersion":"1"}},"items":[{deep},{good}]}}"#
        );
        let list: ObjectList<Guarded> = serde_json::from_str(&list).unwrap();
        let names: Vec<_> = list.items.iter().filter_map(|c| c.0.as_ref().ok()?.metadata.name.as_deref()).collect();
        assert_eq!(names, ["deep", "good"]);
        let event = format!(r#"{{"type":"ADDED","object":{deep}}}"#);
        let WatchEvent::Added(seen) = serde_json::from_str::<WatchEvent<Guarded>>(&event).unwrap() else {
            panic!("another event")
        };
        // What is left is still deeper than resolving allows.
        let refused = quorate_resolve::resolve(&seen.0.unwrap(), &quorate_resolve::Sources::default()).unwrap_err();
        assert!(refused.to_string().starts_with("layer a, /: it is nested deeper"), "{refused}");
        // The negative control.
        assert!(serde_json::from_str::<DistributedConfig>(&deep).is_err());
    }

    #[test]
    fn only_what_is_too_deep_is_cut() {
        let shallow = r#"{"a":["}{][\"{",{"b":"\\"}]}"#;
        assert!(matches!(cut(shallow), Cow::Borrowed(text) if text == shallow));
        let inner = format!(r#"["x{{",{},2]"#, nested(LEVELS));
        let text = "[".repeat(LEVELS - 1) + &inner + &"]".repeat(LEVELS - 1);
        let expected = "[".repeat(LEVELS - 1) + r#"["x{",null,2]"# + &"]".repeat(LEVELS - 1);
        assert_eq!(cut(&text), expected);
    }

    #[test]
    fn an_object_of_another_shape_is_known_by_name() {
        let odd = object("odd", "{}").replace(r#""files":["#, r#""files":[17,"#);
        let guarded: Guarded = serde_json::from_str(&odd).unwrap();
        assert_eq!(guarded.meta().name.as_deref(), Some("odd"));
        assert!(guarded.0.is_err());
    }
}
