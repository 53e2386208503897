//! `inject`: the sidecar for pods of manifests, offline, as the chart's policy gives it.

use std::path::Path;

use serde_json::Value;

use crate::{
    answer::{Answer, note, print},
    commands::lint::{Line, lines_text},
    exit::{Exit, Failure, Result},
    format::Style,
    inject::{Outcome, Parameters, inject, request, workload, write},
    manifest::{
        files::{self, Text},
        yaml::{self, Node, Place},
    },
    options::{self, Output},
};

/// Runs the command.
///
/// # Errors
/// When a file cannot be read, or the output not be written.
pub fn run(answer: Answer, options: &options::Inject) -> Result {
    if answer.output == Output::Json {
        return Err(Failure::error(
            "inject writes manifests as they came, and what it changed as YAML: leave out -o json",
        ));
    }
    let parameters = parameters(options)?;
    let injection = injected(&files::read(&options.manifests.filename)?, &parameters);
    let told = if injection.problems.is_empty() { &injection.notes } else { &injection.problems };
    if !told.is_empty() {
        note(lines_text(Style::default(), told).trim_end());
    }
    if !injection.problems.is_empty() {
        return Ok(Exit::Failed);
    }
    print(&injection.text)?;
    Ok(Exit::Ok)
}

/// The chart's, or those of a file; an image of one's own wins.
fn parameters(options: &options::Inject) -> Result<Parameters> {
    let parameters = match &options.parameters {
        Some(path) => parameters_in(path)?,
        None => Parameters::default(),
    };
    Ok(match &options.image {
        Some(image) => parameters.with_image(image.clone()),
        None => parameters,
    })
}

/// Those of the first ConfigMap that has them: the file may be all that `helm template` writes, or a
/// list of `kubectl get`.
fn parameters_in(path: &Path) -> Result<Parameters> {
    let name = path.display();
    let mut why = "there is no ConfigMap in it".to_owned();
    for text in files::read(&[path.to_owned()])? {
        for document in yaml::parse(&text.text).0.iter().map(Node::value) {
            let items = document["items"].as_array().map_or(std::slice::from_ref(&document), Vec::as_slice);
            for map in items.iter().filter(|object| object["kind"] == "ConfigMap") {
                match Parameters::of(map) {
                    Ok(parameters) => return Ok(parameters),
                    Err(reason) => why = reason,
                }
            }
        }
    }
    Err(Failure::error(format!("{name}: {why}; give the ConfigMap RELEASE-injection-… of the chart")))
}

/// What manifests come to.
#[derive(Debug, Default)]
struct Injection {
    text: String,
    problems: Vec<Line>,
    notes: Vec<Line>,
}

fn injected(texts: &[Text], parameters: &Parameters) -> Injection {
    let mut injection = Injection::default();
    for text in texts {
        for part in parts(&text.text) {
            injection.take(&text.name, &part, parameters);
        }
    }
    injection
}

impl Injection {
    fn take(&mut self, file: &str, part: &Part<'_>, parameters: &Parameters) {
        let (nodes, faults) = yaml::parse(part.text);
        let at = |place: Place, message: String| Line {
            file: file.to_owned(),
            line: part.line + place.line,
            column: place.column,
            object: None,
            message,
        };
        self.problems.extend(faults.into_iter().map(|fault| at(fault.place, fault.reason)));
        let (mut documents, mut changed) = (Vec::new(), false);
        for node in &nodes {
            let mut document = node.value();
            for path in workload::pods(&document) {
                let Some(pod) = document.pointer_mut(&pointer(&path)) else { continue };
                let whose = |line: Line| Line { object: Some(object(node, &path)), ..line };
                match inject(pod, parameters) {
                    Ok(Outcome::Injected) => changed = true,
                    Ok(Outcome::Present) => {}
                    Ok(Outcome::NotAsked) => {
                        self.notes.extend(left_alone(node, &path).map(|(place, text)| whose(at(place, text))));
                    }
                    Err(problems) => {
                        let line = |problem: String| whose(at(place_of(&problem, node, &path), problem));
                        self.problems.extend(problems.into_iter().map(line));
                    }
                }
            }
            documents.push(document);
        }
        self.write(part.text, changed.then_some(documents));
    }

