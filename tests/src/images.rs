//! Images as OCI archives, put together without a container engine, from the very Containerfiles that one would use.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::cluster::root;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image in a file.
#[derive(Debug)]
pub struct Archive {
    /// The image's name, as pods give it.
    pub name: String,
    /// The file: `podman load` and `ctr images import` read it.
    pub path: PathBuf,
    /// The size of what is in it, in bytes.
    pub unpacked: usize,
    /// How much of it is sent over the network, in bytes.
    pub packed: usize,
}

/// Builds the images of operator and sidecar from this checkout, into `target/images`.
///
/// # Errors
/// When they cannot be built.
pub fn ours() -> Result<Vec<Archive>> {
    let build = Command::new(root().join("tests/cluster/static.sh")).stderr(Stdio::inherit()).output()?;
    ensure!(build.status.success(), "operator and sidecar were not built; the reason is above");
    let programs = PathBuf::from(String::from_utf8_lossy(&build.stdout).trim());
    let commit = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(root()).output();
    let commit = commit.ok().filter(|git| git.status.success()).map(|git| String::from_utf8_lossy(&git.stdout).into());
    let revision: String = commit.unwrap_or_else(|| "unknown".to_owned());
    let version = env!("CARGO_PKG_VERSION");
    let arguments = [("VERSION", version), ("REVISION", revision.trim())];
    ["operator", "sidecar"]
        .into_iter()
        .map(|part| {
            let containerfile = root().join(part).join("Containerfile");
            let name = format!("docker.io/quorate/quorate-{part}:{version}");
            let path = root().join(format!("target/images/quorate-{part}.tar"));
            Image::from_containerfile(&containerfile, &programs, &arguments)
                .with_context(|| containerfile.display().to_string())?
                .write(&name, &path)
        })
        .collect()
}

/// An image that is being put together.
pub struct Image {
    layer: tar::Builder<Vec<u8>>,
    config: Map<String, Value>,
}

impl Default for Image {
    fn default() -> Self {
        Self { layer: tar::Builder::new(Vec::new()), config: Map::new() }
    }
}

impl Image {
    /// An image `FROM scratch`, as a Containerfile says: with ARG, LABEL, COPY of single files, ENV, USER,
    /// EXPOSE and ENTRYPOINT.
    ///
    /// # Errors
    /// When there is another instruction, or a file is missing.
    pub fn from_containerfile(file: &Path, context: &Path, arguments: &[(&str, &str)]) -> Result<Self> {
        let text = fs::read_to_string(file)?;
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let mut image = Self::default();
        let (mut labels, mut environment) = (Map::new(), Vec::new());
        let mut known: Vec<(String, String)> = Vec::new();
        for line in lines.join("\n").replace("\\\n", " ").lines().filter(|line| !line.trim().is_empty()) {
            let filled = known.iter().fold(line.to_owned(), |line, (name, value)| line.replace(name, value));
            let (instruction, rest) = filled.split_once(' ').context("an instruction without arguments")?;
            let words: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
            match (instruction, &words[..]) {
                ("FROM", [scratch]) if scratch == "scratch" => {}
                ("ARG", [argument]) => {
                    let (name, default) = argument.split_once('=').unwrap_or((argument, ""));
                    let given = arguments.iter().find(|(given, _)| *given == name);
                    known.push((format!("${{{name}}}"), given.map_or(default, |(_, value)| *value).to_owned()));
                }
                ("LABEL", _) => labels.extend(quoted_pairs(rest)?),
                ("COPY", [source, target]) => image.file(&context.join(source), target)?,
                ("ENV", [variable]) => environment.push(variable.clone()),
                ("USER", [user]) => image.set("User", json!(user)),
                ("EXPOSE", [port]) => image.set("ExposedPorts", json!({format!("{port}/tcp"): {}})),
                ("ENTRYPOINT", _) => image.set("Entrypoint", serde_json::from_str(rest)?),
                _ => bail!("{line}: tests/src/images.rs does not know this"),
            }
        }
        image.set("Labels", json!(labels));
        image.set("Env", json!(environment));
        Ok(image)
    }

