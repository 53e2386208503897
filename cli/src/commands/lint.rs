//! `lint`: every mistake in manifests, with file and line, offline.

use std::collections::BTreeSet;

use quorate_crds::Rollout;
use quorate_resolve::{ProblemKind, Sources, required, resolve};
use serde::Serialize;

use crate::{
    answer::{Answer, note},
    exit::{Exit, Failure, Result},
    format::{Style, Tone, count, printable},
    manifest::{
        crd::{self, Mistake, told},
        files::{self, Text},
        objects::{Finding, Manifests, Object},
        places,
    },
    options,
};

/// What `lint` found, for scripts.
#[derive(Debug, PartialEq, Serialize)]
pub struct Report {
    /// How many configs were checked.
    pub configs: usize,
    /// What is wrong.
    pub problems: Vec<Line>,
}

/// One problem, where it can be mended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The file, as it was given.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1.
    pub column: usize,
    /// The object it is a problem of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// What is wrong, and what to do.
    pub message: String,
}

/// Runs the command.
///
/// # Errors
/// When a file cannot be read, or there is no config in any.
pub fn run(answer: Answer, namespace: &str, options: &options::Lint) -> Result {
    let texts = files::read(&options.manifests.filename)?;
    let (report, notes) = check(&texts, namespace, options.allow_missing);
    if report.configs == 0 && report.problems.is_empty() {
        return Err(Failure::not_found("there is no DistributedConfig in the files"));
    }
    for text in &notes {
        note(text);
    }
    answer.give(&report, |style| text(style, &report))?;
    Ok(if report.problems.is_empty() { Exit::Ok } else { Exit::Failed })
}

/// Every problem of the manifests, and what could not be checked.
#[must_use]
pub fn check(texts: &[Text], namespace: &str, allow_missing: bool) -> (Report, Vec<String>) {
    let manifests = Manifests::of(texts, namespace);
    let (sources, unread) = manifests.sources();
    let mut findings = manifests.findings.clone();
    findings.extend(unread);
    let mut notes = Vec::new();
    for object in manifests.configs() {
        findings.extend(of_config(object, &manifests, &sources, allow_missing, &mut notes));
    }
    findings.sort_by_key(|finding| (finding.file, finding.place));
    let problems = findings.iter().map(|finding| line(finding, texts)).collect();
    (Report { configs: manifests.configs().count(), problems }, notes)
}

fn line(finding: &Finding, texts: &[Text]) -> Line {
    Line {
        file: texts.get(finding.file).map(|text| text.name.clone()).unwrap_or_default(),
        line: finding.place.line,
        column: finding.place.column,
        object: finding.object.clone(),
        message: finding.reason.clone(),
    }
}

fn of_config(
    object: &Object,
    manifests: &Manifests,
    sources: &Sources,
    allow_missing: bool,
    notes: &mut Vec<String>,
) -> Vec<Finding> {
    let mut mistakes = crd::check(&object.node);
    let mut findings: Vec<Finding> = mistakes.iter().map(|mistake| of_mistake(object, mistake)).collect();
    let config = match object.config() {
        Ok(config) => config,
        Err(reason) => {
            // The schema has said it better, unless it says nothing.
            if findings.is_empty() {
                findings.push(object.finding(object.node.walk(&["spec"]).0, reason));
            }
            return findings;
        }
    };
    let has_selector = config.spec.selector.is_some();
    for problem in
        config.spec.rollout.as_ref().map(|rollout| Rollout::problems(rollout, has_selector)).unwrap_or_default()
    {
        let mistake = Mistake { path: crd::path_of(&problem), reason: problem };
        if !is_told(&mistakes, &mistake.path) {
            findings.push(of_mistake(object, &mistake));
            mistakes.push(mistake);
        }
    }
    let absent = required(&config, sources);
    if allow_missing && !absent.is_empty() {
        let names: BTreeSet<String> = absent.iter().map(ToString::to_string).collect();
        let names: Vec<String> = names.into_iter().collect();
        notes.push(format!("{}: the merged value is not checked without {}", object.reference, names.join(", ")));
    }
    let Err(problems) = resolve(&config, sources) else { return findings };
    for problem in problems.0 {
        let located = places::locate(&problem, object, &config, manifests);
        let waived = allow_missing && problem.kind == ProblemKind::SourceMissing;
        if !waived && !is_told(&mistakes, &located.path) {
            let place = located.place;
            findings.push(Finding { file: located.file, ..object.finding(place, problem.to_string()) });
        }
    }
    findings
}

