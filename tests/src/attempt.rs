//! Attempts at what the API server must refuse.
#![allow(clippy::panic)]

/// Checks that an attempt was refused as invalid, with these words in the reason.
///
/// # Panics
/// When it went through, or was refused for another reason.
#[track_caller]
pub fn refused<T>(answer: kube::Result<T>, why: &str) {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 422 && status.message.contains(why) => {}
        Err(error) => panic!("refused, but not because {why:?}: {error}"),
        Ok(_) => panic!("it went through, and should have been refused: {why}"),
    }
}
