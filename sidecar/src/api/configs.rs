//! This pod's configuration under `/v1/configs`, by consistency.
//!
//! - `weak`: the file as it is on disk, always.
//! - `bounded`: the same, if it was the latest at some time within `maxAge`; if that is not known, it is asked.
//! - `strong`: what the head says now, by a quorum read that is sent after the request came. For a pod that a canary has chosen
//!   that is the candidate.
//!
//! What cannot be known is refused.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use quorate_crds::{
    Proposal,
    head::{ManifestFile, hex},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::{task::spawn_blocking, time::timeout};

use super::{
    Api,
    backend::Backend,
    input::{Asked, At, as_seconds, seconds},
    json::Json,
    problem::Problem,
    routes::Route,
};
use crate::{
    Shared,
    publish::{DATA, MANIFEST, Published},
};

/// The header of the revision.
pub const REVISION: &str = "quorate-revision";
/// The header of the set's hash.
pub const HASH: &str = "quorate-hash";
/// For how long a reading of the head is waited for.
const READING: Duration = Duration::from_secs(5);
/// `maxAge` may be no more: a year.
const OLDEST: Duration = Duration::from_secs(365 * 86_400);
/// A set that is cleared away while it is read is read again from the next one.
const ATTEMPTS: usize = 4;

/// How sure one is that it is the latest.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// What the head says now; 503 if that cannot be known.
    Strong,
    /// What the head said at some time within `maxAge`; 503 if that cannot be known.
    Bounded,
    /// What is on disk.
    #[default]
    Weak,
}

/// How to read.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Reading {
    /// How sure one is that it is the latest.
    #[serde(default)]
    pub consistency: Consistency,
    /// With `bounded`: seconds.
    #[schemars(range(min = 0))]
    pub max_age: Option<f64>,
}

/// All configs of this pod.
#[derive(Serialize, JsonSchema)]
pub struct Configs {
    /// By name.
    configs: Vec<ConfigShown>,
}

/// A config, as this pod has it.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigShown {
    /// The config.
    name: String,
    /// The revision on disk; none before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<i64>,
    /// Its hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    /// Whether it was read from a candidate that this pod tries.
    candidate: bool,
    /// Seconds since the sending of the last quorum read of the head.
    age: f64,
    /// Whether that is longer than spec.freshness.maxAge.
    stale: bool,
    /// What keeps it from being up to date.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// Its files.
    files: Vec<FileShown>,
}

/// A file, without its content.
#[derive(Serialize, JsonSchema)]
pub struct FileShown {
    /// Relative path.
    path: String,
    /// Hexadecimal SHA-256 of its bytes.
    sha256: String,
    /// Permission bits on disk, decimal.
    mode: u32,
    /// Whether it holds a value from a Secret.
    secret: bool,
}

/// What can be asked.
pub fn routes<B: Backend>() -> [Route<B>; 3] {
    [
        Route::new(("get", "/v1/configs"), "listConfigs", "This pod's configuration, without content", get(list::<B>))
            .answers::<Configs>(200, "What is on disk"),
        Route::new(
            ("get", "/v1/configs/{name}"),
            "getConfig",
            "One config of this pod, without content",
            get(one::<B>),
        )
        .answers::<ConfigShown>(200, "What is on disk")
        .problems(&[404]),
        Route::new(
            ("get", "/v1/configs/{name}/files/{*path}"),
            "getFile",
            "A file, by consistency: strong, bounded or weak. It has an ETag, and its Age in seconds",
            get(file::<B>),
        )
        .headers(&["if-none-match"])
        .query::<Reading>()
        .sends("*/*", "The file; 304 if it is known")
        .problems(&[404, 500, 503]),
    ]
}

/// `GET /v1/configs`
async fn list<B: Backend>(State(api): State<Arc<Api<B>>>) -> Json<Configs> {
    let mut names = api.shared.options.config.clone();
    names.sort();
    names.dedup();
    let mut configs = Vec::with_capacity(names.len());
    for name in names {
        configs.push(shown(&api.shared, name).await);
    }
    Json(Configs { configs })
}

