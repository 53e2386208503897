//! Whatever ends or fails a publication between any two system calls, a reader sees one whole set,
//! and the next publication or start brings the new one and leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::Path,
    process::{Command, Stdio},
};

use jiff::Timestamp;
use quorate_crds::head::{Bundle, BundleFile, Head};
use quorate_sidecar::{
    disk::{Disk, RealDisk},
    publish::{PublishError, Publisher},
};
use rustix::{
    fs::Mode,
    process::{Signal, getpid, kill_process, umask},
};

/// Lets `steps` calls through; then ends the process, or fails every write as a full disk does.
struct Faulty {
    steps: Cell<usize>,
    kills: bool,
}

impl Faulty {
    fn step(&self) -> io::Result<()> {
        let left = self.steps.get();
        if left > 0 {
            self.steps.set(left - 1);
            return Ok(());
        }
        if self.kills {
            kill_process(getpid(), Signal::KILL).unwrap();
        }
        Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()))
    }
}

impl Disk for Faulty {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.create_dir(path)
    }
    fn create(&self, path: &Path) -> io::Result<File> {
        self.step()?;
        RealDisk.create(path)
    }
    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        // A write may end half-way.
        RealDisk.write(file, &bytes[..bytes.len() / 2])?;
        self.step()?;
        RealDisk.write(file, &bytes[bytes.len() / 2..])
    }
    fn set_mode(&self, file: &File, mode: u32) -> io::Result<()> {
        self.step()?;
        RealDisk.set_mode(file, mode)
    }
    fn sync(&self, file: &File) -> io::Result<()> {
        self.step()?;
        RealDisk.sync(file)
    }
    fn link(&self, target: &Path, path: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.link(target, path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        RealDisk.rename(from, to)
    }
    // A full disk can be removed from.
    fn remove(&self, path: &Path) -> io::Result<()> {
        if self.kills {
            self.step()?;
        }
        RealDisk.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        if self.kills {
            self.step()?;
        }
        RealDisk.remove_dir(path)
    }
}

type Files = BTreeMap<String, String>;

fn files(pairs: &[(&str, &str)]) -> Files {
    pairs.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

fn old() -> Files {
    files(&[("a.yaml", "old"), ("b/c.json", "old"), ("b/gone", "old"), ("removed", "old")])
}

fn new() -> Files {
    files(&[("a.yaml", "new!"), ("b/c.json", "new!"), ("b/d/e", "new!"), ("added", "new!")])
}

fn head(revision: i64, files: &Files) -> Head {
    let file = |text: &String| BundleFile { mode: 0o440, secret: false, bytes: text.clone().into_bytes() };
    let files = files.iter().map(|(path, text)| (path.clone(), file(text))).collect();
    Head::next(None, revision, Bundle { files, provenance: Vec::new() }, Timestamp::UNIX_EPOCH)
}

/// What the sidecar does about a new head.
fn publish<D: Disk>(publisher: &Publisher<D>, head: &Head) -> Result<(), PublishError> {
    let staged = publisher.stage(head, None)?;
    let before = publisher.shown();
    let published = publisher.switch(staged)?;
    publisher.clean(&published, before.as_deref())
}

/// What it does when it starts; the set before is spared until then.
fn start(directory: &Path, head: &Head) {
    let publisher = Publisher::new(RealDisk, directory.into());
    if publisher.begin().unwrap().is_none_or(|published| published.revision != head.revision) {
        publish(&publisher, head).unwrap();
        publisher.begin().unwrap();
    }
}

/// What a reader finds below a folder; dot-dot names are not the user's.
fn read(folder: &Path) -> Files {
    fn walk(folder: &Path, prefix: &str, found: &mut Files) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with("..") {
                continue;
            }
            let path = format!("{prefix}{name}");
            match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_dir() => walk(&entry.path(), &format!("{path}/"), found),
                Ok(_) => drop(found.insert(path, fs::read_to_string(entry.path()).unwrap())),
                Err(_) => drop(found.insert(path, "dangling".into())),
            }
        }
    }
    let mut found = Files::new();
    walk(folder, "", &mut found);
    found
}

fn one_whole_set(directory: &Path, before: &Files) -> Result<(), String> {
    let seen = read(&directory.join("..data"));
    if seen == *before || seen == new() { Ok(()) } else { Err(format!("a mixed set: {seen:?}")) }
}

fn whole_and_tidy(directory: &Path) {
    assert_eq!(read(&directory.join("..data")), new());
    assert_eq!(read(directory), new(), "through the links");
    let hidden = fs::read_dir(directory).unwrap().filter(|e| {
        let name = e.as_ref().unwrap().file_name().into_string().unwrap();
        name.starts_with("..")
    });
    assert_eq!(hidden.count(), 2, "something was left behind in {}", directory.display());
}

