//! `diff`: what differs between two revisions. Files that hold values from Secrets are told to have
//! changed, but neither shown nor described: a size or a hash may be enough to guess a value.

use std::{collections::BTreeSet, time::Duration};

use kube::ResourceExt;
use quorate_crds::{
    DistributedConfig,
    head::{BundleFile, Head, hex},
    names,
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use similar::{ChangeTag, TextDiff};

use crate::{
    answer::Answer,
    cluster::Cluster,
    exit::{Exit, Failure, Result},
    format::{Style, Tone, bytes, printable, printable_line, short_hash},
    options::{self, Side},
    stored,
};

/// After so long the diff may be longer than it need be.
const PATIENCE: Duration = Duration::from_secs(2);

/// How two revisions differ.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// The config's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The older side's revision.
    pub from: i64,
    /// The newer side's revision.
    pub to: i64,
    /// Whether both have the same content.
    pub same: bool,
    /// Every file of either.
    pub files: Vec<FileDifference>,
}

/// How one file differs.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileDifference {
    /// Its path.
    pub path: String,
    /// added, removed, changed or unchanged.
    pub change: Change,
    /// Whether it holds a value from a Secret, on either side.
    pub secret: bool,
    /// The permission bits before and after, where they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<[String; 2]>,
    /// The changed lines, as a unified diff.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// Instead, for what is no text: the sizes and hashes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binary: Option<String>,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Its bytes or mode are others.
    Changed,
    /// It is the same.
    Unchanged,
}

/// Runs the command.
///
/// # Errors
/// When a revision is gone, damaged or may not be read.
pub async fn run(cluster: &Cluster, answer: Answer, options: &options::Diff) -> Result {
    let config = cluster.config(&options.name).await?;
    let to = options.to.unwrap_or(Side::Current);
    let from = options.from.unwrap_or(if to == Side::Candidate { Side::Current } else { Side::Previous });
    let newer = read(cluster, &config, to, None).await?;
    let older = read(cluster, &config, from, Some(newer.revision)).await?;
    let difference = between(&config, &older, &newer);
    answer.give(&difference, |style| text(style, &difference))?;
    Ok(if options.exit_code && !difference.same { Exit::Different } else { Exit::Ok })
}

/// One side. `before`: the other side's revision, which previous is counted from.
async fn read(cluster: &Cluster, config: &DistributedConfig, side: Side, before: Option<i64>) -> Result<Head> {
    let name = config.name_any();
    let gone = |what: &str| Failure::not_found(format!("DistributedConfig {}/{name} has no {what}", cluster.namespace));
    match side {
        Side::Candidate => stored::read(cluster, config, &names::candidate_name(&name), names::CANDIDATE_TYPE)
            .await?
            .ok_or_else(|| gone("candidate: no rollout is under way")),
        Side::Current => stored::read(cluster, config, &names::head_name(&name), names::HEAD_TYPE)
            .await?
            .ok_or_else(|| gone("head: nothing is published yet")),
        Side::Previous => {
            let current = before.or_else(|| config.status.as_ref()?.revision);
            let previous = previous(config, current).ok_or_else(|| gone("earlier revision in its history"))?;
            logged(cluster, config, previous).await
        }
        Side::Revision(revision) => logged(cluster, config, revision).await,
    }
}

/// The revision before, of those that are kept.
fn previous(config: &DistributedConfig, current: Option<i64>) -> Option<i64> {
    let history = &config.status.as_ref()?.history;
    history
        .iter()
        .map(|entry| entry.revision)
        .filter(|revision| current.is_none_or(|current| *revision < current))
        .max()
}

async fn logged(cluster: &Cluster, config: &DistributedConfig, revision: i64) -> Result<Head> {
    let name = config.name_any();
    let entry = names::revision_name(&name, revision);
    if let Some(head) = stored::read(cluster, config, &entry, names::REVISION_TYPE).await? {
        return Ok(head);
    }
    // The operator may have ended between the head and its entry.
    let head = stored::read(cluster, config, &names::head_name(&name), names::HEAD_TYPE).await?;
    head.filter(|head| head.revision == revision).ok_or_else(|| {
        Failure::not_found(format!(
            "revision {revision} of DistributedConfig {}/{name} is not kept any more; `history` lists those that are",
            cluster.namespace
        ))
    })
}

