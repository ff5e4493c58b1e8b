//! The promise: what the documents say of limits is what the program has.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The keys that the configuration's `[limits]` may have, from its source.
fn keys() -> Vec<String> {
    let source = read("edge-node/src/config.rs");
    let fields = source.split("pub struct LimitsConfig {").nth(1).unwrap();
    let fields = fields.split("\n}").next().unwrap();
    let name = |line: &str| Some(line.trim().strip_prefix("pub ")?.split_once(':')?.0.to_owned());
    fields.lines().filter_map(name).collect()
}

/// What `docs/config.md` gives each key of `[limits]`; a test of the node's own holds that to be its default.
fn defaults() -> BTreeMap<String, String> {
    let page = read("docs/config.md");
    let section = page.split("\n[limits]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let pair = |line: &str| {
        let (key, rest) = line.split_once('=')?;
        Some((key.trim().to_owned(), rest.split('#').next()?.trim().to_owned()))
    };
    section.lines().filter_map(pair).collect()
}

/// The rows of `docs/limits.md` that are about a key: the key, and the cell of its default.
fn documented() -> BTreeMap<String, String> {
    let page = read("docs/limits.md");
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let key = cells.get(1)?.strip_prefix("`limits.")?.strip_suffix('`')?;
        Some((key.to_owned(), (*cells.get(3)?).to_owned()))
    };
    page.lines().filter_map(row).collect()
}

#[test]
fn every_key_of_the_limits_is_documented_with_its_default() {
    let (keys, defaults, documented) = (keys(), defaults(), documented());
    assert!(keys.len() > 10, "{keys:?}");
    for key in &keys {
        let default = defaults.get(key);
        let default = default.unwrap_or_else(|| panic!("docs/config.md has no limits.{key}"));
        let said = documented.get(key);
        let said = said.unwrap_or_else(|| panic!("docs/limits.md has no row for limits.{key}"));
        assert_eq!(said, default, "docs/limits.md says another default of limits.{key}");
    }
    for key in documented.keys() {
        assert!(keys.contains(key), "docs/limits.md has limits.{key}, which is no key");
    }
}
