//! What is stored for pods: a bundle of files, and the Secret that carries it.
//!
//! A head and a log entry hold the same: the files as data keys (so that a plain kubelet volume can
//! mount them too), a manifest that names each file's path, key, mode and SHA-256, and as
//! annotations the revision, the hash and the chain. The hash covers the manifest, and the
//! manifest covers the bytes, so whoever reads a head can verify all of it ([`Head::from_secret`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{Resource, ResourceExt, api::ObjectMeta};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::{DistributedConfig, Freshness, Standing, freshness_text, names};

/// The most bytes a Secret's data may have (kube-apiserver's `MaxSecretSize`).
pub const MAX_BYTES: usize = 1024 * 1024;

/// One file of a bundle.
#[derive(Clone, PartialEq, Eq)]
pub struct BundleFile {
    /// Permission bits.
    pub mode: u32,
    /// Whether it holds a value from a Secret.
    pub secret: bool,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for BundleFile {
    // Never the bytes: they may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BundleFile({:04o}, {} bytes)", self.mode, self.bytes.len())
    }
}

/// A set of files that is published as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    /// Files by relative path.
    pub files: BTreeMap<String, BundleFile>,
    /// Which layer gave each value, as JSON, without values; empty when it would not fit.
    pub provenance: Vec<u8>,
}

/// What a head says of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestFile {
    /// Relative path.
    pub path: String,
    /// The Secret's data key that holds its bytes.
    pub key: String,
    /// Permission bits, decimal in JSON.
    pub mode: u32,
    /// Lower-case hexadecimal SHA-256 of its bytes.
    pub sha256: String,
    /// Whether it holds a value from a Secret.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
}

/// The files of a head, ordered by path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// One entry a file.
    pub files: Vec<ManifestFile>,
}

impl Bundle {
    /// The manifest: the same for the same files, whatever their order.
    #[must_use]
    pub fn manifest(&self) -> Manifest {
        let mut taken = BTreeSet::new();
        let files = self
            .files
            .iter()
            .map(|(path, file)| ManifestFile {
                path: path.clone(),
                key: data_key(path, &mut taken),
                mode: file.mode,
                sha256: hex(&Sha256::digest(&file.bytes)),
                secret: file.secret,
            })
            .collect();
        Manifest { files }
    }

    /// The content's identity.
    #[must_use]
    pub fn hash(&self) -> String {
        self.manifest().hash()
    }

    /// The bytes of data a head of this bundle has: files, manifest and provenance.
    #[must_use]
    pub fn size(&self) -> usize {
        self.files.values().map(|f| f.bytes.len()).sum::<usize>()
            + self.manifest().to_json().len()
            + self.provenance.len()
    }
}

impl Manifest {
    /// As stored.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Strings, numbers and booleans only: it cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// `sha256:…` over the stored form.
    #[must_use]
    pub fn hash(&self) -> String {
        format!("sha256:{}", hex(&Sha256::digest(self.to_json())))
    }
}

/// A Secret's data key for a path: the path itself where the API allows it.
fn data_key(path: &str, taken: &mut BTreeSet<String>) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut key: String = path.replace('/', "__").chars().map(|c| if allowed(c) { c } else { '_' }).collect();
    let reserved = key == names::MANIFEST_KEY || key == names::PROVENANCE_KEY;
    if reserved || key.len() > 253 || key.starts_with("..") || key == "." || taken.contains(&key) {
        key.truncate(200);
        key = format!("_{key}-{}", &hex(&Sha256::digest(path))[..16]);
    }
    taken.insert(key.clone());
    key
}

/// A published revision, as read from or written to a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Rises with every publication.
    pub revision: i64,
    /// The content's identity.
    pub hash: String,
    /// The hash of the revision before.
    pub previous_hash: Option<String>,
    /// Ties this revision to all before it.
    pub chain: String,
    /// When it was decided, by the operator's clock.
    pub decided_at: Timestamp,
    /// The older revision whose content this is.
    pub restored: Option<i64>,
    /// The newest earlier revision that pods had not refused when this one came: what to go back to.
    pub good: Option<i64>,
    /// Who made the change behind it.
    pub changed_by: Option<String>,
    /// The operator's Lamport clock when it was written.
    pub lamport: i64,
    /// The term of the operator that wrote it; 0 if none was ever elected.
    pub term: u64,
    /// What the head says beside its content; of no meaning in a log entry.
    pub standing: Standing,
    /// How fresh pods must be.
    pub freshness: Freshness,
    /// The files.
    pub bundle: Bundle,
}