/// Not a test of its own: what the killed process does.
#[test]
fn child() {
    let Some(directory) = std::env::var_os("QUORATE_CRASH_DIRECTORY") else { return };
    let steps = std::env::var("QUORATE_CRASH_STEPS").unwrap().parse().unwrap();
    let disk = Faulty { steps: Cell::new(steps), kills: true };
    umask(Mode::from_raw_mode(0o077));
    if std::env::var_os("QUORATE_CRASH_IN_PLACE").is_some() {
        in_place(&disk, Path::new(&directory)).unwrap();
    } else {
        publish(&Publisher::new(disk, directory.into()), &head(2, &new())).unwrap();
    }
}

/// The negative control: files rewritten where they are.
fn in_place(disk: &Faulty, directory: &Path) -> io::Result<()> {
    let data = directory.join("..data");
    for (path, text) in new() {
        fs::create_dir_all(data.join(&path).parent().unwrap())?;
        disk.step()?;
        fs::write(data.join(&path), text)?;
    }
    disk.step()?;
    fs::remove_file(data.join("removed"))?;
    fs::remove_file(data.join("b/gone"))
}

/// Runs the child; whether it was killed.
fn crashes(directory: &Path, steps: usize, in_place: bool) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "child"]).env("QUORATE_CRASH_DIRECTORY", directory);
    child.env("QUORATE_CRASH_STEPS", steps.to_string()).stdout(Stdio::null());
    if in_place {
        child.env("QUORATE_CRASH_IN_PLACE", "1");
    }
    let status = child.status().unwrap();
    assert!(status.success() || status.signal() == Some(9), "{status}");
    !status.success()
}

/// How often a publication was killed before it came through; `Err` is a mixed set.
fn crash_everywhere(before: &Files, in_place: bool) -> Result<usize, String> {
    for steps in 0.. {
        let above = tempfile::tempdir().unwrap();
        // Neither the directory nor the one above it is there before the first set.
        let directory = &above.path().join("configs/web");
        if !before.is_empty() {
            publish(&Publisher::new(RealDisk, directory.into()), &head(1, before)).unwrap();
        }
        let killed = crashes(directory, steps, in_place);
        one_whole_set(directory, before)?;
        if !in_place {
            start(directory, &head(2, &new()));
            whole_and_tidy(directory);
            // The killed process ran under an umask that hides what it makes.
            for folder in [directory, &directory.join("..data/"), &directory.join("b")] {
                assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o755, "{}", folder.display());
            }
        }
        if !killed {
            return Ok(steps);
        }
    }
    unreachable!()
}

#[test]
fn killed_before_any_step_of_a_first_publication() {
    assert!(crash_everywhere(&Files::new(), false).unwrap() > 20);
}

#[test]
fn killed_before_any_step_of_an_update() {
    assert!(crash_everywhere(&old(), false).unwrap() > 20);
}

#[test]
fn the_check_notices_writing_in_place() {
    assert!(crash_everywhere(&old(), true).is_err());
}

#[test]
fn a_disk_that_is_full_at_any_step_keeps_the_old_set_until_there_is_room() {
    for steps in 0.. {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        publish(&Publisher::new(RealDisk, directory.into()), &head(1, &old())).unwrap();
        let full = Publisher::new(Faulty { steps: Cell::new(steps), kills: false }, directory.into());
        let result = publish(&full, &head(2, &new()));
        one_whole_set(directory, &old()).unwrap();
        if let Err(error) = &result {
            assert!(error.to_string().contains("No space left on device"), "{error}");
        }
        start(directory, &head(2, &new()));
        whole_and_tidy(directory);
        if result.is_ok() {
            return;
        }
    }
}

#[test]
fn a_torn_or_changed_file_is_noticed_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let publisher = Publisher::new(RealDisk, directory.path().into());
    publish(&publisher, &head(2, &new())).unwrap();
    assert_eq!(publisher.current().map(|p| p.revision), Some(2));
    fs::write(directory.path().join("..data/a.yaml"), "torn").unwrap();
    assert_eq!(publisher.current(), None);
    start(directory.path(), &head(2, &new()));
    whole_and_tidy(directory.path());
}

#[test]
fn what_is_not_ours_is_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("added"), "mine").unwrap();
    let publisher = Publisher::new(RealDisk, directory.path().into());
    assert!(matches!(publisher.stage(&head(1, &new()), None), Err(PublishError::InTheWay(_))));
    assert_eq!(fs::read_to_string(directory.path().join("added")).unwrap(), "mine");
}

#[test]
fn a_path_never_leaves_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let publisher = Publisher::new(RealDisk, directory.path().join("inner"));
    for path in ["../out", "/etc/out", "a/../../out", "..data/x"] {
        let result = publisher.stage(&head(1, &files(&[(path, "x")])), None);
        assert!(matches!(result, Err(PublishError::Path(_))), "{path}");
    }
}
