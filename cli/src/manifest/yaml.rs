//! YAML as kubectl reads it, with the place of every key and value.
//!
//! kubectl's parser is of YAML 1.1: a plain `no` is false, `0440` is 288. The API server gets what
//! it makes of a manifest, so that is what must be judged here. (Documents *inside* ConfigMaps and
//! Secrets are read by Quorate itself, as YAML 1.2.)

use std::collections::BTreeMap;

use granit_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

/// Nodes of one file with its aliases expanded.
const MAX_NODES: usize = 1_000_000;

/// A place in a file, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// What it is.
    pub kind: Kind,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A scalar. `lines`: it is a literal block, so each of its lines is a line of the file.
    Scalar {
        /// Its value, as kubectl reads it.
        value: Value,
        /// Whether it is a literal block.
        lines: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// A mapping.
    Map(Vec<Entry>),
}

/// A member of a mapping.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Where the key is.
    pub place: Place,
    /// Its value.
    pub node: Node,
}

/// What is wrong with the text itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// What.
    pub reason: String,
}

impl Node {
    /// The plain value.
    #[must_use]
    pub fn value(&self) -> Value {
        match &self.kind {
            Kind::Scalar { value, .. } => value.clone(),
            Kind::List(items) => items.iter().map(Self::value).collect(),
            Kind::Map(entries) => Value::Object(
                entries.iter().map(|entry| (entry.key.clone(), entry.node.value())).collect::<Map<_, _>>(),
            ),
        }
    }

    /// A mapping's member; of two with one key the last, as kubectl does.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().rev().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// A mapping's member.
    #[must_use]
    pub fn member(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// A list's items.
    #[must_use]
    pub fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::List(items) => items,
            _ => &[],
        }
    }

    /// A string.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { value, .. } => value.as_str(),
            _ => None,
        }
    }

    /// The node at a path of keys and indices, and whether the path leads all the way; otherwise
    /// the last one it passes. A member's place is that of its key.
    #[must_use]
    pub fn walk<T: AsRef<str>>(&self, path: &[T]) -> (Place, &Node, bool) {
        let (mut place, mut node) = (self.place, self);
        for token in path {
            let token = token.as_ref();
            let next = match &node.kind {
                Kind::Map(_) => node.entry(token).map(|entry| (entry.place, &entry.node)),
                Kind::List(items) => {
                    token.parse().ok().and_then(|n: usize| items.get(n)).map(|item| (item.place, item))
                }
                Kind::Scalar { .. } => None,
            };
            let Some(next) = next else { return (place, node, false) };
            (place, node) = next;
        }
        (place, node, true)
    }

    /// The place in the file of a place in this text. Exact in a literal block; elsewhere lines are
    /// folded or escaped, and the text's own beginning must do.
    #[must_use]
    pub fn place_in_text(&self, inner: Place) -> Place {
        match &self.kind {
            Kind::Scalar { value: Value::String(text), lines: true } => {
                // The parser tells where the first line with anything on it begins.
                let blank = text.len() - text.trim_start_matches('\n').len();
                let first = self.place.line.saturating_sub(blank);
                let indent = self.place.column - 1;
                Place { line: first + inner.line - 1, column: indent + inner.column }
            }
            _ => self.place,
        }
    }
}

/// The documents of a text, empty ones left out, and everything that is wrong with it. After a
/// mistake reading goes on at the next document.
#[must_use]
pub fn parse(text: &str) -> (Vec<Node>, Vec<Fault>) {
    let options = granit_parser::options! { emit_comments: false };
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut builder = Builder::default();
    while let Some(event) = parser.next_event() {
        match event {
            Ok((event, span)) => {
                builder.take(event, &span);
                if builder.nodes > MAX_NODES {
                    builder.fault(start(&span), "it has too many values (with its aliases expanded)");
                    break;
                }
            }
            Err(error) => {
                let place = Place { line: error.marker().line(), column: error.marker().col() + 1 };
                builder.fault(place, &format!("it is no YAML: {}", error.info()));
                builder.open.clear();
                if !parser.proceed_next_document().unwrap_or(false) {
                    break;
                }
            }
        }
    }
    builder.faults.sort_by_key(|fault| fault.place);
    (builder.documents, builder.faults)
}

