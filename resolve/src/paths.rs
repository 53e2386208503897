//! Which paths a file may have: they are joined to a directory in other people's pods.

use std::collections::BTreeSet;

use crate::{
    limits::{MAX_COMPONENT, MAX_PATH},
    problem::{Problem, ProblemKind},
};

/// Everything that is wrong with the paths, alone and with each other.
pub fn check<'p>(paths: impl Iterator<Item = &'p str> + Clone) -> Vec<Problem> {
    let problem = |path: &str, reason: String| Problem::new(ProblemKind::PathInvalid, reason).file(path);
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    for path in paths {
        if let Some(fault) = fault(path) {
            problems.push(problem(path, fault));
        }
        if !seen.insert(path) {
            problems.push(problem(path, "the same path is used by two files; give each its own".to_owned()));
        }
    }
    for path in &seen {
        for (end, _) in path.match_indices('/') {
            if seen.contains(&path[..end]) {
                let reason = format!("\"{}\" would be both a file and a directory; rename one", &path[..end]);
                problems.push(problem(path, reason));
            }
        }
    }
    problems
}

/// What is wrong with one path, if anything.
fn fault(path: &str) -> Option<String> {
    let text = |reason: &str| Some(reason.to_owned());
    if path.len() > MAX_PATH {
        return Some(format!("the path has {} bytes; at most {MAX_PATH} are allowed", path.len()));
    }
    if path.is_empty() {
        return text("the path is empty");
    }
    if path.starts_with('/') {
        return text("the path is absolute; it must be relative to the config's directory");
    }
    if path.contains('\\') || path.chars().any(char::is_control) {
        return text("the path has a backslash or a control character");
    }
    if path.split('/').any(|part| part == "..") {
        return text("the path leaves the config's directory; \"..\" is not allowed");
    }
    // kubelet's AtomicWriter keeps ..data and its like at the top.
    if path.starts_with("..") {
        return text("the path begins with \"..\", which is reserved for the publication itself");
    }
    if path.split('/').any(|part| matches!(part, "" | ".")) {
        return text("the path has an empty or \".\" component");
    }
    let long = path.split('/').find(|part| part.len() > MAX_COMPONENT)?;
    Some(format!("a component of the path has {} bytes; at most {MAX_COMPONENT} are allowed", long.len()))
}
