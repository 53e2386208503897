//! `render`: the files that pods would read, offline.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use k8s_openapi::ByteString;
use quorate_crds::head::BundleFile;
use quorate_resolve::{Bundle, resolve};
use serde::Serialize;

use crate::{
    answer::{Answer, note},
    commands::lint::{self, lines_text},
    exit::{Exit, Failure, Result},
    format::{Style, Tone, bytes, count, printable, printable_line, short_hash},
    manifest::{
        files::{self, Text},
        objects::Manifests,
    },
    options,
};

/// What the configs of manifests render to.
#[derive(Debug, PartialEq, Serialize)]
pub struct Rendering {
    /// The configs, in order.
    pub configs: Vec<Rendered>,
}

/// One config's files.
#[derive(Debug, PartialEq, Serialize)]
pub struct Rendered {
    /// The config's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The content's hash, as the head would have it.
    pub hash: String,
    /// Its files, by path.
    pub files: Vec<RenderedFile>,
}

/// One file.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RenderedFile {
    /// Its path.
    pub path: String,
    /// Its permission bits, octal.
    pub mode: String,
    /// Whether it holds a value from a Secret.
    pub secret: bool,
    /// What it says, if it is text and may be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Its bytes, if it is no text and may be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_base64: Option<ByteString>,
}

/// Runs the command.
///
/// # Errors
/// When a file cannot be read or written, or there is no config in any.
pub fn run(answer: Answer, namespace: &str, options: &options::Render) -> Result {
    let texts = files::read(&options.manifests.filename)?;
    let (report, _) = lint::check(&texts, namespace, false);
    if !report.problems.is_empty() {
        note(lines_text(Style::default(), &report.problems).trim_end());
        return Ok(Exit::Failed);
    }
    let bundles = bundles(&texts, namespace);
    if bundles.is_empty() {
        return Err(Failure::not_found("there is no DistributedConfig in the files"));
    }
    if let Some(directory) = &options.directory {
        return write(directory, &bundles, options.show_secrets);
    }
    let rendering = Rendering { configs: bundles.iter().map(|found| rendered(found, options.show_secrets)).collect() };
    answer.give(&rendering, |style| text(style, &rendering))?;
    Ok(Exit::Ok)
}

struct Found {
    namespace: String,
    name: String,
    bundle: Bundle,
}

fn bundles(texts: &[Text], namespace: &str) -> Vec<Found> {
    let manifests = Manifests::of(texts, namespace);
    let (sources, _) = manifests.sources();
    let found = |object: &crate::manifest::objects::Object| {
        let bundle = resolve(&object.config().ok()?, &sources).ok()?;
        Some(Found { namespace: object.reference.namespace.clone(), name: object.reference.name.clone(), bundle })
    };
    // What does not resolve was told by lint.
    manifests.configs().filter_map(found).collect()
}

fn rendered(found: &Found, show_secrets: bool) -> Rendered {
    let file = |(path, file): (&String, &BundleFile)| {
        let shown = !file.secret || show_secrets;
        let text = String::from_utf8(file.bytes.clone()).ok();
        let base64 = (shown && text.is_none()).then(|| ByteString(file.bytes.clone()));
        RenderedFile {
            path: path.clone(),
            mode: format!("{:04o}", file.mode),
            secret: file.secret,
            content: text.filter(|_| shown),
            content_base64: base64,
        }
    };
    Rendered {
        namespace: found.namespace.clone(),
        name: found.name.clone(),
        hash: found.bundle.hash(),
        files: found.bundle.files.iter().map(file).collect(),
    }
}

fn text(style: Style, rendering: &Rendering) -> String {
    let mut text = String::new();
    for config in &rendering.configs {
        let title = format!("{}/{} ({})", config.namespace, config.name, short_hash(&config.hash));
        text += &format!("{}\n", style.paint(Tone::Strong, &printable(&title)));
        for file in &config.files {
            text += &style.paint(Tone::Faint, &format!("==> {} {}", printable(&file.path), file.mode));
            text.push('\n');
            match (&file.content, &file.content_base64) {
                (Some(content), _) => {
                    for line in content.lines() {
                        text += &format!("{}\n", printable_line(line));
                    }
                }
                (None, Some(content)) => text += &format!("({}, no text)\n", bytes(content.0.len())),
                (None, None) => text += "«redacted»: it holds values from a Secret (--show-secrets)\n",
            }
        }
    }
    text
}

