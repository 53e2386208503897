//! Injection: gives a pod its sidecar, as the chart's policy does, offline.
//!
//! [`request`] is what the pod asks for, [`problems`] why it cannot have it, [`sidecar`] what it gets,
//! [`parameters`] what is not the pod's to choose. The same in CEL is in
//! `charts/quorate/templates/_injection.tpl` and `injection-mutation.yaml`, by the same names and word
//! for word; `tests/injection` holds the two together. [`workload`] finds the pods of other kinds, and
//! [`write`](mod@write) writes what kubectl reads.

pub mod parameters;
pub mod problems;
pub mod request;
pub mod sidecar;
pub mod workload;
pub mod write;

pub use parameters::Parameters;
pub use request::{LABEL, Request};

use serde_json::Value;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The pod has its sidecar now.
    Injected,
    /// It had one before, and is as it was.
    Present,
    /// It does not ask for one, and is as it was.
    NotAsked,
}

/// Injects a pod, or a workload's template of one: what has `metadata` and `spec`.
///
/// # Errors
/// Why it cannot have a sidecar: everything, as the policy says it.
pub fn inject(pod: &mut Value, parameters: &Parameters) -> Result<Outcome, Vec<String>> {
    if pod["metadata"]["labels"][LABEL] != "true" {
        return Ok(Outcome::NotAsked);
    }
    let request = Request::of(pod, parameters)?;
    let problems = problems::of(&request);
    if !problems.is_empty() {
        return Err(problems);
    }
    if request.is_injected() {
        return Ok(Outcome::Present);
    }
    let addition = sidecar::addition(&request, parameters);
    addition.to(&mut pod["spec"]);
    Ok(Outcome::Injected)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::manifest::yaml;

    /// The table that policy and plugin are both held to: a file a pod, and what is to become of it.
    #[test]
    fn every_pod_of_the_table_becomes_what_it_says() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/injection"));
        let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        assert!(paths.len() >= 12, "{paths:?}");
        for path in paths {
            let (documents, faults) = yaml::parse(&fs::read_to_string(&path).unwrap());
            assert_eq!((faults, documents.len()), (vec![], 2), "{}", path.display());
            let (mut pod, expected) = (documents[0].value(), documents[1].value());
            let before = pod.clone();
            match inject(&mut pod, &Parameters::default()) {
                Err(problems) => {
                    assert_eq!(expected["refused"], Value::from(problems), "{}", path.display());
                    assert_eq!(pod, before, "{}", path.display());
                }
                Ok(outcome) => {
                    assert_eq!(pod, expected, "{}:\n{}", path.display(), write::yaml(&pod));
                    assert_eq!(outcome == Outcome::Injected, pod != before, "{}", path.display());
                    let again = inject(&mut pod, &Parameters::default());
                    assert_ne!(again, Ok(Outcome::Injected), "{}", path.display());
                    assert_eq!(pod, expected, "{}", path.display());
                }
            }
        }
    }
    #[test]
    fn the_snippet_by_hand_is_what_becomes_of_the_first_example() {
        let docs = include_str!("../../../docs/injection.md");
        let block = |text: &str| yaml::parse(text.split("```").next().unwrap()).0[0].value();
        let mut example = block(docs.split_once("```yaml\n").unwrap().1);
        let by_hand = block(docs.split_once("## By hand").unwrap().1.split_once("```yaml\n").unwrap().1);
        assert_eq!(inject(&mut example, &Parameters::default()), Ok(Outcome::Injected));
        assert_eq!(example["spec"], by_hand["spec"]);
    }
}
