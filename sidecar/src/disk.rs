//! The system calls of a publication, one method each, so that tests can end the process before any
//! of them, or let any of them fail.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    path::Path,
};

/// See the module. Reading is done directly.
pub trait Disk {
    /// mkdir(2).
    ///
    /// # Errors
    /// Those of the system; so for all methods.
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }
    /// open(2), exclusively, readable by nobody else yet.
    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
    }
    /// write(2).
    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }
    /// fchmod(2), of a file or directory.
    fn set_mode(&self, file: &File, mode: u32) -> io::Result<()> {
        file.set_permissions(Permissions::from_mode(mode))
    }
    /// fsync(2), of a file or directory.
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }
    /// symlink(2).
    fn link(&self, target: &Path, path: &Path) -> io::Result<()> {
        symlink(target, path)
    }
    /// rename(2).
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
    /// unlink(2).
    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
    /// rmdir(2).
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }
}

/// The real one.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {}