/// `GET /v1/configs/{name}`
async fn one<B: Backend>(State(api): State<Arc<Api<B>>>, At(name): At<String>) -> Result<Json<ConfigShown>, Problem> {
    followed(&api.shared, &name)?;
    Ok(Json(shown(&api.shared, name).await))
}

/// `GET /v1/configs/{name}/files/{path}`
async fn file<B: Backend>(
    State(api): State<Arc<Api<B>>>,
    At((name, path)): At<(String, String)>,
    Asked(reading): Asked<Reading>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let shared = &api.shared;
    followed(shared, &name)?;
    let (set, age) = match (reading.consistency, reading.max_age) {
        (Consistency::Weak, None) => (found(shared, &name, &path).await?, age(shared, &name)),
        (Consistency::Strong, None) => strong(shared, &name, &path).await?,
        (Consistency::Bounded, Some(most)) => bounded(shared, &name, &path, seconds("maxAge", most, OLDEST)?).await?,
        (Consistency::Bounded, None) => return Err(Problem::invalid("with consistency=bounded say maxAge=SECONDS")),
        _ => return Err(Problem::invalid("maxAge is for consistency=bounded only")),
    };
    Ok(answer(&path, set, age, &headers))
}

/// A file of a set.
struct Found {
    published: Published,
    file: ManifestFile,
    bytes: Vec<u8>,
}

async fn strong(shared: &Shared, name: &str, path: &str) -> Result<(Found, Duration), Problem> {
    let sent = shared.health.now();
    let wanted = asked(shared, name).await?;
    let set = found(shared, name, path).await?;
    // What came between the two is newer still.
    let newest = shared.readings.wanted(name).unwrap_or_else(|| wanted.clone());
    if set.published.is(&wanted) || set.published.is(&newest) {
        return Ok((set, shared.health.now().saturating_sub(sent)));
    }
    let why = shared.health.trouble(name).unwrap_or_else(|| "it is being published: try again".to_owned());
    let (own, shown) = (newest.revision, set.published.revision);
    Err(Problem::unavailable(format!("config {name}: revision {own} is due, and this pod shows {shown}: {why}")))
}

async fn bounded(shared: &Shared, name: &str, path: &str, most: Duration) -> Result<(Found, Duration), Problem> {
    // In this order: a reading that ends in between makes it younger than is said.
    let age = age(shared, name);
    let wanted = shared.readings.wanted(name);
    if age <= most
        && let Some(wanted) = wanted
    {
        let set = found(shared, name, path).await?;
        if set.published.is(&wanted) {
            return Ok((set, age));
        }
    }
    let (set, age) = strong(shared, name, path).await?;
    if age <= most {
        return Ok((set, age));
    }
    let detail = format!("config {name}: the reading took {} ms, longer than maxAge: ask for less", age.as_millis());
    Err(Problem::unavailable(detail))
}

/// What the head says now, read by the follower.
async fn asked(shared: &Shared, name: &str) -> Result<Proposal, Problem> {
    let reading = shared.readings.ask(name).ok_or_else(|| unknown(shared, name))?;
    let told = match timeout(READING, reading).await {
        Ok(Ok(told)) => told,
        Ok(Err(_)) => Err("the follow loop has ended".to_owned()),
        Err(_) => Err(format!("no answer within {} s", READING.as_secs())),
    };
    told.map_err(|why| {
        let weak = "consistency=weak gives the file as it is";
        Problem::unavailable(format!("config {name}: what its head says now cannot be known: {why}; {weak}"))
    })
}

fn age(shared: &Shared, name: &str) -> Duration {
    shared.health.age(name).unwrap_or(Duration::MAX)
}

fn answer(path: &str, set: Found, age: Duration, headers: &HeaderMap) -> Response {
    let Found { published, file, bytes } = set;
    let tag = format!("\"{}\"", file.sha256);
    let is_known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|known| {
        known.split(',').map(|known| known.trim().trim_start_matches("W/")).any(|known| known == "*" || known == tag)
    });
    let type_ = media_type(path, &bytes);
    let mut response =
        if is_known { StatusCode::NOT_MODIFIED.into_response() } else { Response::new(Body::from(bytes)) };
    let sent = response.headers_mut();
    sent.insert(header::CONTENT_TYPE, HeaderValue::from_static(type_));
    // It may hold secrets: whoever asks may keep it, and nobody between.
    sent.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    sent.insert(header::AGE, HeaderValue::from(age.as_secs() + u64::from(age.subsec_nanos() > 0)));
    sent.insert(REVISION, HeaderValue::from(published.revision));
    for (name, text) in [(header::ETAG.as_str(), &tag), (HASH, &published.hash)] {
        if let Ok(value) = HeaderValue::try_from(text) {
            sent.insert(http::HeaderName::from_static(name), value);
        }
    }
    response
}

