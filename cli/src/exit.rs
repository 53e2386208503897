//! How a command ends: the codes that scripts rely on, and what is said when it fails.

use std::fmt;

/// What a command's end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Ok,
    /// The command line is wrong, or the API server failed or refused.
    Error,
    /// There is no such config, revision, key, lock or counter.
    NotFound,
    /// The config is not ready, its rollout was refused, `lint` found problems, or a counter does not allow it.
    Failed,
    /// The time is over, a rollout is still under way, or whether something was done is not known.
    InProgress,
    /// `diff --exit-code` found differences.
    Different,
    /// `lock run`: how the command ended.
    Command(u8),
    /// `lock run`: the API server cannot be asked, or refuses.
    NoServer,
    /// `lock run`: the lock was lost before the command had ended.
    Lost,
    /// `lock run`: it was not granted in time.
    NotGranted,
    /// `lock run`: wrong usage.
    WrongRun,
}

impl Exit {
    /// The process's exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Error => 1,
            Self::NotFound => 2,
            Self::Failed => 3,
            Self::InProgress => 4,
            Self::Different => 5,
            Self::Command(code) => code,
            // As timeout(1) and env(1) have them, and two below.
            Self::NoServer => 122,
            Self::Lost => 123,
            Self::NotGranted => 124,
            Self::WrongRun => 125,
        }
    }
}

/// Why a command failed, for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// What happened, to which object, what to do.
    pub message: String,
}

impl Failure {
    /// An error of usage, or of the API server.
    #[must_use]
    pub fn error(message: impl Into<String>) -> Self {
        Self { exit: Exit::Error, message: message.into() }
    }

    /// Something that is not there.
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { exit: Exit::NotFound, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// What a command comes to.
pub type Result<T = Exit> = std::result::Result<T, Failure>;
