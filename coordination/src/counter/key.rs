//! An idempotency key: whatever the caller likes, of which a hash is kept.

use quorate_crds::head::hex;
use sha2::{Digest, Sha256};

/// Characters of a key.
const LONGEST: usize = 255;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key(String);

/// A text that cannot be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key has 1 to {LONGEST} bytes: take a random one, such as a UUID, for each operation")]
pub struct NoKey;

impl Key {
    /// The key of this text.
    ///
    /// # Errors
    /// When it is empty or too long.
    pub fn new(text: &str) -> Result<Self, NoKey> {
        let good = (1..=LONGEST).contains(&text.len());
        if good { Ok(Self(hex(&Sha256::digest(text))[..32].to_owned())) } else { Err(NoKey) }
    }

    /// By which it is kept: 128 bits.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.0
    }
}
