//! YAML that every parser reads the same: also those of YAML 1.1, such as kubectl's, to which a plain
//! `no` is false.

use serde_json::Value;

use crate::manifest::yaml;

/// A document, its keys sorted.
#[must_use]
pub fn yaml(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(value, 0, &mut text),
        Value::Array(items) if !items.is_empty() => block(value, 0, &mut text),
        _ => {
            scalar(value, 0, &mut text);
        }
    }
    text
}

/// The lines of a list or mapping that has something in it.
fn block(value: &Value, indent: usize, text: &mut String) {
    let space = " ".repeat(indent);
    match value {
        Value::Object(map) => {
            for (index, (key, member)) in map.iter().enumerate() {
                // The first stands behind the dash of a list's item.
                if index > 0 || text.is_empty() || text.ends_with('\n') {
                    *text += &space;
                }
                *text += &word(key);
                text.push(':');
                after_key(member, indent, text);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 || text.is_empty() || text.ends_with('\n') {
                    *text += &space;
                }
                *text += "- ";
                if is_block(item) { block(item, indent + 2, text) } else { scalar(item, indent, text) }
            }
        }
        _ => scalar(value, indent, text),
    }
}

fn after_key(member: &Value, indent: usize, text: &mut String) {
    match member {
        Value::Object(map) if !map.is_empty() => {
            text.push('\n');
            block(member, indent + 2, text);
        }
        // As kubectl writes them, lists are not indented.
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            block(member, indent, text);
        }
        _ => {
            text.push(' ');
            scalar(member, indent, text);
        }
    }
}

fn is_block(value: &Value) -> bool {
    value.as_object().is_some_and(|map| !map.is_empty()) || value.as_array().is_some_and(|items| !items.is_empty())
}

/// Anything that needs no lines of its own but a text that has some.
fn scalar(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::String(string) if is_literal(string) => {
            *text += if string.ends_with('\n') { "|" } else { "|-" };
            for line in string.trim_end_matches('\n').split('\n') {
                text.push('\n');
                if !line.is_empty() {
                    *text += &" ".repeat(indent + 2);
                    *text += line;
                }
            }
        }
        Value::String(string) => *text += &word(string),
        // Numbers, true, null, {} and [] are the same in JSON.
        _ => *text += &value.to_string(),
    }
    text.push('\n');
}

/// Whether a literal block says it as it is.
fn is_literal(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    body.contains('\n')
        && !body.ends_with('\n')
        && !body.starts_with([' ', '\n', '\t'])
        && body.chars().all(|c| c == '\n' || c == '\t' || !c.is_control())
        && !body.contains(['\u{feff}', '\u{2028}', '\u{2029}', '\u{85}'])
}

/// Plain where every parser takes it for this very text, quoted elsewhere.
fn word(text: &str) -> String {
    let is_simple = |c: char| c.is_ascii_alphanumeric() || "-_./:$%+,;=~ ()".contains(c);
    let is_plain = !text.starts_with(['=', '~', '-', '%', '+', ',']) && text.chars().all(is_simple) && {
        let (documents, faults) = yaml::parse(text);
        faults.is_empty() && matches!(documents.as_slice(), [one] if one.text() == Some(text))
    };
    if is_plain { text.to_owned() } else { quoted(text) }
}

/// As in JSON, but for what YAML does not allow as it is.
fn quoted(text: &str) -> String {
    let json = Value::from(text).to_string();
    let is_foreign =
        |c: char| matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}');
    json.chars().map(|c| if is_foreign(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Value {
        let (documents, faults) = yaml::parse(text);
        assert_eq!((faults, documents.len()), (vec![], 1), "{text}");
        documents[0].value()
    }

    #[test]
    fn it_reads_as_kubectl_writes() {
        let value =
            json!({"a": {"b": [1, {"c": "x", "d": [[2, "y"], {}]}, []], "e": null}, "f": "one\ntwo\n", "g": "a\n\nb"});
        let text = "a:\n  b:\n  - 1\n  - c: x\n    d:\n    - - 2\n      - \"y\"\n    - {}\n  - []\n  e: null\nf: |\n  one\n  two\ng: |-\n  a\n\n  b\n";
        assert_eq!(yaml(&value), text);
        assert_eq!(read(text), value);
    }

    #[test]
    fn no_text_turns_into_something_else() {
        let texts = [
            "",
            " ",
            "no",
            "On",
            "y",
            "~",
            "null",
            "0440",
            "0x1f",
            "1_000",
            "12:30:45",
            "1e3",
            ".5",
            "-",
            "- a",
            "--- a",
            "...",
            "a: b",
            "a:",
            ":a",
            "a #b",
            "#a",
            "{a",
            "[a",
            "*a",
            "&a",
            "!a",
            "|",
            ">",
            "%a",
            "@a",
            "`a",
            "'a'",
            "\"a\"",
            "<<",
            "=",
            "a\tb",
            "a\n",
            "\na",
            " a\nb",
            "a\nb ",
            "a\nb\n\n",
            "a\r\nb",
            "\u{7f}",
            "\u{85}x\ny",
            "ä",
            "2001-01-01",
            "http://a:1/b?c",
            "HUP:nginx",
            "500m",
            "a\\b",
            "$(POD_NAME)",
            "a\n---\nb",
            "true",
            "1.0",
            "+1",
            "a, b",
        ];
        for text in texts {
            let value = json!({"key": text, text: ["x", text, {"in": text}]});
            assert_eq!(read(&yaml(&value)), value, "{text:?}: {}", yaml(&value));
        }
    }
}