    /// What nothing is changed of stays as it is written, with its comments.
    fn write(&mut self, text: &str, changed: Option<Vec<Value>>) {
        let begins_document = text.starts_with("---");
        if !self.text.is_empty() {
            if !self.text.ends_with('\n') {
                self.text.push('\n');
            }
            if !begins_document {
                self.text += "---\n";
            }
        }
        let Some(documents) = changed else {
            self.text += text;
            return;
        };
        if begins_document {
            self.text += "---\n";
        }
        self.text += &documents.iter().map(write::yaml).collect::<Vec<_>>().join("---\n");
    }
}

/// A document of a file, with the line of `---` before it.
struct Part<'t> {
    text: &'t str,
    /// How many lines come before.
    line: usize,
}

fn parts(text: &str) -> Vec<Part<'_>> {
    let (mut parts, mut begin, mut begin_line, mut offset) = (Vec::new(), 0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let is_marker =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if is_marker && offset > begin {
            parts.push(Part { text: &text[begin..offset], line: begin_line });
            (begin, begin_line) = (offset, number);
        }
        offset += line.len();
    }
    parts.push(Part { text: &text[begin..], line: begin_line });
    parts
}

fn pointer(path: &[String]) -> String {
    path.iter().fold(String::new(), |pointer, token| pointer + "/" + token)
}

/// The nearest there is to what a problem is about: an annotation, or else the pod.
fn place_of(problem: &str, node: &Node, path: &[String]) -> Place {
    let end = problem.find([' ', ':']).unwrap_or(problem.len());
    let about = if problem.starts_with(request::PREFIX) { &problem[..end] } else { "" };
    let rest = ["metadata", "annotations", about].map(str::to_owned);
    node.walk(&path.iter().cloned().chain(rest).collect::<Vec<_>>()).0
}

/// What is to be told of a pod that does not ask for a sidecar, but perhaps means to.
fn left_alone(node: &Node, path: &[String]) -> Option<(Place, String)> {
    let of_pod = |rest: [&str; 3]| {
        let rest = rest.map(str::to_owned);
        let (place, _, is_there) = node.walk(&path.iter().cloned().chain(rest).collect::<Vec<_>>());
        is_there.then_some(place)
    };
    let annotated = of_pod(["metadata", "annotations", "quorate.io/config"]);
    let of_object = || {
        // A workload's own label does nothing; its template has one of its own.
        let depth = if path.first().is_some_and(|token| token == "items") { 2 } else { 0 };
        let own: Vec<&str> =
            path[..depth].iter().map(String::as_str).chain(["metadata", "labels", request::LABEL]).collect();
        let (place, _, is_there) = node.walk(&own);
        is_there.then_some(place)
    };
    let place = annotated.or_else(of_object)?;
    let label = request::LABEL;
    Some((place, format!("left alone: the pod (for a workload, its template) needs the label {label}: \"true\"")))
}

/// What a pod is, or is the template of: `Deployment web`.
fn object(node: &Node, path: &[String]) -> String {
    let depth = if path.first().is_some_and(|token| token == "items") { 2 } else { 0 };
    let own = node.walk(&path[..depth]).1;
    let text = |node: Option<&Node>| node.and_then(Node::text).unwrap_or_default().to_owned();
    let meta = own.member("metadata");
    let name = meta.and_then(|meta| meta.member("name").or_else(|| meta.member("generateName")));
    format!("{} {}", text(own.member("kind")), text(name)).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Injection {
        injected(&[Text { name: "web.yaml".into(), text: text.into() }], &Parameters::default())
    }

    fn told(lines: &[Line]) -> String {
        lines_text(Style::default(), lines)
    }

    const DEPLOYMENT: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}   # the shop
