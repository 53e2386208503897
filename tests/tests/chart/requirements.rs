//! What a value asks of Kubernetes is told with the way out.

use quorate_tests::helm::Helm;

const NO_INJECTION: &str = "injection.enabled=false";
const NO_REFERENCES: &str = "policies.references.enabled=false";

#[test]
fn an_older_kubernetes_is_refused_with_the_values_to_set_and_taken_with_these() {
    let helm = Helm::new(None).unwrap();
    let render = |version: &str, off: &[&str]| {
        let sets = off.iter().flat_map(|value| ["--set", value]);
        helm.template(&["--kube-version", version].into_iter().chain(sets).collect::<Vec<_>>())
    };
    for version in ["1.36.0", "v1.36.2-gke.1014001", "v1.37.2"] {
        render(version, &[]).unwrap();
    }
    for (version, needed) in [
        ("v1.35.9-eks-af3c1a9", &[NO_INJECTION][..]),
        ("1.33.0", &[NO_INJECTION]),
        ("1.32.4", &[NO_INJECTION, NO_REFERENCES]),
        ("1.30.0", &[NO_INJECTION, NO_REFERENCES]),
    ] {
        let refused = render(version, &[]).unwrap_err().to_string();
        assert!(needed.iter().all(|value| refused.contains(value)), "{version}: {refused}");
        assert!(refused.contains("--kube-version"), "{refused}");
        render(version, needed).unwrap();
    }
    let refused = render("1.29.0", &[NO_INJECTION, NO_REFERENCES]).unwrap_err().to_string();
    assert!(refused.contains("kubeVersion"), "{refused}");
}