/// Why a Secret is not a head. Never holds a value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HeadError {
    /// An annotation is missing or not what it should be.
    #[error("annotation {0} is missing or malformed")]
    Annotation(&'static str),
    /// The manifest is missing or not JSON.
    #[error("data key {} is missing or malformed", names::MANIFEST_KEY)]
    Manifest,
    /// The manifest is not the one that was hashed.
    #[error("the manifest's hash is {found}, but annotation {} says {expected}", names::HASH)]
    Hash {
        /// What the annotation says.
        expected: String,
        /// What the manifest hashes to.
        found: String,
    },
    /// A file is missing from the data or differs from the manifest.
    #[error("file {path}: {reason}")]
    File {
        /// Its path.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
}

impl Head {
    /// The first revision, or the one after `previous`, of which only the numbers and hashes count.
    #[must_use]
    pub fn next(previous: Option<&Head>, at_least: i64, bundle: Bundle, now: Timestamp) -> Self {
        let revision = previous.map_or(0, |p| p.revision).max(at_least.saturating_sub(1)).saturating_add(1);
        let hash = bundle.hash();
        let chain = chain(previous.map(|p| p.chain.as_str()), revision, &hash);
        Self {
            revision,
            hash,
            previous_hash: previous.map(|p| p.hash.clone()),
            chain,
            decided_at: microseconds(now),
            restored: None,
            good: None,
            changed_by: None,
            lamport: previous.map_or(0, |p| p.lamport).saturating_add(1),
            term: previous.map_or(0, |p| p.term),
            standing: Standing {
                rollout: None,
                highest: revision.max(previous.map_or(0, |p| p.standing.highest)),
                ..previous.map(|p| p.standing.clone()).unwrap_or_default()
            },
            freshness: previous.map(|p| p.freshness.clone()).unwrap_or_default(),
            bundle,
        }
    }

    /// The annotations that may change under one revision.
    #[must_use]
    pub fn standing_annotations(&self) -> BTreeMap<String, String> {
        let mut annotations = BTreeMap::from([
            // Strings and numbers only: it cannot fail.
            (names::ROLLOUT.to_owned(), serde_json::to_string(&self.standing).unwrap_or_default()),
            (names::FRESHNESS.to_owned(), freshness_text(&self.freshness)),
            (names::LAMPORT.to_owned(), self.lamport.to_string()),
        ]);
        if self.term > 0 {
            annotations.insert(names::FENCING_TOKEN.to_owned(), self.term.to_string());
        }
        annotations
    }

    /// The candidate's Secret: immutable, and with the pods (see `population`) that were ready then.
    #[must_use]
    pub fn to_candidate_secret(&self, config: &DistributedConfig, population: &str) -> Secret {
        let name = names::candidate_name(&config.name_any());
        let mut secret = self.secret(config, name, names::CANDIDATE_TYPE, names::KIND_CANDIDATE);
        secret.immutable = Some(true);
        secret.metadata.annotations.get_or_insert_default().insert(names::POPULATION.to_owned(), population.to_owned());
        secret
    }

    /// The head's Secret, owned by the config. The caller sets the resourceVersion and uid.
    #[must_use]
    pub fn to_head_secret(&self, config: &DistributedConfig) -> Secret {
        let name = names::head_name(&config.name_any());
        let mut secret = self.secret(config, name, names::HEAD_TYPE, names::KIND_HEAD);
        secret.metadata.annotations.get_or_insert_default().extend(self.standing_annotations());
        secret
    }

    /// The log entry's Secret: the same, immutable, under the revision's name.
    #[must_use]
    pub fn to_log_secret(&self, config: &DistributedConfig) -> Secret {
        let name = names::revision_name(&config.name_any(), self.revision);
        let mut secret = self.secret(config, name, names::REVISION_TYPE, names::KIND_REVISION);
        secret.immutable = Some(true);
        secret
    }

    /// The content's Secret, immutable, under its hash: what clusters agree on. No config owns it: it is made in each of the
    /// clusters.
    #[must_use]
    pub fn to_agreed_secret(&self, config: &DistributedConfig) -> Secret {
        let name = names::agreed_content_name(&config.name_any(), &self.hash);
        let mut secret = self.secret(config, name, names::AGREED_TYPE, names::KIND_AGREED_CONTENT);
        secret.immutable = Some(true);
        secret.metadata.owner_references = None;
        secret
    }

    fn secret(&self, config: &DistributedConfig, name: String, type_: &str, kind: &str) -> Secret {
        let manifest = self.bundle.manifest();
        let mut data: BTreeMap<String, ByteString> = manifest
            .files
            .iter()
            .filter_map(|entry| {
                Some((entry.key.clone(), ByteString(self.bundle.files.get(&entry.path)?.bytes.clone())))
            })
            .collect();
        data.insert(names::MANIFEST_KEY.into(), ByteString(manifest.to_json()));
        data.insert(names::PROVENANCE_KEY.into(), ByteString(self.bundle.provenance.clone()));
        let owner = config.controller_owner_ref(&()).map(|owner| OwnerReference {
            // Deleting the config must not wait for its head.
            block_owner_deletion: None,
            ..owner
        });
        Secret {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: config.namespace(),
                annotations: Some(self.annotations()),
                labels: Some(BTreeMap::from([
                    ("app.kubernetes.io/managed-by".into(), "quorate".into()),
                    (names::LABEL_CONFIG.into(), config.name_any()),
                    (names::LABEL_KIND.into(), kind.into()),
                ])),
                owner_references: owner.map(|o| vec![o]),
                ..ObjectMeta::default()
            },
            type_: Some(type_.into()),
            data: Some(data),
            ..Secret::default()
        }
    }

    fn annotations(&self) -> BTreeMap<String, String> {
        let mut a = BTreeMap::from([
            (names::REVISION.to_owned(), self.revision.to_string()),
            (names::HASH.to_owned(), self.hash.clone()),
            (names::CHAIN.to_owned(), self.chain.clone()),
            (names::DECIDED_AT.to_owned(), format!("{:.6}", self.decided_at)),
            (names::LAMPORT.to_owned(), self.lamport.to_string()),
        ]);
        if let Some(previous) = &self.previous_hash {
            a.insert(names::PREVIOUS_HASH.to_owned(), previous.clone());
        }
        if let Some(restored) = self.restored {
            a.insert(names::RESTORED.to_owned(), restored.to_string());
        }
        if let Some(good) = self.good {
            a.insert(names::GOOD.to_owned(), good.to_string());
        }
        if let Some(who) = &self.changed_by {
            a.insert(names::CHANGED_BY.to_owned(), who.clone());
        }
        if self.term > 0 {
            a.insert(names::FENCING_TOKEN.to_owned(), self.term.to_string());
        }
        a
    }

    /// Reads and verifies a head or log entry: the manifest against the hash, every file against
    /// the manifest.
    ///
    /// # Errors
    /// [`HeadError`] names the annotation, key or file that is not as it should be.
    pub fn from_secret(secret: &Secret) -> Result<Self, HeadError> {
        let annotation = |name: &'static str| secret.annotations().get(name).ok_or(HeadError::Annotation(name));
        let hash = annotation(names::HASH)?.clone();
        let empty = BTreeMap::new();
        let data = secret.data.as_ref().unwrap_or(&empty);
        let stored = &data.get(names::MANIFEST_KEY).ok_or(HeadError::Manifest)?.0;
        let found = format!("sha256:{}", hex(&Sha256::digest(stored)));
        if found != hash {
            return Err(HeadError::Hash { expected: hash, found });
        }
        let manifest: Manifest = serde_json::from_slice(stored).map_err(|_| HeadError::Manifest)?;
        let mut files = BTreeMap::new();
        for entry in manifest.files {
            let fault = |reason| HeadError::File { path: entry.path.clone(), reason };
            let bytes = &data.get(&entry.key).ok_or_else(|| fault("its data key is missing"))?.0;
            if hex(&Sha256::digest(bytes)) != entry.sha256 {
                return Err(fault("its bytes are not those of the manifest"));
            }
            let file = BundleFile { mode: entry.mode, secret: entry.secret, bytes: bytes.clone() };
            files.insert(entry.path, file);
        }
        Ok(Self {
            revision: annotation(names::REVISION)?.parse().map_err(|_| HeadError::Annotation(names::REVISION))?,
            previous_hash: secret.annotations().get(names::PREVIOUS_HASH).cloned(),
            chain: annotation(names::CHAIN)?.clone(),
            decided_at: annotation(names::DECIDED_AT)?.parse().map_err(|_| HeadError::Annotation(names::DECIDED_AT))?,
            restored: number(secret, names::RESTORED)?,
            good: number(secret, names::GOOD)?,
            changed_by: secret.annotations().get(names::CHANGED_BY).cloned(),
            lamport: number(secret, names::LAMPORT)?.unwrap_or_default(),
            term: number(secret, names::FENCING_TOKEN)?.unwrap_or_default(),
            standing: json(secret, names::ROLLOUT)?,
            freshness: json(secret, names::FRESHNESS)?,
            bundle: Bundle {
                files,
                provenance: data.get(names::PROVENANCE_KEY).map(|p| p.0.clone()).unwrap_or_default(),
            },
            hash,
        })
    }
}

