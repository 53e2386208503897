//! The YAML in this folder, and the API reference, are what the types say.
use std::{fs, path::Path};

#[test]
#[allow(clippy::expect_used)]
fn generated_yaml_is_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents = quorate_crds::crd_documents().expect("CRDs serialize");
    for (name, text) in &documents {
        let stored = fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert_eq!(&stored, text, "crds/{name} is not what the types say: run `make crds`");
    }
    let yaml = fs::read_dir(folder)
        .expect("crds/ is readable")
        .filter_map(Result::ok)
        .filter(|e| e.path().extension().is_some_and(|x| x == "yaml"))
        .count();
    assert_eq!(yaml, documents.len(), "a YAML file in crds/ is no longer generated");
}

#[test]
fn the_api_reference_is_up_to_date() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api.md");
    let stored = fs::read_to_string(file).unwrap_or_default();
    assert!(stored == quorate_crds::api_reference(), "docs/api.md is not what the types say: run `make crds`");
    for said in ["| `spec.layers[].secretRef.name` |", "Default: `10`", "**required.**", "### ConfigReplica spec"] {
        assert!(stored.contains(said), "{said}");
    }
}
