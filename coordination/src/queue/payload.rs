//! What an item says: text, or bytes that are none.

use k8s_openapi::ByteString;
use quorate_crds::{MAX_QUEUE_PAYLOAD, QueueItemSpec};

use super::limits::Invalid;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Payload {
    /// Text: people can read it with kubectl.
    Text(String),
    /// Anything else. It is stored in base64, and so takes a third more.
    Binary(Vec<u8>),
}

impl Payload {
    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// Its text, if it was sent as text.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Binary(_) => None,
        }
    }

    pub(super) fn check(&self) -> Result<(), Invalid> {
        let bytes = self.as_bytes().len();
        if bytes <= MAX_QUEUE_PAYLOAD { Ok(()) } else { Err(Invalid::Payload { bytes }) }
    }

    pub(super) fn of(spec: &QueueItemSpec) -> Self {
        match &spec.binary_payload {
            Some(bytes) => Self::Binary(bytes.0.clone()),
            None => Self::Text(spec.payload.clone().unwrap_or_default()),
        }
    }

    pub(super) fn put_into(self, spec: &mut QueueItemSpec) {
        match self {
            Self::Text(text) => spec.payload = Some(text),
            Self::Binary(bytes) => spec.binary_payload = Some(ByteString(bytes)),
        }
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&[u8]> for Payload {
    fn from(bytes: &[u8]) -> Self {
        Self::Binary(bytes.to_owned())
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Binary(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_come_back_as_they_were_sent() {
        for payload in [Payload::from("grüße\0"), Payload::from(""), Payload::from(vec![0, 255, 10])] {
            let mut spec = QueueItemSpec::default();
            payload.clone().put_into(&mut spec);
            let json = serde_json::to_string(&spec).unwrap();
            assert_eq!(Payload::of(&serde_json::from_str(&json).unwrap()), payload, "{json}");
        }
    }

    #[test]
    fn what_counts_are_bytes() {
        assert!(Payload::from("x".repeat(MAX_QUEUE_PAYLOAD)).check().is_ok());
        let told = Payload::from("ä".repeat(MAX_QUEUE_PAYLOAD / 2 + 1)).check().unwrap_err().to_string();
        assert!(told.contains("65538 bytes") && told.contains("65536"), "{told}");
    }
}