fn number<N: FromStr>(secret: &Secret, name: &'static str) -> Result<Option<N>, HeadError> {
    let text = secret.annotations().get(name);
    text.map(|text| text.parse().map_err(|_| HeadError::Annotation(name))).transpose()
}

fn json<T: Default + DeserializeOwned>(secret: &Secret, name: &'static str) -> Result<T, HeadError> {
    let text = secret.annotations().get(name);
    text.map_or_else(|| Ok(T::default()), |text| serde_json::from_str(text).map_err(|_| HeadError::Annotation(name)))
}

/// As stored: what is read back is then equal.
fn microseconds(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

/// The chain value of a revision: nobody can change an older entry without changing every later one.
#[must_use]
pub fn chain(previous: Option<&str>, revision: i64, hash: &str) -> String {
    let text = format!("{}\n{revision}\n{hash}", previous.unwrap_or_default());
    format!("sha256:{}", hex(&Sha256::digest(text)))
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(files: &[(&str, &str)]) -> Bundle {
        let file = |text: &str| BundleFile { mode: 0o444, secret: false, bytes: text.into() };
        Bundle {
            files: files.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect(),
            provenance: b"{}".to_vec(),
        }
    }

    fn config() -> DistributedConfig {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
            "spec": {"layers": [{"name": "a", "inline": {}}], "files": [{"path": "a.yaml"}]}
        }))
        .unwrap()
    }

    #[test]
    fn a_head_reads_back_as_it_was_written() {
        let first = Head::next(None, 1, bundle(&[("a", "1")]), "2026-01-02T03:04:05.678901234Z".parse().unwrap());
        let next = Head::next(Some(&first), 1, bundle(&[("a", "2"), ("b/c", "3")]), Timestamp::UNIX_EPOCH);
        let second = Head { term: 4711, ..next };
        assert_eq!((first.revision, second.revision), (1, 2));
        for head in [first, second] {
            assert_eq!(Head::from_secret(&head.to_head_secret(&config())), Ok(head.clone()));
            let stored = Head::from_secret(&head.to_log_secret(&config())).unwrap();
            assert_eq!(Head { standing: head.standing.clone(), ..stored }, head);
            let candidate = head.to_candidate_secret(&config(), "a,b");
            assert_eq!(Head { standing: head.standing.clone(), ..Head::from_secret(&candidate).unwrap() }, head);
        }
    }

    #[test]
    fn a_changed_byte_key_or_manifest_is_noticed() {
        let head = Head::next(None, 1, bundle(&[("a", "1"), ("b", "2")]), Timestamp::UNIX_EPOCH);
        let tamper = |change: &dyn Fn(&mut BTreeMap<String, ByteString>)| {
            let mut secret = head.to_head_secret(&config());
            change(secret.data.as_mut().unwrap());
            Head::from_secret(&secret).unwrap_err()
        };
        assert!(matches!(tamper(&|d| d.get_mut("a").unwrap().0[0] ^= 1), HeadError::File { path, .. } if path == "a"));
        assert!(matches!(tamper(&|d| drop(d.remove("b"))), HeadError::File { path, .. } if path == "b"));
        assert!(matches!(tamper(&|d| d.get_mut(names::MANIFEST_KEY).unwrap().0.push(b' ')), HeadError::Hash { .. }));
    }

    #[test]
    fn keys_are_valid_and_unique() {
        let long = "x".repeat(300);
        let paths = ["a/b", "a__b", "a b", "a_b", names::MANIFEST_KEY, "…", &long];
        let manifest = bundle(&paths.map(|p| (p, "v"))).manifest();
        let keys: BTreeSet<_> = manifest.files.iter().map(|f| f.key.as_str()).collect();
        assert_eq!(keys.len(), paths.len());
        for key in keys {
            assert!(key.len() <= 253 && key != names::MANIFEST_KEY && !key.starts_with(".."), "{key}");
            assert!(key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)), "{key}");
        }
    }

    #[test]
    fn a_revision_is_above_every_one_known() {
        let head = Head::next(None, 8, bundle(&[]), Timestamp::UNIX_EPOCH);
        assert_eq!(head.revision, 8);
    }

    #[test]
    fn debug_output_shows_no_bytes() {
        let text = format!("{:?}", bundle(&[("a", "hunter2")]).files);
        assert!(!text.contains("hunter2") && !text.contains("104, 117"), "{text}");
    }
}
