//! A head's files on disk, switched as one set: kubelet's `AtomicWriter` layout.
//!
//! ```text
//! DIR/web/config.yaml -> ..data/config.yaml      a link for each file or top folder
//! DIR/web/..data      -> ..r7.0f3a9c21           switched by one rename(2)
//! DIR/web/..r7.0f3a9c21/{config.yaml, ..manifest.json}
//! DIR/web/..told      what is to be remembered beside the sets, each in a file
//! ```
//!
//! After a crash at any point `..data` shows the whole old set or the whole new one, and the next
//! publication or start makes the missing links and clears away what was left behind.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};

use quorate_crds::{
    Proposal,
    head::{Head, ManifestFile, hex},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::disk::Disk;

pub(crate) const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";
pub(crate) const MANIFEST: &str = "..manifest.json";

/// What is on disk: stored beside the files, as `..data/..manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The revision.
    pub revision: i64,
    /// The content's hash.
    pub hash: String,
    /// The uid of the candidate it was read from; absent when it was read from the head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<String>,
    /// The files.
    pub files: Vec<ManifestFile>,
}

impl Published {
    /// Whether it is this content.
    #[must_use]
    pub fn is(&self, content: &Proposal) -> bool {
        self.revision == content.revision && self.hash == content.hash
    }
}

/// Why a set could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A system call failed.
    #[error("{call} {}: {source}", path.display())]
    Io {
        /// Which.
        call: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something that is not ours is where a link must be.
    #[error("{} is in the way: it was not made by Quorate; remove it", .0.display())]
    InTheWay(PathBuf),
    /// A path that would leave the directory.
    #[error("{0:?} is not a path inside the directory")]
    Path(String),
}

/// A written set that is not shown yet.
#[derive(Debug)]
pub struct Staged {
    /// Its folder.
    pub folder: PathBuf,
    /// What will be on disk.
    pub published: Published,
}

/// Writes the sets of one config to one directory.
#[derive(Clone, Debug)]
pub struct Publisher<D> {
    disk: D,
    directory: PathBuf,
}

impl<D: Disk> Publisher<D> {
    /// Of `directory`, which is made when something is first written to it.
    pub const fn new(disk: D, directory: PathBuf) -> Self {
        Self { disk, directory }
    }

    /// Where the config's files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What a start begins with: the set that is shown, if it is whole, with its links made and
    /// whatever a crash left behind cleared away.
    ///
    /// # Errors
    /// [`PublishError`] when the links cannot be made: readers see no whole set then.
    pub fn begin(&self) -> Result<Option<Published>, PublishError> {
        let Some(published) = self.current() else { return Ok(None) };
        self.link(&published)?;
        // What cannot be cleared away now is cleared away by the next publication.
        let _ = self.clean(&published, None);
        Ok(Some(published))
    }