/// Whether a mistake was told at this path or at what it is a part of (a layer, a file).
fn is_told(mistakes: &[Mistake], path: &[String]) -> bool {
    mistakes.iter().any(|mistake| mistake.path.len() >= 3 && path.starts_with(&mistake.path))
}

fn of_mistake(object: &Object, mistake: &Mistake) -> Finding {
    let path = told(&mistake.path);
    let reason = if mistake.reason.starts_with(&path) || path.is_empty() {
        mistake.reason.clone()
    } else {
        format!("{path}: {}", mistake.reason)
    };
    object.finding(object.node.walk(&mistake.path).0, reason)
}

/// `file:line:column: object: message`, as editors read it.
#[must_use]
pub fn text(style: Style, report: &Report) -> String {
    let mut text = lines_text(style, &report.problems);
    let configs = count(report.configs, "config", "configs");
    text += &match report.problems.len() {
        0 => format!("{configs} checked, {}\n", style.paint(Tone::Good, "no problems")),
        number => format!("{configs} checked, {}\n", style.paint(Tone::Bad, &count(number, "problem", "problems"))),
    };
    text
}

/// The problems alone.
#[must_use]
pub fn lines_text(style: Style, problems: &[Line]) -> String {
    let line = |problem: &Line| {
        let place = format!("{}:{}:{}:", printable(&problem.file), problem.line, problem.column);
        let object = problem.object.as_ref().map(|object| format!("{}: ", printable(object))).unwrap_or_default();
        format!("{} {object}{}\n", style.paint(Tone::Strong, &place), printable(&problem.message))
    };
    problems.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::PLAIN;

    fn report(files: &[(&str, &str)], allow_missing: bool) -> (Report, Vec<String>) {
        let texts: Vec<Text> =
            files.iter().map(|(name, text)| Text { name: (*name).into(), text: (*text).into() }).collect();
        check(&texts, "shop", allow_missing)
    }

    /// The problems of a config with this spec, whose first line is line 5 of web.yaml, beside `sources.yaml`.
    fn linted(spec: &str, sources: &str) -> Vec<String> {
        let manifest =
            format!("apiVersion: quorate.io/v1alpha1\nkind: DistributedConfig\nmetadata:\n  name: web\nspec:\n{spec}");
        let (report, _) = report(&[("web.yaml", &manifest), ("sources.yaml", sources)], false);
        lines_text(PLAIN, &report.problems)
            .lines()
            .map(|line| line.replace("DistributedConfig shop/web: ", ""))
            .collect()
    }

    const FILES: &str = "  files:\n  - path: app.yaml\n";
    const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web-eu}\ndata:\n  n: \"1\"\n  values.yaml: |\n    a: 1\n    server:\n      port: 99999\n";

    const BASE: &str = "  - name: base\n    inline:\n      server: {port: 8080}\n";
    const REGION: &str = "  - name: region\n    configMapRef: {name: web-eu, key: values.yaml}\n";
    const PORT: &str =
        "  validation:\n    schema:\n      properties: {server: {properties: {port: {maximum: 65535}}}}\n";

    /// What it is, the spec, the manifests beside it, and how each line begins.
    type Case<'c> = (&'c str, String, &'c str, &'c [&'c str]);

    fn assert_told(cases: &[Case<'_>]) {
        for (name, spec, sources, expected) in cases {
            let found = linted(spec, sources);
            assert_eq!(found.len(), expected.len(), "{name}: {found:#?}");
            for (found, expected) in found.iter().zip(*expected) {
                assert!(found.starts_with(expected), "{name}: {found}\nis not {expected}");
            }
        }
    }

    #[test]
    fn a_mistake_in_a_manifest_is_told_with_file_line_and_reason() {
        assert_told(&[
            ("clean", format!("{FILES}  layers:\n{BASE}"), "", &[]),
            ("no yaml", format!("{FILES}  layers: [\n{BASE}"), "", &["web.yaml:9:3: it is no YAML: "]),
            (
                "twice",
                format!("{FILES}{FILES}  layers:\n{BASE}"),
                "",
                &["web.yaml:8:3: key \"files\" is there twice, first in line 6"],
            ),
            (
                "typo",
                format!("{FILES}  layers:\n{BASE}    inlin: {{}}\n"),
                "",
                &["web.yaml:12:5: spec.layers[0].inlin: there is no field \"inlin\"; did you mean \"inline\"?"],
            ),
            (
                "two sources",
                format!("{FILES}  layers:\n{BASE}    secretRef: {{name: s}}\n"),
                "",
                &["web.yaml:9:5: spec.layers[0]: a layer has exactly one of inline"],
            ),
            (
                "same layer",
                format!("{FILES}  layers:\n{BASE}{BASE}"),
                "",
                &["web.yaml:12:5: spec.layers[1].name: name \"base\" is there twice"],
            ),
            (
                "same path",
                format!("{FILES}  - path: app.yaml\n  layers:\n{BASE}"),
                "",
                &["web.yaml:8:5: spec.files[1].path: path \"app.yaml\" is there twice"],
            ),
            (
                "rollout",
                format!(
                    "{FILES}  layers:\n{BASE}  selector: {{}}\n  rollout:\n    strategy: Canary\n    steps:\n    - pods: 50%\n    - pods: 10%\n"
                ),
                "",
                &["web.yaml:17:7: spec.rollout.steps[1].pods: step 2 must be more than the one before"],
            ),
            (
                "gate",
                format!(
                    "{FILES}  layers:\n{BASE}  selector: {{}}\n  rollout:\n    strategy: Canary\n    steps: [{{pods: 1}}]\n    gates:\n    - name: up\n      prometheus: {{url: 'http://p', query: up, min: 2, max: 1}}\n"
                ),
                "",
                &["web.yaml:17:7: spec.rollout.gates[0]: min 2 is above max 1"],
            ),
            (
                "no selector",
                format!("{FILES}  layers:\n{BASE}  rollout:\n    strategy: Quorum\n"),
                "",
                &["web.yaml:13:5: spec.rollout.strategy Quorum and Canary need spec.selector"],
            ),
            (
                "no object",
                format!("{FILES}  layers:\n{BASE}"),
                "a: 1\n",
                &["sources.yaml:1:1: it is no object of Kubernetes"],
            ),
            (
                "secret",
                format!("{FILES}  layers:\n{BASE}"),
                "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {k: hunter2!}\n",
                &["sources.yaml:4:1: Secret shop/s: its data is not base64"],
            ),
        ]);
    }

    #[test]
    fn what_does_not_resolve_is_told_where_it_can_be_mended() {
        assert_told(&[
            (
                "file and folder",
                format!("{FILES}  - path: app.yaml/x\n  layers:\n{BASE}"),
                "",
                &[
                    "web.yaml:8:5: file app.yaml/x: \"app.yaml\" would be both a file and a directory",
                    "web.yaml:8:5: file app.yaml/x, /: text needs a string",
                ],
            ),
            (
                "missing map",
                format!("{FILES}  layers:\n{BASE}{REGION}"),
                "",
                &["web.yaml:13:20: layer region: ConfigMap shop/web-eu does not exist"],
            ),
            (
                "missing key",
                format!("{FILES}  layers:\n{BASE}{}", REGION.replace("values.yaml", "other")),
                MAP,
                &["web.yaml:13:34: layer region: ConfigMap shop/web-eu has no key \"other\""],
            ),
            (
                "schema, inline",
                format!("{FILES}{PORT}  layers:\n{}", BASE.replace("8080", "80808")),
                "",
                &["web.yaml:14:16: layer base, /server/port: 80808 is greater than the maximum of 65535"],
            ),
            (
                "schema, in a map's document",
                format!("{FILES}{PORT}  layers:\n{BASE}{REGION}"),
                MAP,
                &["sources.yaml:9:7: layer region, /server/port: 99999 is greater than the maximum of 65535"],
            ),
            (
                "document",
                format!("{FILES}  layers:\n{BASE}{REGION}"),
                &MAP.replace("port: 99999", "port: [1"),
                &[
                    "sources.yaml:10:5: layer region: key \"values.yaml\" of ConfigMap shop/web-eu is not usable as YAML",
                ],
            ),
            (
                "rule",
                format!(
                    "{FILES}  layers:\n{BASE}  validation:\n    rules:\n    - rule: self.server.port > 1\n    - rule: self.server.port > 9000\n      message: too low\n"
                ),
                "",
                &["web.yaml:15:7: /: rule 2: too low"],
            ),
            (
                "bad schema",
                format!("{FILES}  layers:\n{BASE}  validation:\n    schema: {{type: nope}}\n"),
                "",
                &["web.yaml:13:5: validation.schema cannot be used"],
            ),
            (
                "template",
                format!(
                    "{FILES}  - path: n.conf\n    template: |\n      ok\n      listen {{{{ server.prt }}}};\n  layers:\n{BASE}"
                ),
                "",
                &["web.yaml:11:7: file n.conf: "],
            ),
            (
                "from",
                format!("{FILES}  - path: n.conf\n    from: /nope\n  layers:\n{BASE}"),
                "",
                &["web.yaml:9:5: file n.conf, /nope: the merged value has nothing at `from`"],
            ),
            (
                "key copied",
                format!("{FILES}  - path: k\n    secretKeyRef: {{name: s, key: k}}\n  layers:\n{BASE}"),
                "",
                &["web.yaml:9:5: file k: Secret shop/s does not exist"],
            ),
        ]);
    }

    #[test]
    fn a_mistake_in_a_config_that_is_referred_to_is_told_there() {
        let platform = "apiVersion: quorate.io/v1alpha1\nkind: DistributedConfig\nmetadata: {name: platform, namespace: infra}\n\
                        spec:\n  sharedWith: [shop]\n  files: [{path: a.yaml}]\n  layers:\n  - name: base\n    secretRef: {name: gone}\n";
        let web = "apiVersion: quorate.io/v1alpha1\nkind: DistributedConfig\nmetadata: {name: web}\n\
                   spec:\n  files: [{path: a.yaml}]\n  layers:\n  - name: platform\n    configRef: {name: platform, namespace: infra}\n";
        let (report, _) = report(&[("platform.yaml", platform), ("web.yaml", web)], false);
        assert_eq!(
            text(PLAIN, &report),
            "platform.yaml:9:17: DistributedConfig infra/platform: layer base: Secret infra/gone does not exist; create it, or \
             set `optional: true`\n\
             platform.yaml:9:17: DistributedConfig shop/web: layer platform/base: Secret infra/gone does not exist; create it, \
             or set `optional: true`\n\
             2 configs checked, 2 problems\n"
        );
    }

    #[test]
    fn what_is_elsewhere_may_be_waived_but_is_said_to_be_unchecked() {
        let web = "apiVersion: quorate.io/v1alpha1\nkind: DistributedConfig\nmetadata: {name: web}\n\
                   spec:\n  files: [{path: a.yaml}]\n  layers:\n  - name: eu\n    configMapRef: {name: web-eu}\n";
        let (report, notes) = report(&[("web.yaml", web)], true);
        assert_eq!(text(PLAIN, &report), "1 config checked, no problems\n");
        assert_eq!(
            notes,
            ["DistributedConfig shop/web: the merged value is not checked without ConfigMap shop/web-eu"]
        );
    }

    #[test]
    fn the_examples_are_clean() {
        for text in [
            include_str!("../../../docs/examples/first.yaml"),
            include_str!("../../../docs/examples/rollout.yaml"),
            include_str!("../../../docs/examples/shared-defaults.yaml"),
        ] {
            assert_eq!(report(&[("example.yaml", text)], false).0.problems, []);
        }
    }

    #[test]
    fn a_list_is_read_as_its_items() {
        let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: quorate.io/v1alpha1\n  kind: DistributedConfig\n  metadata: {name: web}\n  spec:\n    files: [{path: a.yaml}]\n    layers: [{name: a}]\n";
        let (report, _) = report(&[("list.yaml", list)], false);
        assert_eq!((report.configs, report.problems[0].line, report.problems[0].column), (1, 9, 14));
    }

    #[test]
    fn json_names_file_line_and_column() {
        let (report, _) = report(&[("x.yaml", "a: 1\n")], false);
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"configs":0,"problems":[{"file":"x.yaml","line":1,"column":1,"message":"it is no object of Kubernetes: apiVersion and kind are needed"}]}"#
        );
    }
}
