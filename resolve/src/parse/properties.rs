//! Java properties (`java.util.Properties`, in UTF-8), with dotted keys as nested objects, so that
//! they merge with the other formats and are written back as they were read.

use serde_json::{Map, Value};

use crate::limits::MAX_DEPTH;

type Fault = (Option<usize>, String);

/// Parses the text; a fault has a line, from 1.
pub fn parse(text: &str) -> Result<Value, Fault> {
    let mut root = Map::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let number = Some(index + 1);
        let mut logical = line.trim_start_matches(BLANKS).to_owned();
        if logical.is_empty() || logical.starts_with(['#', '!']) {
            continue;
        }
        while continues(&logical) {
            logical.pop();
            let Some((_, next)) = lines.next() else { break };
            logical.push_str(next.trim_start_matches(BLANKS));
        }
        let (key, value) = split(&logical);
        let key = unescaped(key).map_err(|fault| (number, fault))?;
        let value = unescaped(value).map_err(|fault| (number, fault))?;
        insert(&mut root, &key, value).map_err(|fault| (number, fault))?;
    }
    Ok(Value::Object(root))
}

const BLANKS: [char; 3] = [' ', '\t', '\u{c}'];

/// Whether an odd number of backslashes ends the line.
fn continues(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// At the first unescaped `=`, `:` or blank.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c: char| {
        let stop = !escaped && (matches!(c, '=' | ':') || BLANKS.contains(&c));
        escaped = !escaped && c == '\\';
        stop
    });
    let (key, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim_start_matches(BLANKS);
    (key, rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start_matches(BLANKS))
}

fn unescaped(text: &str) -> Result<String, String> {
    // \uXXXX names UTF-16 units, which may come in pairs.
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' => match chars.next() {
                Some('u') => {
                    let hex: String = chars.by_ref().take(4).collect();
                    let unit = u16::from_str_radix(&hex, 16).ok().filter(|_| hex.len() == 4);
                    units.push(unit.ok_or("\\u must be followed by four hexadecimal digits")?);
                    continue;
                }
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some(other) => other,
                None => continue,
            },
            c => c,
        };
        units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
    }
    String::from_utf16(&units).map_err(|_| "\\u escapes name half a character".to_owned())
}

fn insert(root: &mut Map<String, Value>, key: &str, value: String) -> Result<(), String> {
    let mut parts: Vec<_> = key.split('.').collect();
    if parts.len() > MAX_DEPTH {
        return Err(format!("a key has more than {MAX_DEPTH} parts"));
    }
    let last = parts.pop().unwrap_or_default();
    let mut object = root;
    for part in parts {
        object = object
            .entry(part)
            .or_insert_with(|| Value::Object(Map::new()))
            .as_object_mut()
            .ok_or_else(|| format!("key {key:?} is below a key that has a value already"))?;
    }
    match object.insert(last.to_owned(), Value::String(value)) {
        None => Ok(()),
        Some(Value::Object(_)) => Err(format!("key {key:?} has both a value and keys below it")),
        Some(_) => Err(format!("key {key:?} is there twice")),
    }
}