fn media_type(path: &str, bytes: &[u8]) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("json") => "application/json",
        Some("yaml" | "yml") => "application/yaml",
        Some("toml") => "application/toml",
        _ if std::str::from_utf8(bytes).is_ok() => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

fn followed(shared: &Shared, name: &str) -> Result<(), Problem> {
    if shared.options.config.iter().any(|config| config == name) { Ok(()) } else { Err(unknown(shared, name)) }
}

fn unknown(shared: &Shared, name: &str) -> Problem {
    let known = shared.options.config.join(", ");
    Problem::unknown(format!("config {name:?} is not mirrored by this pod's sidecar, which mirrors {known}"))
}

async fn shown(shared: &Shared, name: String) -> ConfigShown {
    let directory = shared.options.directory.join(&name);
    let published = spawn_blocking(move || set(&directory).map(|(_, published)| published)).await.ok().flatten();
    let file = |file: &ManifestFile| FileShown {
        path: file.path.clone(),
        sha256: file.sha256.clone(),
        mode: file.mode,
        secret: file.secret,
    };
    ConfigShown {
        revision: published.as_ref().map(|set| set.revision),
        hash: published.as_ref().map(|set| set.hash.clone()),
        candidate: published.as_ref().is_some_and(|set| set.candidate.is_some()),
        files: published.iter().flat_map(|set| &set.files).map(file).collect(),
        age: as_seconds(shared.health.age(&name).unwrap_or_default()),
        stale: shared.health.fresh(&name).is_err(),
        problem: shared.health.trouble(&name),
        name,
    }
}

/// A file of the set that is shown, verified.
async fn found(shared: &Shared, name: &str, path: &str) -> Result<Found, Problem> {
    let (directory, wanted) = (shared.options.directory.join(name), path.to_owned());
    let found = spawn_blocking(move || look(&directory, &wanted)).await.unwrap_or(Err(Missing::Unreadable));
    found.map_err(|missing| match missing {
        Missing::Set => {
            let why = shared.health.trouble(name).unwrap_or_else(|| "its head was not read yet".to_owned());
            Problem::unavailable(format!("config {name} has no files yet: {why}"))
        }
        Missing::File(revision) => Problem::unknown(format!(
            "config {name} has no file {path:?} in revision {revision}: GET /v1/configs/{name}"
        )),
        Missing::Unreadable => {
            let detail = format!("config {name}: file {path:?} on disk is not what its manifest says: try again");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", "The file is damaged", detail)
        }
    })
}

enum Missing {
    Set,
    File(i64),
    Unreadable,
}

fn look(directory: &Path, path: &str) -> Result<Found, Missing> {
    let mut missing = Missing::Set;
    for _ in 0..ATTEMPTS {
        let (folder, published) = set(directory).ok_or(Missing::Set)?;
        // Only what the manifest lists is read: no path leads out of the set.
        let file = published.files.iter().find(|file| file.path == path).cloned();
        let file = file.ok_or(Missing::File(published.revision))?;
        match fs::read(folder.join(&file.path)) {
            Ok(bytes) if hex(&Sha256::digest(&bytes)) == file.sha256 => return Ok(Found { published, file, bytes }),
            _ => missing = Missing::Unreadable,
        }
    }
    Err(missing)
}

/// The set that is shown: its own folder, so that what is read there is of one revision.
fn set(directory: &Path) -> Option<(PathBuf, Published)> {
    (0..ATTEMPTS).find_map(|_| {
        let folder = directory.join(fs::read_link(directory.join(DATA)).ok()?);
        let published = serde_json::from_slice(&fs::read(folder.join(MANIFEST)).ok()?).ok()?;
        Some((folder, published))
    })
}