    /// Adds an executable file, owned by root; the same bytes give the same image.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn file(&mut self, source: &Path, path: &str) -> Result<()> {
        let bytes = fs::read(source).with_context(|| source.display().to_string())?;
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        self.layer.append_data(&mut header, path.trim_start_matches('/'), &bytes[..])?;
        Ok(())
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// When the path does not fit.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        self.layer.append_link(&mut header, path.trim_start_matches('/'), target)?;
        Ok(())
    }

    /// Adds all that is in a folder, with its modes, owned by root.
    ///
    /// # Errors
    /// When something cannot be read, or is neither a file nor a folder nor a link.
    pub fn tree(&mut self, folder: &Path) -> Result<()> {
        self.below(folder, Path::new(""))
    }

    fn below(&mut self, source: &Path, path: &Path) -> Result<()> {
        let mut names = fs::read_dir(source)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
        names.sort();
        for name in names {
            let (source, path) = (source.join(&name), path.join(&name));
            let about = fs::symlink_metadata(&source)?;
            if about.is_symlink() {
                self.link(&path.display().to_string(), &fs::read_link(&source)?.display().to_string())?;
                continue;
            }
            let mut header = tar::Header::new_gnu();
            header.set_mode(about.permissions().mode() & 0o7777);
            if about.is_dir() {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_size(0);
                self.layer.append_data(&mut header, &path, io::empty())?;
                self.below(&source, &path)?;
            } else {
                ensure!(about.is_file(), "{} is neither a file nor a folder nor a link", source.display());
                let bytes = fs::read(&source)?;
                header.set_size(bytes.len() as u64);
                self.layer.append_data(&mut header, &path, &bytes[..])?;
            }
        }
        Ok(())
    }

    /// Sets a field of the image's configuration, as the OCI's specification names it.
    pub fn set(&mut self, field: &str, value: Value) {
        self.config.insert(field.to_owned(), value);
    }

    /// Writes it to a file.
    ///
    /// # Errors
    /// When that fails.
    pub fn write(self, name: &str, path: &Path) -> Result<Archive> {
        let layer = self.layer.into_inner()?;
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        packer.write_all(&layer)?;
        let packed = packer.finish()?;
        let config = json!({
            "architecture": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        });
        let config = serde_json::to_vec(&config)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": [descriptor(LAYER, &packed)],
        });
        let manifest = serde_json::to_vec(&manifest)?;
        let mut entry = descriptor(MANIFEST, &manifest);
        // The first is where containerd looks for the name, the second is podman's.
        entry["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
        let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]}))?;

        fs::create_dir_all(path.parent().context("no folder")?)?;
        let mut archive = tar::Builder::new(File::create(path).with_context(|| path.display().to_string())?);
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, bytes)
        };
        add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        add("index.json", &index)?;
        for blob in [&config, &manifest, &packed] {
            add(&format!("blobs/{}", digest(blob).replace(':', "/")), blob)?;
        }
        archive.finish()?;
        Ok(Archive { name: name.to_owned(), path: path.to_owned(), unpacked: layer.len(), packed: packed.len() })
    }
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

