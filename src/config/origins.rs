//! Which source won, for every key: what `config print` shows and what errors point at.

use std::collections::{BTreeMap, BTreeSet};

use super::error::Origin;
use super::tree::Tree;

/// Where each effective value was set. A key that is not listed has its default.
#[derive(Clone, Debug, Default)]
pub struct Origins(BTreeMap<String, Place>);

/// Where a value is, and what its own source calls it (an index differs after a broken entry was left out).
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    pub(super) at: Origin,
    pub(super) label: String,
}

impl Origins {
    pub(super) fn of(tree: &Tree) -> Origins {
        let mut places = BTreeMap::new();
        tree.each("", &mut |path, tree| {
            places.insert(path.to_owned(), Place { at: tree.at.clone(), label: tree.label.clone() });
        });
        Origins(places)
    }

    /// Where the key of that path (`node[0].url`) was set.
    pub fn get(&self, path: &str) -> &Origin {
        self.0.get(path).map_or(&Origin::Default, |place| &place.at)
    }

    /// Every path that was set, with its origin.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Origin)> {
        self.0.iter().filter(|(path, _)| !path.is_empty()).map(|(path, place)| (path.as_str(), &place.at))
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// The place of that path, or of the nearest entry around it that has one.
    pub(super) fn place(&self, path: &str) -> Place {
        let mut around = path;
        while !around.is_empty() {
            if let Some(place) = self.0.get(around) {
                let below = &path[around.len()..];
                return Place { at: place.at.clone(), label: format!("{}{below}", place.label) };
            }
            around = &around[..around.rfind(['.', '[']).unwrap_or(0)];
        }
        Place { at: Origin::Default, label: path.to_owned() }
    }

    /// Where settings came from, in one line for the banner.
    pub fn summary(&self) -> String {
        let mut files = BTreeSet::new();
        let (mut variables, mut flags) = (BTreeSet::new(), BTreeSet::new());
        for (_, origin) in self.iter() {
            match origin {
                Origin::Default => {}
                Origin::File { path, .. } => drop(files.insert(path.to_string())),
                Origin::Environment { variable } => drop(variables.insert(variable.clone())),
                Origin::Flag { flag } => drop(flags.insert((*flag).to_owned())),
            }
        }
        let all: Vec<String> = flags.into_iter().chain(variables).chain(files).collect();
        if all.is_empty() { "defaults only".to_owned() } else { format!("{}, then defaults", all.join(", ")) }
    }
}