fn start(span: &Span) -> Place {
    Place { line: span.start.line(), column: span.start.col() + 1 }
}

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    faults: Vec<Fault>,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
}

/// A list or mapping whose end is still to come.
struct Open {
    place: Place,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, merged: Vec<Entry>, key: Option<(String, Place)> },
}

/// YAML 1.1's merge key: only a plain one is.
const MERGE: &str = "\0<<";

impl Builder {
    fn fault(&mut self, place: Place, reason: &str) {
        self.faults.push(Fault { place, reason: reason.to_owned() });
    }

    fn take(&mut self, event: Event<'_>, span: &Span) {
        let place = start(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.as_ref().map(|tag| tag.core_suffix().unwrap_or("?"));
                let value = match (tag, style) {
                    (Some("str"), _) => Value::from(text.as_ref()),
                    (Some(tag), _) if !matches!(tag, "int" | "float" | "bool" | "null") => {
                        self.fault(place, "tags (!name) are not supported");
                        Value::from(text.as_ref())
                    }
                    (None, ScalarStyle::Plain) if text == "<<" => Value::from(MERGE),
                    (Some(_), _) | (None, ScalarStyle::Plain) => resolved(&text).unwrap_or_else(|reason| {
                        self.fault(place, &reason);
                        Value::Null
                    }),
                    _ => Value::from(text.as_ref()),
                };
                self.add(Node { place, kind: Kind::Scalar { value, lines: style == ScalarStyle::Literal } }, anchor);
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open.push(Open { place, anchor, kind: OpenKind::List(Vec::new()) });
            }
            Event::MappingStart(_, anchor, _) => {
                let kind = OpenKind::Map { entries: Vec::new(), merged: Vec::new(), key: None };
                self.open.push(Open { place, anchor, kind });
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(node) => {
                    self.nodes += size(&node);
                    self.add(Node { place, ..node }, 0);
                }
                None => self.fault(place, "the alias refers to what it is a part of"),
            },
            Event::DocumentEnd => self.anchors.clear(),
            _ => {}
        }
    }

    fn close(&mut self) {
        let Some(open) = self.open.pop() else { return };
        let kind = match open.kind {
            OpenKind::List(items) => Kind::List(items),
            OpenKind::Map { mut entries, merged, .. } => {
                for entry in merged {
                    if !entries.iter().any(|own| own.key == entry.key) {
                        entries.push(entry);
                    }
                }
                Kind::Map(entries)
            }
        };
        self.add(Node { place: open.place, kind }, open.anchor);
    }

    fn add(&mut self, node: Node, anchor: usize) {
        self.nodes += 1;
        if anchor != 0 {
            self.nodes += size(&node);
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            if !matches!(&node.kind, Kind::Scalar { value: Value::Null, .. }) {
                self.documents.push(node);
            }
            return;
        };
        let (entries, merged, key) = match &mut open.kind {
            OpenKind::List(items) => return items.push(node),
            OpenKind::Map { entries, merged, key } => (entries, merged, key),
        };
        let mut fault = None;
        match key.take() {
            None => {
                let place = node.place;
                let text = key_of(&node).unwrap_or_else(|| {
                    fault = Some((place, "a key must be a string, a number or a boolean".to_owned()));
                    String::new()
                });
                *key = Some((text, place));
            }
            Some((text, place)) if text == MERGE => match &node.kind {
                Kind::Map(more) => merged.extend(more.iter().cloned()),
                Kind::List(items) if items.iter().all(|item| matches!(item.kind, Kind::Map(_))) => {
                    for item in items {
                        if let Kind::Map(more) = &item.kind {
                            merged.extend(more.iter().cloned());
                        }
                    }
                }
                _ => fault = Some((place, "<< takes a mapping, or a list of mappings".to_owned())),
            },
            Some((key, place)) => {
                if let Some(first) = entries.iter().find(|entry| entry.key == key) {
                    let line = first.place.line;
                    fault = Some((
                        place,
                        format!("key {key:?} is there twice, first in line {line}; kubectl takes the last"),
                    ));
                }
                entries.push(Entry { key, place, node });
            }
        }
        if let Some((place, reason)) = fault {
            self.fault(place, &reason);
        }
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.kind {
        Kind::Scalar { .. } => 0,
        Kind::List(items) => items.iter().map(size).sum(),
        Kind::Map(entries) => entries.iter().map(|entry| size(&entry.node)).sum(),
    }
}