/// `a="x y" b="z"`.
fn quoted_pairs(text: &str) -> Result<Vec<(String, Value)>> {
    let parts: Vec<&str> = text.trim().split('"').collect();
    ensure!(parts.last().is_some_and(|rest| rest.is_empty()), "write labels as name=\"value\"");
    let pairs = parts.chunks_exact(2).map(|pair| {
        let name = pair[0].trim().strip_suffix('=').context("write labels as name=\"value\"")?;
        Ok((name.to_owned(), json!(pair[1])))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read};

    use super::*;

    #[test]
    fn an_archive_is_what_the_containerfile_says_and_the_same_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let containerfile = folder.path().join("Containerfile");
        let text = "# A comment\nFROM scratch\nARG VERSION=none\nLABEL a=\"x y\" \\\n  v=\"${VERSION}\"\nCOPY program /bin/p\nENV E=1\n\
                    USER 65532:65532\nEXPOSE 80\nENTRYPOINT [\"/bin/p\", \"-x\"]\n";
        fs::write(&containerfile, text).unwrap();
        fs::write(folder.path().join("program"), "the program").unwrap();
        let build = |out: &str| {
            let image = Image::from_containerfile(&containerfile, folder.path(), &[("VERSION", "1.2")]).unwrap();
            image.write("localhost/p:1", &folder.path().join(out)).unwrap().path
        };
        let (path, again) = (build("a.tar"), build("b.tar"));
        assert_eq!(fs::read(&path).unwrap(), fs::read(again).unwrap());

        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(File::open(path).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            files.insert(name, bytes);
        }
        let blob = |descriptor: &Value| {
            let bytes = &files[&format!("blobs/{}", descriptor["digest"].as_str().unwrap().replace(':', "/"))];
            assert_eq!(
                (descriptor["size"].as_u64(), digest(bytes)),
                (Some(bytes.len() as u64), descriptor["digest"].as_str().unwrap().to_owned())
            );
            bytes.clone()
        };
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let index = json(&files["index.json"]);
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "localhost/p:1");
        let manifest = json(&blob(&index["manifests"][0]));
        let config = json(&blob(&manifest["config"]));
        assert_eq!(
            config["config"],
            json!({"Labels": {"a": "x y", "v": "1.2"}, "Env": ["E=1"], "User": "65532:65532", "ExposedPorts": {"80/tcp": {}},
                   "Entrypoint": ["/bin/p", "-x"]})
        );
        let mut layer = Vec::new();
        flate2::read::GzDecoder::new(&blob(&manifest["layers"][0])[..]).read_to_end(&mut layer).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], json!([digest(&layer)]));
        let mut layer = tar::Archive::new(&layer[..]);
        let mut program = layer.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(
            (program.path().unwrap().display().to_string(), program.header().mode().unwrap()),
            ("bin/p".into(), 0o755)
        );
        let mut text = String::new();
        program.read_to_string(&mut text).unwrap();
        assert_eq!(text, "the program");
    }

    #[test]
    fn a_tree_keeps_its_links_and_modes() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("usr/lib")).unwrap();
        fs::write(tree.join("usr/lib/x"), "the library").unwrap();
        for (path, mode) in [("usr", 0o750), ("usr/lib", 0o755), ("usr/lib/x", 0o640)] {
            fs::set_permissions(tree.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        std::os::unix::fs::symlink("usr/lib", tree.join("lib")).unwrap();
        let mut image = Image::default();
        image.tree(&tree).unwrap();
        let layer = image.layer.into_inner().unwrap();
        let mut layer = tar::Archive::new(&layer[..]);
        let found = layer.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let target = entry.link_name().unwrap().map_or_else(String::new, |target| target.display().to_string());
            (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap(), target)
        });
        let expected =
            [("lib", 0o777, "usr/lib"), ("usr", 0o750, ""), ("usr/lib", 0o755, ""), ("usr/lib/x", 0o640, "")];
        let expected = expected.map(|(path, mode, target)| (path.to_owned(), mode, target.to_owned()));
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_it_does_not_know_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let containerfile = folder.path().join("Containerfile");
        for line in ["FROM debian:12", "RUN make", "COPY . /all/of it", "LABEL a=b c"] {
            fs::write(&containerfile, format!("FROM scratch\n{line}\n")).unwrap();
            let refused = Image::from_containerfile(&containerfile, folder.path(), &[]);
            assert!(refused.is_err(), "{line}");
        }
    }
}
