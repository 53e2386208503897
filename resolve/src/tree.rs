//! The layered value: a JSON value that remembers, leaf by leaf, which layer gave it, what that
//! overrode, and whether it came from a Secret. Merging is RFC 7396.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::pointer;

/// Layers by index, newest first: the one that won, then those it overrode. An index is a layer's
/// place in the order of precedence, so the list only falls.
pub type Layers = Vec<u16>;

/// A value, or a part of one. Objects merge, so a leaf is everything else: a scalar or an array.
#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    /// An object. Its own layers matter when it is empty: it is a leaf then.
    Object {
        /// Its members by key, deleted ones included.
        members: BTreeMap<String, Tree>,
        /// The layers that gave an object, or overrode something, here.
        layers: Layers,
    },
    /// A scalar or an array.
    Leaf {
        /// The value.
        value: Value,
        /// Whether it came from a Secret.
        secret: bool,
        /// Who gave it, and whose values that overrode.
        layers: Layers,
    },
    /// Nothing: in a patch the order to delete; in a merged value a trace of what was deleted.
    Deleted {
        /// Who deleted it, and whose values.
        layers: Layers,
    },
}

impl Tree {
    /// Nothing yet: an empty object that no layer gave.
    #[must_use]
    pub fn empty() -> Self {
        Self::Object { members: BTreeMap::new(), layers: Layers::new() }
    }

    /// A layer's document, as a patch: nulls in objects delete.
    #[must_use]
    pub fn patch(value: Value, layer: u16, secret: bool) -> Self {
        let layers = vec![layer];
        match value {
            Value::Null => Self::Deleted { layers },
            Value::Object(map) => {
                let members = map.into_iter().map(|(key, value)| (key, Self::patch(value, layer, secret))).collect();
                Self::Object { members, layers }
            }
            value => Self::Leaf { value, secret, layers },
        }
    }

    /// The patch that does this one's work below `tokens`.
    #[must_use]
    pub fn placed(self, tokens: &[String], layer: u16) -> Self {
        tokens.iter().rev().fold(self, |inner, token| Self::Object {
            members: BTreeMap::from([(token.clone(), inner)]),
            layers: vec![layer],
        })
    }

    /// The same value in another table of layers; traces of deleted values stay behind.
    #[must_use]
    pub fn imported(&self, offset: u16) -> Self {
        let moved = |layers: &Layers| layers.iter().map(|index| index + offset).collect();
        match self {
            Self::Object { members, layers } => Self::Object {
                members: members
                    .iter()
                    .filter(|(_, member)| !matches!(member, Self::Deleted { .. }))
                    .map(|(key, member)| (key.clone(), member.imported(offset)))
                    .collect(),
                layers: moved(layers),
            },
            Self::Leaf { value, secret, layers } => {
                Self::Leaf { value: value.clone(), secret: *secret, layers: moved(layers) }
            }
            Self::Deleted { layers } => Self::Deleted { layers: moved(layers) },
        }
    }

    /// Merges a newer patch over this value (RFC 7396, section 2).
    pub fn merge(&mut self, patch: Tree) {
        match (self, patch) {
            (Self::Object { members, layers }, Self::Object { members: newer_members, layers: newer_layers }) => {
                add(layers, &newer_layers);
                for (key, newer) in newer_members {
                    match members.get_mut(&key) {
                        Some(member) => member.merge(newer),
                        None => drop(newer.inserted(&Layers::new()).map(|newer| members.insert(key, newer))),
                    }
                }
            }
            (older, newer) => {
                let mut overridden = Layers::new();
                older.collect_layers(&mut overridden);
                *older = match newer {
                    Self::Deleted { mut layers } => {
                        add(&mut layers, &overridden);
                        Self::Deleted { layers }
                    }
                    newer => newer.inserted(&overridden).unwrap_or_else(Self::empty),
                };
            }
        }
    }