fn key_of(node: &Node) -> Option<String> {
    match &node.kind {
        Kind::Scalar { value: Value::String(text), .. } => Some(text.clone()),
        Kind::Scalar { value: Value::Bool(value), .. } => Some(value.to_string()),
        Kind::Scalar { value: Value::Number(number), .. } => Some(number.to_string()),
        _ => None,
    }
}

/// A plain scalar, as kubectl's parser resolves it and JSON carries it.
fn resolved(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Ok(true.into()),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => return Ok(false.into()),
        _ => {}
    }
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    match unsigned {
        ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN" => {
            return Err(format!("{text} cannot be kept in JSON, and so not in a manifest; write it as a string"));
        }
        _ if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') => return Ok(text.into()),
        _ => {}
    }
    let digits = unsigned.replace('_', "");
    if let Some(integer) = integer(sign, &digits) {
        return Ok(integer.into());
    }
    match digits.parse::<f64>() {
        Ok(float) if is_float(&digits) => Ok(number(if sign == "-" { -float } else { float })),
        _ => Ok(text.into()),
    }
}

/// Decimal, or with a prefix; a leading zero alone means octal.
fn integer(sign: &str, digits: &str) -> Option<i64> {
    let prefixed = |prefixes: [&str; 2]| prefixes.iter().find_map(|prefix| digits.strip_prefix(prefix));
    let (radix, rest) = if let Some(rest) = prefixed(["0x", "0X"]) {
        (16, rest)
    } else if let Some(rest) = prefixed(["0b", "0B"]) {
        (2, rest)
    } else if let Some(rest) = prefixed(["0o", "0O"]) {
        (8, rest)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (8, &digits[1..])
    } else {
        (10, digits)
    };
    let valid = !rest.is_empty() && rest.chars().all(|c| c.is_digit(radix));
    valid.then(|| i64::from_str_radix(&format!("{sign}{rest}"), radix).ok())?
}