fn write(directory: &Path, bundles: &[Found], show_secrets: bool) -> Result {
    let mut names = BTreeSet::new();
    if let Some(twice) = bundles.iter().find(|found| !names.insert(&found.name)) {
        return Err(Failure::error(format!(
            "two configs are called {}, and each is written to a folder of its name: render their files apart",
            twice.name
        )));
    }
    let (mut written, mut left_out) = (0, 0);
    for found in bundles {
        for (path, file) in &found.bundle.files {
            if file.secret && !show_secrets {
                left_out += 1;
                continue;
            }
            let to = directory.join(&found.name).join(path);
            place(&to, file).map_err(|error| Failure::error(format!("{}: {error}", to.display())))?;
            written += 1;
        }
    }
    note(&format!("{} written below {}", count(written, "file", "files"), directory.display()));
    if left_out > 0 {
        let files = count(left_out, "file", "files");
        note(&format!("{files} with values from Secrets left out (--show-secrets)"));
    }
    Ok(Exit::Ok)
}

fn place(to: &Path, file: &BundleFile) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    // An earlier one may not be writable.
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Nobody else reads a Secret's values, not even for a moment.
    let mode = if file.secret { file.mode & 0o700 } else { file.mode };
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    target.write_all(&file.bytes)?;
    target.set_permissions(Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::PLAIN;

    const MANIFESTS: &str = r"
apiVersion: v1
kind: ConfigMap
metadata: {name: web-eu}
data:
  values.yaml: |
    server: {port: 8443}
binaryData: {keystore: AP/+}
---
apiVersion: v1
kind: Secret
metadata: {name: web-db}
stringData: {password: hunter2}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
---
apiVersion: quorate.io/v1alpha1
kind: DistributedConfig
metadata: {name: web}
spec:
  layers:
  - {name: base, inline: {server: {port: 8080, tls: off}}}
  - {name: region, configMapRef: {name: web-eu, key: values.yaml}}
  - {name: creds, at: /db, secretRef: {name: web-db}}
  files:
  - {path: app/config.yaml, from: /server, mode: 0400}
  - {path: db.env, from: /db}
  - {path: keystore, configMapKeyRef: {name: web-eu, key: keystore}}
";

    fn found() -> Vec<Found> {
        let texts = [Text { name: "web.yaml".into(), text: MANIFESTS.into() }];
        assert_eq!(lint::check(&texts, "shop", false).0.problems, []);
        bundles(&texts, "shop")
    }

    fn shown(show_secrets: bool) -> Rendering {
        Rendering { configs: found().iter().map(|found| rendered(found, show_secrets)).collect() }
    }

    #[test]
    fn the_files_are_shown_but_for_values_from_secrets() {
        let rendering = shown(false);
        let hash = short_hash(&rendering.configs[0].hash).to_owned();
        assert_eq!(
            text(PLAIN, &rendering),
            format!(
                "shop/web ({hash})\n\
                 ==> app/config.yaml 0400\n\
                 port: 8443\n\
                 tls: false\n\
                 ==> db.env 0440\n\
                 «redacted»: it holds values from a Secret (--show-secrets)\n\
                 ==> keystore 0444\n\
                 (3 bytes, no text)\n"
            )
        );
        let json = serde_json::to_string(&rendering).unwrap();
        assert!(!json.contains("hunter2") && json.contains(r#""contentBase64":"AP/+""#), "{json}");
        assert!(text(PLAIN, &shown(true)).contains("PASSWORD=\"hunter2\""));
    }

    #[test]
    fn files_are_written_and_secrets_only_if_asked_and_for_the_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join("web").join(name);
        write(folder.path(), &found(), false).unwrap();
        assert_eq!(fs::read_to_string(path("app/config.yaml")).unwrap(), "port: 8443\ntls: false\n");
        assert!(!path("db.env").exists());
        // Again, over files that are not writable.
        write(folder.path(), &found(), true).unwrap();
        assert_eq!(fs::metadata(path("db.env")).unwrap().permissions().mode() & 0o777, 0o400);
        assert_eq!(fs::read(path("keystore")).unwrap(), [0, 0xff, 0xfe]);
        assert_eq!(fs::metadata(path("keystore")).unwrap().permissions().mode() & 0o777, 0o444);
    }

    #[test]
    fn two_configs_of_one_name_are_not_written_over_each_other() {
        let twice: Vec<Found> = [found(), found()].into_iter().flatten().collect();
        let folder = tempfile::tempdir().unwrap();
        let failure = write(folder.path(), &twice, false).unwrap_err();
        assert!(failure.message.contains("two configs are called web"), "{failure}");
    }
}
