//! What `-f` names: files, folders, the standard input.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::exit::{Failure, Result};

/// The most bytes one file may have.
const MAX_BYTES: u64 = 16 << 20;

/// A file's name, as messages say it, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// As it was given; `<stdin>` for the standard input.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// Reads them all, in order.
///
/// # Errors
/// When one does not exist, is no text, or is too large.
pub fn read(names: &[PathBuf]) -> Result<Vec<Text>> {
    let mut texts = Vec::new();
    for name in names {
        if name == Path::new("-") {
            texts.push(Text { name: "<stdin>".into(), text: text("<stdin>", io::stdin().lock())? });
        } else if name.is_dir() {
            for path in manifests_in(name)? {
                texts.push(file(&path)?);
            }
        } else {
            texts.push(file(name)?);
        }
    }
    Ok(texts)
}

/// A folder's manifests, by name; as kubectl, not those of folders within.
fn manifests_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error: io::Error| Failure::error(format!("{}: {error}", folder.display()));
    let paths = fs::read_dir(folder).map_err(failed)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>().map_err(failed)?;
    paths.retain(|path| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("yaml" | "yml" | "json")) && path.is_file()
    });
    paths.sort();
    if paths.is_empty() {
        return Err(Failure::not_found(format!("{} has no .yaml, .yml or .json files", folder.display())));
    }
    Ok(paths)
}

fn file(path: &Path) -> Result<Text> {
    let name = path.display().to_string();
    let file = fs::File::open(path).map_err(|error| Failure {
        exit: if error.kind() == io::ErrorKind::NotFound {
            crate::exit::Exit::NotFound
        } else {
            crate::exit::Exit::Error
        },
        message: format!("{name}: {error}"),
    })?;
    Ok(Text { text: text(&name, file)?, name })
}

fn text(name: &str, from: impl Read) -> Result<String> {
    let mut bytes = Vec::new();
    let limited = from.take(MAX_BYTES + 1).read_to_end(&mut bytes);
    limited.map_err(|error| Failure::error(format!("{name}: {error}")))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Failure::error(format!("{name}: it has more than {MAX_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| Failure::error(format!("{name}: it is not UTF-8 text")))
}