fn between(config: &DistributedConfig, older: &Head, newer: &Head) -> Difference {
    let paths: BTreeSet<&String> = older.bundle.files.keys().chain(newer.bundle.files.keys()).collect();
    let files = paths
        .into_iter()
        .filter_map(|path| file(path, older.bundle.files.get(path), newer.bundle.files.get(path)))
        .collect();
    Difference {
        namespace: config.namespace().unwrap_or_default(),
        name: config.name_any(),
        from: older.revision,
        to: newer.revision,
        same: older.hash == newer.hash,
        files,
    }
}

fn file(path: &str, older: Option<&BundleFile>, newer: Option<&BundleFile>) -> Option<FileDifference> {
    let change = match (older, newer) {
        (None, None) => return None,
        (None, Some(_)) => Change::Added,
        (Some(_), None) => Change::Removed,
        (Some(older), Some(newer)) if older == newer => Change::Unchanged,
        (Some(_), Some(_)) => Change::Changed,
    };
    let secret = [older, newer].into_iter().flatten().any(|file| file.secret);
    let mode = match (older, newer) {
        (Some(older), Some(newer)) if older.mode != newer.mode => Some([octal(older.mode), octal(newer.mode)]),
        _ => None,
    };
    let same_bytes = older.map(|file| &file.bytes) == newer.map(|file| &file.bytes);
    let mut difference = FileDifference { path: path.to_owned(), change, secret, mode, diff: None, binary: None };
    if secret || same_bytes {
        return Some(difference);
    }
    let side = |file: Option<&BundleFile>| file.map_or(Some(String::new()), |file| readable(&file.bytes));
    if let (Some(a), Some(b)) = (side(older), side(newer)) {
        difference.diff = Some(unified(path, (older.is_some(), &a), (newer.is_some(), &b)));
    } else {
        let told = [older, newer].map(|file| file.map_or("nothing".to_owned(), |file| described(&file.bytes)));
        difference.binary = Some(told.join(" -> "));
    }
    Some(difference)
}

fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}

/// The bytes as text, if that is what they are.
fn readable(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok().filter(|text| !text.contains('\0'))
}

fn described(content: &[u8]) -> String {
    format!("{} ({})", bytes(content.len()), short_hash(&hex(&Sha256::digest(content))))
}

/// A unified diff that `patch` understands.
fn unified(path: &str, (had, older): (bool, &str), (has, newer): (bool, &str)) -> String {
    let side = |there: bool, letter: char| if there { format!("{letter}/{path}") } else { "/dev/null".to_owned() };
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(older, newer);
    let mut text = format!("--- {}\n+++ {}\n", side(had, 'a'), side(has, 'b'));
    for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
        text += &format!("{}\n", hunk.header());
        for change in hunk.iter_changes() {
            let sign = match change.tag() {
                ChangeTag::Equal => ' ',
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
            };
            let line = change.value();
            text += &format!("{sign}{}\n", line.strip_suffix('\n').unwrap_or(line));
            if change.missing_newline() {
                text += "\\ No newline at end of file\n";
            }
        }
    }
    text
}

fn text(style: Style, difference: &Difference) -> String {
    let mut text = String::new();
    for file in &difference.files {
        let path = printable(&file.path);
        let verb = match file.change {
            Change::Added => "added",
            Change::Removed => "removed",
            Change::Changed => "changed",
            Change::Unchanged => "unchanged",
        };
        if file.secret {
            text += &format!("{path}: {verb} (it holds values from a Secret, which are not shown)\n");
        }
        if let Some([before, after]) = &file.mode {
            text += &format!("{path}: mode {before} -> {after}\n");
        }
        if let Some(binary) = &file.binary {
            text += &format!("{path}: {verb}, no text: {binary}\n");
        }
        text += &file.diff.as_deref().map(|diff| painted(style, diff)).unwrap_or_default();
    }
    if difference.same {
        text += &format!("revisions {} and {} have the same content\n", difference.from, difference.to);
    }
    text
}

