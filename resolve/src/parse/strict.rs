//! The visitor that builds values from YAML, JSON and TOML: no duplicate keys, no tags, bounded
//! nesting and size (a YAML alias costs what it expands to), and no number that would be rounded.

use std::{cell::Cell, fmt};

use serde::de::{DeserializeSeed, EnumAccess, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::limits::{MAX_DEPTH, MAX_DOCUMENT_WEIGHT};

/// What a value may still weigh.
pub struct Budget(Cell<usize>);

impl Budget {
    /// A budget for one document.
    pub fn document() -> Self {
        Self(Cell::new(MAX_DOCUMENT_WEIGHT))
    }

    /// A budget of so much.
    pub fn of(weight: usize) -> Self {
        Self(Cell::new(weight))
    }

    /// Takes the weight of one node with so many bytes of text.
    fn take(&self, bytes: usize) -> Result<(), String> {
        let left = self.0.get().checked_sub(bytes + 16);
        left.map(|left| self.0.set(left)).ok_or_else(|| "it is too large (with its aliases expanded)".to_owned())
    }
}

/// Bounds a value that is already built, such as an inline layer: at most `depth` levels.
pub fn check(value: &Value, budget: &Budget, depth: usize) -> Result<(), String> {
    match value {
        Value::Array(items) => {
            budget.take(0)?;
            let depth = deeper(depth)?;
            items.iter().try_for_each(|item| check(item, budget, depth))
        }
        Value::Object(map) => {
            budget.take(0)?;
            let depth = deeper(depth)?;
            map.iter().try_for_each(|(key, member)| {
                budget.take(key.len())?;
                check(member, budget, depth)
            })
        }
        Value::String(text) => budget.take(text.len()),
        Value::Number(number) => {
            number.as_f64().filter(|_| number.is_f64()).map_or(Ok(()), |float| exact(float).map(drop))?;
            budget.take(0)
        }
        Value::Null | Value::Bool(_) => budget.take(0),
    }
}

fn deeper(depth: usize) -> Result<usize, String> {
    depth.checked_sub(1).ok_or_else(|| format!("it is nested deeper than {MAX_DEPTH} levels"))
}

/// A float that no integer beyond 64 bits can hide behind: parsers turn those into floats, and
/// writing them back would change them.
fn exact(float: f64) -> Result<Number, String> {
    const BEYOND_U64: f64 = 18_446_744_073_709_551_616.0;
    if float >= BEYOND_U64 || float <= -BEYOND_U64 / 2.0 {
        return Err("a number is beyond 64 bits and could not be kept exactly; write it as a string".to_owned());
    }
    Number::from_f64(float).ok_or_else(|| "a number is not finite; write it as a string".to_owned())
}

/// The seed and visitor of one value.
pub struct Strict<'b> {
    budget: &'b Budget,
    depth: usize,
}

impl<'b> Strict<'b> {
    /// For a whole document.
    pub fn new(budget: &'b Budget) -> Self {
        Self { budget, depth: MAX_DEPTH }
    }

    fn deeper<E: Error>(&self) -> Result<usize, E> {
        self.budget.take(0).and_then(|()| deeper(self.depth)).map_err(E::custom)
    }

    fn scalar<E: Error>(&self, value: impl Into<Value>) -> Result<Value, E> {
        let value = value.into();
        self.budget.take(value.as_str().map_or(0, str::len)).map_err(E::custom)?;
        Ok(value)
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.scalar(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.scalar(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.scalar(value)
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<Value, E> {
        Err(E::custom("an integer is beyond 64 bits; write it as a string"))
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<Value, E> {
        Err(E::custom("an integer is beyond 64 bits; write it as a string"))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.scalar(exact(value).map_err(E::custom)?)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.scalar(value)
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.scalar(())
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.scalar(())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(A::Error::custom("tags (!name) are not supported"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let depth = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Strict { budget: self.budget, depth })? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let depth = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = members.next_key_seed(Key)? {
            self.budget.take(key.len()).map_err(A::Error::custom)?;
            if key == TOML_DATETIME {
                return members.next_value::<String>().map(Value::String);
            }
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("key {key:?} is there twice")));
            }
            let member = members.next_value_seed(Strict { budget: self.budget, depth })?;
            map.insert(key, member);
        }
        Ok(Value::Object(map))
    }
}

/// How the toml crate hands a date over.
const TOML_DATETIME: &str = "$__toml_private_datetime";

/// A key: a string, or an integer or boolean as YAML writes them.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Key {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is a string, an integer or a boolean")
    }

    fn visit_bool<E: Error>(self, key: bool) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_i64<E: Error>(self, key: i64) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_u64<E: Error>(self, key: u64) -> Result<String, E> {
        Ok(key.to_string())
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        // In every syntax: what is read as JSON may be written as YAML.
        if key == "<<" {
            return Err(E::custom("the key \"<<\" is YAML 1.1's merge key, which YAML 1.2 does not have; use layers"));
        }
        Ok(key.to_owned())
    }
}