/// Digits with at most a point and an exponent: not what else Rust reads as a float.
fn is_float(digits: &str) -> bool {
    digits.chars().any(|c| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'))
}

/// A float as JSON has it: a whole one is an integer.
fn number(float: f64) -> Value {
    const WHOLE: f64 = 9_007_199_254_740_992.0;
    #[allow(clippy::cast_possible_truncation)]
    if float.fract() == 0.0 && float.abs() <= WHOLE {
        return (float as i64).into();
    }
    Number::from_f64(float).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn one(text: &str) -> Node {
        let (mut documents, faults) = parse(text);
        assert_eq!(faults, [], "{text}");
        documents.remove(0)
    }

    fn faults(text: &str) -> Vec<String> {
        parse(text).1.iter().map(|f| format!("{}:{}: {}", f.place.line, f.place.column, f.reason)).collect()
    }

    #[test]
    fn scalars_are_what_kubectl_makes_of_them() {
        // As `kubectl label --local -o json` of Kubernetes 1.37 prints it.
        let text = "{a: y, b: yes, c: no, d: On, e: 0440, f: 0o17, g: 1_000, h: 0x1F, i: .5, j: 1e3, k: 2001-01-01, \
                    l: ~, m: Null, o: \"y\", p: !!str 5, q: 0b11, r: +5, t: 1., u: 08, w: 1.0, x: -0o7, z: \"\", aa: , \
                    ab: _1, ac: 1.5e-3, ad: 99999999999999999999, ae: -12, af: 0, ag: 1.2.3, ah: 12:30, ai: 1.5}";
        assert_eq!(
            one(text).value(),
            json!({"a": true, "b": true, "c": false, "d": true, "e": 288, "f": 15, "g": 1000, "h": 31, "i": 0.5, "j": 1000,
                "k": "2001-01-01", "l": null, "m": null, "o": "y", "p": "5", "q": 3, "r": 5, "t": 1, "u": 8, "w": 1,
                "x": -7, "z": "", "aa": null, "ab": "_1", "ac": 0.0015, "ad": 1e20, "ae": -12, "af": 0, "ag": "1.2.3",
                "ah": "12:30", "ai": 1.5})
        );
    }

    #[test]
    fn every_key_and_item_has_its_place() {
        let node = one("a:\n  b: 1\n  c:\n  - x\n  - {d: 2}\n");
        let place = |path: &[&str]| {
            let (place, _, whole) = node.walk(path);
            (place.line, place.column, whole)
        };
        assert_eq!(place(&["a", "b"]), (2, 3, true));
        assert_eq!(place(&["a", "c", "1", "d"]), (5, 6, true));
        assert_eq!(place(&["a", "c", "7"]), (3, 3, false));
        assert_eq!(place(&["a", "nope", "x"]), (1, 1, false));
    }

    #[test]
    fn a_line_of_a_literal_block_is_a_line_of_the_file() {
        let node = one("data:\n  a.yaml: |\n\n    x: 1\n    y: 2\n  b: >\n    folded\n    text\n");
        let inner = |key: &str, line, column| {
            let place = node.walk(&["data", key]).1.place_in_text(Place { line, column });
            (place.line, place.column)
        };
        assert_eq!(inner("a.yaml", 3, 4), (5, 8));
        assert_eq!(inner("a.yaml", 2, 1), (4, 5));
        assert_eq!(inner("b", 2, 1), (7, 5));
    }

    #[test]
    fn anchors_and_merge_keys_work_as_for_kubectl() {
        let node = one("base: &b {x: 1, w: 2}\nuse: {<<: *b, w: 3}\nmany: {<<: [*b, {z: 4}]}\nquoted: {\"<<\": 1}\n");
        assert_eq!(node.member("use").unwrap().value(), json!({"x": 1, "w": 3}));
        assert_eq!(node.member("many").unwrap().value(), json!({"x": 1, "w": 2, "z": 4}));
        assert_eq!(node.member("quoted").unwrap().value(), json!({"<<": 1}));
    }

    #[test]
    fn mistakes_are_told_with_their_place_and_the_next_document_is_read() {
        let (documents, _) = parse("a: [1\nb: 2\n---\nc: 1\n---\n");
        assert_eq!(documents.iter().map(Node::value).collect::<Vec<_>>(), [json!({"c": 1})]);
        assert_eq!(faults("a: [1\nb: 2\n"), ["2:2: it is no YAML: illegal placement of ':' indicator"]);
        assert_eq!(
            faults("a: 1\nb: 2\na: 3\n"),
            ["3:1: key \"a\" is there twice, first in line 1; kubectl takes the last"]
        );
        assert_eq!(one("a: 1\n").value(), json!({"a": 1}));
        assert!(faults("a: .nan\n")[0].starts_with("1:4: .nan cannot be kept in JSON"));
        assert!(faults("a: !x 1\n")[0].contains("tags"));
        assert!(faults("? [1]\n: 2\n")[0].contains("a key must be"));
        assert!(faults("<<: 1\n")[0].contains("<< takes a mapping"));
    }

    #[test]
    fn bombs_do_not_explode() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            let item = format!("*a{}", n - 1);
            text += &format!("a{n}: &a{n} [{}]\n", [item.as_str(); 10].join(", "));
        }
        assert!(faults(&text)[0].contains("too many values"));
        assert!(faults(&"[".repeat(5000))[0].contains("no YAML"));
    }
}
