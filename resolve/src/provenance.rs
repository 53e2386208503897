//! Who gave each value: an index of layers, without values.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{layers::Merged, tree::Tree};

/// The provenance of a merged value, as stored beside the files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The layers, lowest precedence first; `platform/base` is layer `base` of the config that
    /// layer `platform` refers to.
    pub layers: Vec<String>,
    /// By pointer to each leaf (a scalar, an array or an empty object): the index of the layer
    /// that gave it, then of those it overrode, newest first.
    pub leaves: BTreeMap<String, Vec<u16>>,
    /// By pointer to what a null deleted: the layer that did, then those it overrode.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deleted: BTreeMap<String, Vec<u16>>,
}

impl Provenance {
    /// Of a merged value.
    #[must_use]
    pub fn of(merged: &Merged) -> Self {
        let mut provenance = Self { layers: merged.layers.clone(), ..Self::default() };
        merged.tree.visit_leaves(&mut |pointer, leaf| {
            let list = match leaf {
                Tree::Deleted { .. } => &mut provenance.deleted,
                Tree::Leaf { .. } | Tree::Object { .. } => &mut provenance.leaves,
            };
            list.insert(pointer.to_owned(), leaf.layers().to_vec());
        });
        provenance
    }

    /// As stored: compact JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and integers only: it cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}