    /// A patch as a value where no object was: there is nothing to delete. Every leaf overrides
    /// what stood here before.
    fn inserted(self, overridden: &Layers) -> Option<Self> {
        match self {
            Self::Deleted { .. } => None,
            Self::Leaf { value, secret, mut layers } => {
                add(&mut layers, overridden);
                Some(Self::Leaf { value, secret, layers })
            }
            Self::Object { members, mut layers } => {
                add(&mut layers, overridden);
                let members =
                    members.into_iter().filter_map(|(key, member)| Some((key, member.inserted(overridden)?))).collect();
                Some(Self::Object { members, layers })
            }
        }
    }

    fn collect_layers(&self, all: &mut Layers) {
        match self {
            Self::Leaf { layers, .. } | Self::Deleted { layers } => add(all, layers),
            Self::Object { members, layers } => {
                add(all, layers);
                for member in members.values() {
                    member.collect_layers(all);
                }
            }
        }
    }

    /// The plain value; `None` where it was deleted.
    #[must_use]
    pub fn value(&self) -> Option<Value> {
        match self {
            Self::Deleted { .. } => None,
            Self::Leaf { value, .. } => Some(value.clone()),
            Self::Object { members, .. } => {
                let members = members.iter().filter_map(|(key, member)| Some((key.clone(), member.value()?)));
                Some(Value::Object(members.collect::<Map<_, _>>()))
            }
        }
    }

    /// The part below a member.
    #[must_use]
    pub fn member(&self, key: &str) -> Option<&Tree> {
        match self {
            Self::Object { members, .. } => members.get(key).filter(|member| !matches!(member, Self::Deleted { .. })),
            _ => None,
        }
    }

    /// The value at a pointer's tokens, into arrays too, and whether it holds a Secret's value.
    #[must_use]
    pub fn at(&self, tokens: &[String]) -> Option<(Value, bool)> {
        match (self, tokens.split_first()) {
            (_, None) => Some((self.value()?, self.secret())),
            (Self::Object { .. }, Some((first, rest))) => self.member(first)?.at(rest),
            (Self::Leaf { value, secret, .. }, Some(_)) => {
                let mut pointer = String::new();
                for token in tokens {
                    pointer::push(&mut pointer, token);
                }
                Some((value.pointer(&pointer)?.clone(), *secret))
            }
            (Self::Deleted { .. }, _) => None,
        }
    }

    /// Whether any leaf came from a Secret.
    #[must_use]
    pub fn secret(&self) -> bool {
        match self {
            Self::Object { members, .. } => members.values().any(Self::secret),
            Self::Leaf { secret, .. } => *secret,
            Self::Deleted { .. } => false,
        }
    }

    /// The part at a pointer (of a problem, say); where that leads into an array or nowhere, the part
    /// it last passed.
    #[must_use]
    pub fn nearest(&self, tokens: &[String]) -> &Tree {
        match tokens.split_first().and_then(|(first, rest)| Some((self.member(first)?, rest))) {
            Some((member, rest)) => member.nearest(rest),
            None => self,
        }
    }

    /// Calls `visit` for every leaf (and empty object, and deleted value) with its pointer.
    pub fn visit_leaves<'t>(&'t self, visit: &mut impl FnMut(&str, &'t Tree)) {
        self.visit_below(&mut String::new(), visit);
    }

    fn visit_below<'t>(&'t self, at: &mut String, visit: &mut impl FnMut(&str, &'t Tree)) {
        let live = |members: &BTreeMap<String, Tree>| members.values().any(|m| !matches!(m, Self::Deleted { .. }));
        match self {
            Self::Object { members, .. } => {
                if !live(members) {
                    visit(at, self);
                }
                for (key, member) in members {
                    let length = at.len();
                    pointer::push(at, key);
                    member.visit_below(at, visit);
                    at.truncate(length);
                }
            }
            _ => visit(at, self),
        }
    }

    /// The layers of this place, newest first.
    #[must_use]
    pub fn layers(&self) -> &[u16] {
        match self {
            Self::Object { layers, .. } | Self::Leaf { layers, .. } | Self::Deleted { layers } => layers,
        }
    }
}

/// The union of two falling lists, falling.
fn add(layers: &mut Layers, more: &[u16]) {
    if more.iter().all(|index| layers.contains(index)) {
        return;
    }
    layers.extend_from_slice(more);
    layers.sort_unstable_by(|a, b| b.cmp(a));
    layers.dedup();
}
