//! Keys of a value, as people write them.

/// The tokens of `/server/port` (RFC 6901) or `server.port`; none is the whole value.
///
/// # Errors
/// When it is neither.
pub fn tokens(key: &str) -> Result<Vec<String>, String> {
    if matches!(key, "" | "/" | ".") {
        return Ok(Vec::new());
    }
    let malformed = || format!("{key:?} is no key: write it as server.port, or as /server/port if a part has a dot");
    if let Some(rest) = key.strip_prefix('/') {
        return rest.split('/').map(unescaped).collect::<Option<_>>().ok_or_else(malformed);
    }
    let parts: Vec<String> = key.split('.').map(str::to_owned).collect();
    if parts.iter().any(String::is_empty) { Err(malformed()) } else { Ok(parts) }
}

fn unescaped(token: &str) -> Option<String> {
    let plain = token.replace("~1", "/");
    // A tilde is written as ~0, and nothing else may follow one.
    let stray = token.match_indices('~').any(|(at, _)| !matches!(token.as_bytes().get(at + 1), Some(b'0' | b'1')));
    (!stray).then(|| plain.replace("~0", "~"))
}

/// The pointer of tokens; "" is the whole value.
#[must_use]
pub fn of(tokens: &[String]) -> String {
    tokens.iter().fold(String::new(), |pointer, token| format!("{pointer}/{}", escaped(token)))
}

/// One token, as it stands in a pointer.
#[must_use]
pub fn escaped(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

/// Whether a pointer is that of `above`, or of something below it.
#[must_use]
pub fn is_within(pointer: &str, above: &str) -> bool {
    pointer.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_pointers_or_dotted() {
        for (key, pointer) in
            [("", ""), ("/", ""), ("server.port", "/server/port"), ("/a~1b/c~0d/x.y", "/a~1b/c~0d/x.y")]
        {
            assert_eq!(of(&tokens(key).unwrap()), pointer, "{key}");
        }
        for key in ["a..b", ".a", "/a~2", "/a~"] {
            assert!(tokens(key).is_err(), "{key}");
        }
    }

    #[test]
    fn within_is_not_a_prefix_of_text() {
        assert!(is_within("/a/b", "/a") && is_within("/a", "/a") && is_within("/a", ""));
        assert!(!is_within("/ab", "/a"));
    }
}
