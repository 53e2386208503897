//! KEY=value lines as shells and dotenv readers take them: comments, an optional `export`, single
//! quotes for verbatim text, double quotes with escapes, both over several lines. Nothing is
//! expanded: a `$` is a `$`.

use serde_json::{Map, Value};

/// Parses the text; a fault has a line, from 1.
pub fn parse(text: &str) -> Result<Value, (usize, String)> {
    let mut map = Map::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(Value::Object(map));
        }
        let line = text[..text.len() - rest.len()].matches('\n').count() + 1;
        if rest.starts_with('#') {
            rest = rest.split_once('\n').map_or("", |(_, next)| next);
            continue;
        }
        let fault = |detail: String| (line, detail);
        let (head, after) =
            rest.split_once('=').ok_or_else(|| fault("a line has no \"=\"; write KEY=value".to_owned()))?;
        let key = head.strip_prefix("export ").unwrap_or(head).trim();
        if !is_identifier(key) {
            return Err(fault(format!("key {key:?} is not letters, digits and underscores")));
        }
        let (value, after) = value(after).map_err(|detail| fault(detail.to_owned()))?;
        if map.insert(key.to_owned(), Value::String(value)).is_some() {
            return Err(fault(format!("key {key:?} is there twice")));
        }
        rest = after;
    }
}

/// Whether a shell takes it as a variable's name.
pub fn is_identifier(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The value, and the text after its line.
fn value(text: &str) -> Result<(String, &str), &'static str> {
    let text = text.trim_start_matches([' ', '\t']);
    let (value, after) = if let Some(text) = text.strip_prefix('\'') {
        let (value, after) = text.split_once('\'').ok_or("a single quote is not closed")?;
        (value.to_owned(), after)
    } else if let Some(text) = text.strip_prefix('"') {
        double_quoted(text)?
    } else {
        let end = text.find('\n').unwrap_or(text.len());
        let line = &text[..end];
        let comment = line.char_indices().find(|&(at, c)| c == '#' && line[..at].ends_with([' ', '\t']));
        let line = comment.map_or(line, |(at, _)| &line[..at]);
        (line.trim().to_owned(), &text[end..])
    };
    let (tail, next) = after.split_once('\n').unwrap_or((after, ""));
    let tail = tail.trim();
    if tail.is_empty() || tail.starts_with('#') { Ok((value, next)) } else { Err("text follows the closing quote") }
}

fn double_quoted(text: &str) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next().ok_or("a double quote is not closed")?.1 {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                c @ ('\\' | '"' | '$' | '`') => value.push(c),
                c => value.extend(['\\', c]),
            },
            c => value.push(c),
        }
    }
    Err("a double quote is not closed")
}