spec:
  template:
    metadata:
      labels: {app: web, quorate.io/inject: \"true\"}
      annotations:
        quorate.io/config: web
    spec:
      containers:
      - {name: web, image: nginx, env: [{name: DEBUG, value: 'no'}]}
";
    const CONFIG_MAP: &str = "apiVersion: v1\nkind: ConfigMap # stays\nmetadata: {name: a}\ndata: {x: 'no'}\n";

    #[test]
    fn a_workload_gets_it_into_its_template_and_other_documents_stay_as_they_are() {
        let injection = run(&format!("# first\n---\n{CONFIG_MAP}---\n{DEPLOYMENT}--- # last\n{CONFIG_MAP}"));
        assert_eq!((told(&injection.problems), told(&injection.notes)), (String::new(), String::new()));
        let text = injection.text;
        assert!(
            text.starts_with(&format!("# first\n---\n{CONFIG_MAP}---\napiVersion: apps/v1\nkind: Deployment\n")),
            "{text}"
        );
        assert!(text.ends_with(&format!("--- # last\n{CONFIG_MAP}")), "{text}");
        assert!(text.contains("\n        name: quorate-sidecar\n") && text.contains("value: \"no\""), "{text}");
        // Once more changes nothing at all.
        assert_eq!(run(&text).text, text);
    }

    #[test]
    fn what_is_not_labelled_is_the_very_same_and_what_seems_meant_is_told() {
        let text = DEPLOYMENT.replace(", quorate.io/inject: \"true\"", "");
        let injection = run(&text);
        assert_eq!(injection.text, text);
        assert_eq!(
            told(&injection.notes),
            "web.yaml:9:9: Deployment web: left alone: the pod (for a workload, its template) needs the label \
             quorate.io/inject: \"true\"\n"
        );
        let text = text.replace("        quorate.io/config: web\n", "        x: y\n");
        assert!(run(&text).notes.is_empty());
        let text = text.replace("{name: web}   #", "{name: web, labels: {quorate.io/inject: \"true\"}} #");
        assert!(told(&run(&text).notes).starts_with("web.yaml:3:32: Deployment web: left alone"));
    }

    #[test]
    fn problems_are_told_with_file_and_line() {
        let text = format!("{CONFIG_MAP}---\n{}", DEPLOYMENT.replace("config: web", "port: 80"));
        assert_eq!(
            told(&run(&text).problems),
            "web.yaml:14:9: Deployment web: quorate.io/port must be text: put its value in quotes\n"
        );
        let text = text.replace("port: 80", "port: '80'");
        assert_eq!(
            told(&run(&text).problems),
            "web.yaml:13:7: Deployment web: quorate.io/config is missing: it names the configs to mount, such as web,db\n\
             web.yaml:14:9: Deployment web: quorate.io/port must be 1024 to 65535\n"
        );
        assert_eq!(told(&run("a: [\n").problems).lines().count(), 1);
    }

    #[test]
    fn malformed_pods_are_refused_and_break_nothing() {
        for spec in [
            "null",
            "{}",
            "{containers: [x]}",
            "{containers: [{}], securityContext: []}",
            "{containers: [{}], volumes: {}}",
        ] {
            let text = format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, labels: {{quorate.io/inject: 'true'}}, annotations: \
                 {{quorate.io/config: a}}}}\nspec: {spec}\n"
            );
            assert!(told(&run(&text).problems).contains("the pod's spec cannot be read"), "{spec}");
        }
    }

    #[test]
    fn files_are_joined_as_documents() {
        let text = |name: &str, text: &str| Text { name: name.into(), text: text.into() };
        let texts = [text("a.yaml", "a: 1"), text("b.yaml", "---\nb: 1\n"), text("c.json", "{\"c\": 1}\n")];
        let injection = injected(&texts, &Parameters::default());
        assert_eq!(injection.text, "a: 1\n---\nb: 1\n---\n{\"c\": 1}\n");
    }

    #[test]
    fn lists_are_injected_item_by_item() {
        let item = DEPLOYMENT.trim_end().replace('\n', "\n  ");
        let list = format!("apiVersion: v1\nkind: List\nitems:\n- {item}\n");
        let injection = run(&list.replace("config: web", "config: WEB"));
        assert!(told(&injection.problems).starts_with("web.yaml:12:11: Deployment web: quorate.io/config must be"));
        assert!(run(&list).text.contains("name: quorate-sidecar"));
    }
}