fn painted(style: Style, diff: &str) -> String {
    let paint = |(number, line): (usize, &str)| {
        let tone = match line.chars().next() {
            _ if number < 2 => Some(Tone::Strong),
            Some('+') => Some(Tone::Good),
            Some('-') => Some(Tone::Bad),
            Some('@' | '\\') => Some(Tone::Faint),
            _ => None,
        };
        let line = printable_line(line);
        tone.map_or_else(|| line.clone(), |tone| style.paint(tone, &line)) + "\n"
    };
    diff.split_terminator('\n').enumerate().map(paint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PLAIN, at, config};
    use quorate_crds::head::Bundle;

    fn head(revision: i64, files: &[(&str, &[u8], bool)]) -> Head {
        let file = |bytes: &[u8], secret| BundleFile {
            mode: if secret { 0o440 } else { 0o444 },
            secret,
            bytes: bytes.to_vec(),
        };
        let files = files.iter().map(|(path, bytes, secret)| ((*path).to_owned(), file(bytes, *secret))).collect();
        Head::next(None, revision, Bundle { files, provenance: Vec::new() }, at(0))
    }

    fn shown(older: &Head, newer: &Head) -> String {
        text(PLAIN, &between(&config(), older, newer))
    }

    #[test]
    fn lines_that_changed_are_shown_with_what_is_around_them() {
        let older = head(1, &[("app.yaml", b"a: 1\nb: 2\nc: 3\n", false), ("old", b"x", false)]);
        let newer = head(2, &[("app.yaml", b"a: 1\nb: 4\nc: 3\n", false), ("new", b"y\n", false)]);
        assert_eq!(
            shown(&older, &newer),
            "--- a/app.yaml\n+++ b/app.yaml\n@@ -1,3 +1,3 @@\n a: 1\n-b: 2\n+b: 4\n c: 3\n\
             --- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+y\n\
             --- a/old\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n\\ No newline at end of file\n"
        );
    }

    #[test]
    fn nothing_of_a_secret_is_shown_not_even_its_size_or_hash() {
        let older = head(1, &[("db.env", b"PASSWORD=hunter2\n", true), ("same", b"s", true), ("was", b"plain", false)]);
        let newer =
            head(2, &[("db.env", b"PASSWORD=correct-horse\n", true), ("same", b"s", true), ("was", b"s3cret", true)]);
        let difference = between(&config(), &older, &newer);
        assert_eq!(
            text(PLAIN, &difference),
            "db.env: changed (it holds values from a Secret, which are not shown)\n\
             same: unchanged (it holds values from a Secret, which are not shown)\n\
             was: changed (it holds values from a Secret, which are not shown)\n\
             was: mode 0444 -> 0440\n"
        );
        let json = serde_json::to_string(&difference).unwrap();
        for value in ["hunter2", "horse", "plain", "s3cret", "17", "23"] {
            assert!(!json.contains(value), "{value}: {json}");
        }
    }

    #[test]
    fn what_is_no_text_is_told_by_size_and_hash() {
        let (older, newer) = (head(1, &[("key", b"\0a", false)]), head(2, &[("key", b"\0ab", false)]));
        let text = shown(&older, &newer);
        assert!(text.starts_with("key: changed, no text: 2 bytes (") && text.contains(") -> 3 bytes ("), "{text}");
    }

    #[test]
    fn the_same_content_is_said_to_be_the_same() {
        let (older, newer) = (head(1, &[("a", b"1", false)]), head(3, &[("a", b"1", false)]));
        assert_eq!(shown(&older, &newer), "revisions 1 and 3 have the same content\n");
        assert!(between(&config(), &older, &newer).same);
    }

    #[test]
    fn a_file_cannot_steer_the_terminal() {
        let (older, newer) = (head(1, &[]), head(2, &[("a", b"\x1b[2J\r\n", false)]));
        let text = text(Style { colour: true, live: true }, &between(&config(), &older, &newer));
        assert!(text.contains("+\u{fffd}[2J\u{fffd}") && !text.contains("\x1b[2J"), "{text:?}");
    }

    #[test]
    fn the_revision_before_is_the_newest_that_is_older() {
        assert_eq!(previous(&config(), Some(3)), Some(2));
        assert_eq!(previous(&config(), Some(1)), None);
        assert_eq!(previous(&config(), None), Some(3));
    }
}