    /// The set that is shown, if every byte and mode is as its manifest says.
    pub fn current(&self) -> Option<Published> {
        let folder = self.directory.join(DATA);
        let published: Published = serde_json::from_slice(&fs::read(folder.join(MANIFEST)).ok()?).ok()?;
        let is_good = |file: &ManifestFile| {
            let path = folder.join(&file.path);
            let mode = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file)?.permissions().mode() & 0o7777;
            Some(mode == file.mode && hex(&Sha256::digest(fs::read(&path).ok()?)) == file.sha256)
        };
        published.files.iter().all(|file| is_good(file) == Some(true)).then_some(published)
    }

    /// Writes a head's files, or those of the candidate of this uid, to a new folder. Nothing shows
    /// them yet.
    ///
    /// # Errors
    /// [`PublishError`]; what was written is removed again.
    pub fn stage(&self, head: &Head, candidate: Option<&str>) -> Result<Staged, PublishError> {
        for path in head.bundle.files.keys() {
            let inside = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
            if !inside || path.starts_with("..") {
                return Err(PublishError::Path(path.clone()));
            }
        }
        self.make_directory()?;
        self.check_links(head.bundle.files.keys().map(String::as_str))?;
        let digest = head.hash.trim_start_matches("sha256:");
        let name = format!("..r{}.{}", head.revision, digest.get(..8).unwrap_or(digest));
        let shown = self.shown();
        // The shown folder of this name is damaged, or it would not be written again.
        let name = if shown.as_deref() == Some(Path::new(&name)) { name + ".again" } else { name };
        let folder = self.directory.join(name);
        let published = Published {
            revision: head.revision,
            hash: head.hash.clone(),
            candidate: candidate.map(str::to_owned),
            files: head.bundle.manifest().files,
        };
        match self.write_set(&folder, head, &published) {
            Ok(()) => Ok(Staged { folder, published }),
            Err(error) => {
                // The disk may be full: make room for others.
                let _ = self.remove_tree(&folder);
                Err(error)
            }
        }
    }

    fn write_set(&self, folder: &Path, head: &Head, published: &Published) -> Result<(), PublishError> {
        if fs::symlink_metadata(folder).is_ok() {
            self.remove_tree(folder)?;
        }
        let mut folders = BTreeSet::from([folder.to_owned()]);
        for path in head.bundle.files.keys() {
            let below = Path::new(path).ancestors().skip(1).filter(|a| !a.as_os_str().is_empty());
            folders.extend(below.map(|ancestor| folder.join(ancestor)));
        }
        for path in &folders {
            self.make_folder(path)?;
        }
        // Strings and numbers only: it cannot fail.
        let manifest = serde_json::to_vec(published).unwrap_or_default();
        let mut written = vec![self.write_file(folder.join(MANIFEST), &manifest, 0o444)?];
        for (path, file) in &head.bundle.files {
            written.push(self.write_file(folder.join(path), &file.bytes, file.mode)?);
        }
        // After all is written: the first commits the file system's journal for all.
        for (path, file) in &written {
            self.disk.sync(file).map_err(failed("fsync", path))?;
        }
        folders.iter().try_for_each(|path| self.sync_folder(path))
    }

    /// The config's directory, and those above it. It gets its name after its mode, so that none with
    /// the wrong mode is left behind.
    fn make_directory(&self) -> Result<(), PublishError> {
        if self.directory.exists() {
            return Ok(());
        }
        let above = self.directory.parent().unwrap_or_else(|| Path::new(""));
        let missing: Vec<&Path> =
            above.ancestors().take_while(|path| *path != Path::new("") && !path.exists()).collect();
        missing.into_iter().rev().try_for_each(|path| self.make_folder(path))?;
        let name = self.directory.file_name().unwrap_or_else(|| OsStr::new("")).to_string_lossy();
        let unnamed = above.join(format!("..{name}_tmp"));
        if unnamed.exists() {
            self.disk.remove_dir(&unnamed).map_err(failed("rmdir", &unnamed))?;
        }
        self.make_folder(&unnamed)?;
        self.disk.rename(&unnamed, &self.directory).map_err(failed("rename", &self.directory))
    }

    /// A folder that everybody may read, whatever the umask.
    fn make_folder(&self, path: &Path) -> Result<(), PublishError> {
        self.disk.create_dir(path).map_err(failed("mkdir", path))?;
        let folder = File::open(path).map_err(failed("open", path))?;
        self.disk.set_mode(&folder, 0o755).map_err(failed("chmod", path))
    }

    fn write_file(&self, path: PathBuf, bytes: &[u8], mode: u32) -> Result<(PathBuf, File), PublishError> {
        let mut file = self.disk.create(&path).map_err(failed("create", &path))?;
        self.disk.write(&mut file, bytes).map_err(failed("write", &path))?;
        self.disk.set_mode(&file, mode).map_err(failed("chmod", &path))?;
        Ok((path, file))
    }

    fn sync_folder(&self, path: &Path) -> Result<(), PublishError> {
        let folder = File::open(path).map_err(failed("open", path))?;
        self.disk.sync(&folder).map_err(failed("fsync", path))
    }

    /// Removes a staged set that is not to be shown.
    pub fn discard(&self, staged: &Staged) {
        // What stays is cleared away by the next publication.
        let _ = self.remove_tree(&staged.folder);
    }

    /// Shows a staged set: the one rename that switches all files, then the links of those that are
    /// new.
    ///
    /// # Errors
    /// [`PublishError`]; the set shown before stays, or the new one lacks links: [`Self::begin`] tells.
    pub fn switch(&self, staged: Staged) -> Result<Published, PublishError> {
        let (next, data) = (self.directory.join(DATA_NEXT), self.directory.join(DATA));
        let name = Path::new(staged.folder.file_name().unwrap_or_else(|| OsStr::new("")));
        if fs::symlink_metadata(&next).is_ok() {
            self.disk.remove(&next).map_err(failed("unlink", &next))?;
        }
        let switched = self
            .disk
            .link(name, &next)
            .map_err(failed("symlink", &next))
            .and_then(|()| self.disk.rename(&next, &data).map_err(failed("rename", &data)));
        if let Err(error) = switched {
            self.discard(&staged);
            return Err(error);
        }
        self.link(&staged.published)?;
        Ok(staged.published)
    }

    /// The name of the shown set's folder.
    pub fn shown(&self) -> Option<PathBuf> {
        fs::read_link(self.directory.join(DATA)).ok()
    }

    /// Makes the links of a set that lack.
    fn link(&self, published: &Published) -> Result<(), PublishError> {
        for name in tops(&published.files) {
            let path = self.directory.join(name);
            if fs::symlink_metadata(&path).is_err() {
                self.disk.link(&Path::new(DATA).join(name), &path).map_err(failed("symlink", &path))?;
            }
        }
        Ok(())
    }

    /// Clears away all that is not part of the shown set, except for the folder `spared`: a
    /// reader may just have resolved `..data` to the set before.
    ///
    /// # Errors
    /// [`PublishError`]; the set is shown all the same, and it can be done again.
    pub fn clean(&self, published: &Published, spared: Option<&Path>) -> Result<(), PublishError> {
        let wanted = tops(&published.files);
        let shown = fs::read_link(self.directory.join(DATA)).map_err(failed("readlink", &self.directory.join(DATA)))?;
        let stays = |name: &Path| name == shown || Some(name) == spared;
        let entries = fs::read_dir(&self.directory).map_err(failed("read", &self.directory))?;
        for entry in entries {
            let entry = entry.map_err(failed("read", &self.directory))?;
            let (name, path) = (entry.file_name(), entry.path());
            let text = name.to_string_lossy();
            if text == DATA_NEXT || (is_our_link(&path) && !wanted.contains(name.as_os_str())) {
                self.disk.remove(&path).map_err(failed("unlink", &path))?;
            } else if text.starts_with("..r") && !stays(Path::new(&name)) {
                self.remove_tree(&path)?;
            }
        }
        self.sync_folder(&self.directory)
    }

    fn remove_tree(&self, folder: &Path) -> Result<(), PublishError> {
        for entry in fs::read_dir(folder).map_err(failed("read", folder))? {
            let entry = entry.map_err(failed("read", folder))?;
            let path = entry.path();
            if entry.file_type().map_err(failed("stat", &path))?.is_dir() {
                self.remove_tree(&path)?;
            } else {
                self.disk.remove(&path).map_err(failed("unlink", &path))?;
            }
        }
        self.disk.remove_dir(folder).map_err(failed("rmdir", folder))
    }

    /// Remembers something beside the sets, whole or not at all, under a name like `..told`.
    ///
    /// # Errors
    /// [`PublishError`]; what was remembered before stays.
    pub fn remember(&self, name: &str, what: &impl Serialize) -> Result<(), PublishError> {
        self.make_directory()?;
        let (path, next) = (self.directory.join(name), self.directory.join(format!("{name}_tmp")));
        if next.exists() {
            self.disk.remove(&next).map_err(failed("unlink", &next))?;
        }
        // Our own types only: it cannot fail.
        let bytes = serde_json::to_vec(what).unwrap_or_default();
        let (next, file) = self.write_file(next, &bytes, 0o444)?;
        self.disk.sync(&file).map_err(failed("fsync", &next))?;
        self.disk.rename(&next, &path).map_err(failed("rename", &path))
    }

    /// What was remembered under a name.
    pub fn remembered<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&fs::read(self.directory.join(name)).ok()?).ok()
    }

    /// Finds what would be in the way of a link, before anything is switched.
    fn check_links<'a>(&self, paths: impl Iterator<Item = &'a str>) -> Result<(), PublishError> {
        for name in paths.filter_map(top).collect::<BTreeSet<_>>() {
            let path = self.directory.join(name);
            if fs::symlink_metadata(&path).is_ok() && !is_our_link(&path) {
                return Err(PublishError::InTheWay(path));
            }
        }
        Ok(())
    }
}

/// The names of a set's links.
fn tops(files: &[ManifestFile]) -> BTreeSet<&OsStr> {
    files.iter().filter_map(|file| top(&file.path)).collect()
}

fn top(path: &str) -> Option<&OsStr> {
    Path::new(path).components().next().map(Component::as_os_str)
}

fn is_our_link(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|target| target.starts_with(DATA))
}

fn failed(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PublishError {
    move |source| PublishError::Io { call, path: path.to_owned(), source }
}
