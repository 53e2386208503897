//! Java properties and env files.
//!
//! The crates for them are unmaintained or keep the last of duplicate keys silently.

use serde_json::{Map, Value};

/// Parses Java properties (`java.util.Properties`): dots in keys nest, values are strings.
///
/// # Errors
/// A key that is there twice, or is both a value and a parent; a bad escape.
pub fn properties(text: &str) -> Result<Value, String> {
    let mut root = Map::new();
    let mut lines = text.lines();
    while let Some(first) = lines.next() {
        let mut line = first.trim_start_matches([' ', '\t', '\u{c}']).to_owned();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        while line.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1 {
            line.pop();
            let Some(next) = lines.next() else { break };
            line.push_str(next.trim_start_matches([' ', '\t', '\u{c}']));
        }
        let (key, value) = split(&line);
        insert(&mut root, &unescaped(key)?, unescaped(value)?)?;
    }
    Ok(Value::Object(root))
}

/// Key and value of a logical line: separated by the first unescaped =, : or blank.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.char_indices().find(|(_, c)| {
        let is_end = !escaped && matches!(c, '=' | ':' | ' ' | '\t' | '\u{c}');
        escaped = !escaped && *c == '\\';
        is_end
    });
    let end = end.map_or(line.len(), |(at, _)| at);
    let rest = line[end..].trim_start_matches([' ', '\t', '\u{c}']);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (&line[..end], rest.trim_start_matches([' ', '\t', '\u{c}']))
}

fn unescaped(text: &str) -> Result<String, String> {
    // UTF-16, since \u escapes are its units.
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let c = match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('u')) => {
                let digits: String = chars.by_ref().take(4).collect();
                let unit = u16::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4);
                units.push(unit.ok_or("\\u needs four hexadecimal digits")?);
                continue;
            }
            ('\\', Some('t')) => '\t',
            ('\\', Some('n')) => '\n',
            ('\\', Some('r')) => '\r',
            ('\\', Some('f')) => '\u{c}',
            ('\\', Some(other)) => other,
            ('\\', None) => continue,
            (plain, _) => plain,
        };
        units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
    }
    String::from_utf16(&units).map_err(|_| "\\u escapes make half a character".to_owned())
}

fn insert(root: &mut Map<String, Value>, key: &str, value: String) -> Result<(), String> {
    let mut parts: Vec<&str> = key.split('.').collect();
    if parts.len() > super::DEPTH || parts.contains(&"") {
        parts = vec![key];
    }
    let last = parts.pop().unwrap_or_default();
    let mut map = root;
    for part in parts {
        let child = map.entry(part).or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(child) = child else { return Err(format!("the key {key:?} is below a key that has a value")) };
        map = child;
    }
    match map.get(last) {
        None => {
            map.insert(last.to_owned(), value.into());
            Ok(())
        }
        Some(Value::Object(_)) => Err(format!("the key {key:?} has a value and keys below it")),
        Some(_) => Err(format!("the key {key:?} is there twice")),
    }
}

/// Parses `KEY=value` lines as a shell reads them: quotes, backslashes, comments, `export`; nothing is expanded.
///
/// # Errors
/// A line without =, a key that is no shell name or is there twice, a quote that does not end.
pub fn env(text: &str) -> Result<Value, String> {
    let mut map = Map::new();
    let mut rest = text;
    while !rest.is_empty() {
        let line = rest.trim_start();
        if line.is_empty() {
            break;
        }
        if line.starts_with('#') {
            rest = line.split_once('\n').map_or("", |(_, rest)| rest);
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let (key, after) = line.split_once('=').ok_or("a line has no =")?;
        if !is_shell_name(key) {
            return Err("a key is no shell name (letters, digits, underscores; no digit first)".into());
        }
        let (value, after) = env_value(after).map_err(|why| format!("the value of {key}: {why}"))?;
        if map.insert(key.to_owned(), value.into()).is_some() {
            return Err(format!("the key {key:?} is there twice"));
        }
        rest = after;
    }
    Ok(Value::Object(map))
}

fn env_value(text: &str) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    if let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'')) {
        let end = 1 + quoted(&text[1..], quote, &mut value)?;
        let (tail, rest) = text[end..].split_once('\n').unwrap_or((&text[end..], ""));
        let tail = tail.trim();
        return if tail.is_empty() || tail.starts_with('#') { Ok((value, rest)) } else { Err("text follows the closing quote") };
    }
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    let line = line.find(" #").map_or(line, |at| &line[..at]).trim();
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => value.extend(chars.next()),
            '"' | '\'' => return Err("quotes go around the whole value"),
            _ => value.push(c),
        }
    }
    Ok((value, rest))
}

/// Appends what is quoted; returns the index after the closing quote.
fn quoted(text: &str, quote: char, value: &mut String) -> Result<usize, &'static str> {
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            _ if c == quote => return Ok(at + 1),
            '\\' if quote == '"' => match chars.next() {
                Some((_, c @ ('"' | '\\' | '$' | '`'))) => value.push(c),
                Some((_, '\n')) => {}
                Some((_, c)) => value.extend(['\\', c]),
                None => {}
            },
            _ => value.push(c),
        }
    }
    Err("a quote does not end")
}

pub(crate) fn is_shell_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
