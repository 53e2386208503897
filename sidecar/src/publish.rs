//! A head's files on disk, switched as one set: kubelet's `AtomicWriter` layout.
//!
//! ```text
//! DIR/web/config.yaml -> ..data/config.yaml      a link for each file or top folder
//! DIR/web/..data      -> ..r7.0f3a9c21           switched by one rename(2)
//! DIR/web/..r7.0f3a9c21/{config.yaml, ..manifest.json}
//! ```
//!
//! After a crash at any point `..data` shows the whole old set or the whole new one, and the next
//! publication or start clears away what was left behind.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};

use quorate_crds::head::{Head, ManifestFile, hex};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::disk::Disk;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";
const MANIFEST: &str = "..manifest.json";

/// What is on disk: stored beside the files, as `..data/..manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The revision.
    pub revision: i64,
    /// The content's hash.
    pub hash: String,
    /// The files.
    pub files: Vec<ManifestFile>,
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
    published: Published,
}

/// Writes the sets of one config to one directory.
#[derive(Clone, Debug)]
pub struct Publisher<D> {
    disk: D,
    directory: PathBuf,
}

impl<D: Disk> Publisher<D> {
    /// Of `directory`, which is made when the first set is written.
    pub const fn new(disk: D, directory: PathBuf) -> Self {
        Self { disk, directory }
    }

    /// Where the config's files are.
    pub fn directory(&self) -> &Path {
        &self.directory
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

    /// Writes a head's files to a new folder. Nothing shows them yet.
    ///
    /// # Errors
    /// [`PublishError`]; what was written is removed again.
    pub fn stage(&self, head: &Head) -> Result<Staged, PublishError> {
        for path in head.bundle.files.keys() {
            let inside = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
            if !inside || path.starts_with("..") {
                return Err(PublishError::Path(path.clone()));
            }
        }
        fs::create_dir_all(&self.directory).map_err(failed("mkdir", &self.directory))?;
        self.check_links(head.bundle.files.keys().map(String::as_str))?;
        let digest = head.hash.trim_start_matches("sha256:");
        let name = format!("..r{}.{}", head.revision, digest.get(..8).unwrap_or(digest));
        let shown = self.shown();
        // The shown folder of this name is damaged, or it would not be written again.
        let name = if shown.as_deref() == Some(Path::new(&name)) { name + ".again" } else { name };
        let folder = self.directory.join(name);
        let published =
            Published { revision: head.revision, hash: head.hash.clone(), files: head.bundle.manifest().files };
        match self.write_set(&folder, head, &published) {
            Ok(()) => Ok(Staged { folder, published }),
            Err(error) => {
                // The disk may be full: make room for others.
                let _ = self.disk.remove_tree(&folder);
                Err(error)
            }
        }
    }

    fn write_set(&self, folder: &Path, head: &Head, published: &Published) -> Result<(), PublishError> {
        if fs::symlink_metadata(folder).is_ok() {
            self.disk.remove_tree(folder).map_err(failed("remove", folder))?;
        }
        let mut folders = BTreeSet::from([folder.to_owned()]);
        for path in head.bundle.files.keys() {
            let below = Path::new(path).ancestors().skip(1).filter(|a| !a.as_os_str().is_empty());
            folders.extend(below.map(|ancestor| folder.join(ancestor)));
        }
        for path in &folders {
            self.disk.create_dir(path).map_err(failed("mkdir", path))?;
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
        let _ = self.disk.remove_tree(&staged.folder);
    }

    /// Shows a staged set: the one rename that switches all files.
    ///
    /// # Errors
    /// [`PublishError`]; the set shown before stays.
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
        Ok(staged.published)
    }

    /// The name of the shown set's folder.
    pub fn shown(&self) -> Option<PathBuf> {
        fs::read_link(self.directory.join(DATA)).ok()
    }

    /// Makes the links of the shown set, and clears away all that is not part of it, except for
    /// `spared`: a reader may just have resolved `..data` to the set before.
    ///
    /// # Errors
    /// [`PublishError`]; the set is shown all the same, and it can be done again.
    pub fn tidy(&self, published: &Published, spared: Option<&Path>) -> Result<(), PublishError> {
        let wanted: BTreeSet<&OsStr> = published.files.iter().filter_map(|file| top(&file.path)).collect();
        for name in &wanted {
            let path = self.directory.join(name);
            if fs::symlink_metadata(&path).is_err() {
                self.disk.link(&Path::new(DATA).join(name), &path).map_err(failed("symlink", &path))?;
            }
        }
        let shown = fs::read_link(self.directory.join(DATA)).map_err(failed("readlink", &self.directory.join(DATA)))?;
        let entries = fs::read_dir(&self.directory).map_err(failed("read", &self.directory))?;
        for entry in entries {
            let entry = entry.map_err(failed("read", &self.directory))?;
            let (name, path) = (entry.file_name(), entry.path());
            let text = name.to_string_lossy();
            if text == DATA_NEXT || (is_our_link(&path) && !wanted.contains(name.as_os_str())) {
                self.disk.remove(&path).map_err(failed("unlink", &path))?;
            } else if text.starts_with("..r") && Path::new(&name) != shown && Some(Path::new(&name)) != spared {
                self.disk.remove_tree(&path).map_err(failed("remove", &path))?;
            }
        }
        self.sync_folder(&self.directory)
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

fn top(path: &str) -> Option<&OsStr> {
    Path::new(path).components().next().map(Component::as_os_str)
}

fn is_our_link(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|target| target.starts_with(DATA))
}

fn failed(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PublishError {
    move |source| PublishError::Io { call, path: path.to_owned(), source }
}
