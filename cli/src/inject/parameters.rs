//! What the chart's parameter ConfigMap says: the image, and the defaults of what pods choose.

use std::collections::BTreeMap;

use serde_json::Value;

/// The parameters that a pod overrides by an annotation of the same name.
pub const SETTINGS: [&str; 9] =
    ["path", "order", "port", "user", "memory-request", "memory-limit", "cpu-request", "cpu-limit", "volume-size"];

/// The others.
const FIXED: [&str; 4] = ["image", "image-pull-policy", "listen", "log-format"];

/// See the module. The default is what the chart's own values come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters(BTreeMap<String, String>);

impl Default for Parameters {
    fn default() -> Self {
        let image = concat!("quorate/quorate-sidecar:", env!("CARGO_PKG_VERSION"));
        let all = [
            ("image", image),
            ("image-pull-policy", "IfNotPresent"),
            ("listen", "0.0.0.0"),
            ("log-format", "text"),
            ("path", "/etc/quorate"),
            ("order", "first"),
            ("port", "8281"),
            ("user", "65532"),
            ("memory-request", "16Mi"),
            ("memory-limit", "64Mi"),
            ("cpu-request", "5m"),
            ("cpu-limit", ""),
            ("volume-size", "32Mi"),
        ];
        Self(all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

impl Parameters {
    /// Those of a ConfigMap.
    ///
    /// # Errors
    /// What it lacks.
    pub fn of(config_map: &Value) -> Result<Self, String> {
        let value = |name: &&str| {
            let value = config_map["data"][*name].as_str().ok_or_else(|| format!("its data has no {name}"))?;
            Ok(((*name).to_owned(), value.to_owned()))
        };
        FIXED.iter().chain(&SETTINGS).map(value).collect::<Result<_, _>>().map(Self)
    }

    /// With another image.
    #[must_use]
    pub fn with_image(mut self, image: String) -> Self {
        self.0.insert("image".into(), image);
        self
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map(String::as_str).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_config_map_gives_all_parameters_or_says_what_it_lacks() {
        let mut map = json!({"data": Parameters::default().0});
        map["data"]["image"] = "mine:1".into();
        assert_eq!(Parameters::of(&map), Ok(Parameters::default().with_image("mine:1".into())));
        map["data"].as_object_mut().unwrap().remove("volume-size");
        assert_eq!(Parameters::of(&map), Err("its data has no volume-size".into()));
    }
}
