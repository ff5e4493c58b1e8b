//! The promise: the repository's shape. Who may depend on whom, how long a file may be, and where
//! unsafe code may stand.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const LINES_MAX: usize = 600;
const MAIN_LINES_MAX: usize = 60;
const SOURCES: [&str; 9] = ["rs", "js", "mjs", "ts", "tsx", "jsx", "sql", "sh", "capnp"];
const BANNED_MODULES: [&str; 4] = ["utils", "common", "base", "helpers"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn packages() -> Vec<Value> {
    let metadata =
        output(env!("CARGO"), &["metadata", "--no-deps", "--format-version", "1", "--offline"]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap()
}

/// Every file that git tracks and people write, from the root.
fn sources() -> Vec<PathBuf> {
    let tracked = output("git", &["ls-files", "-z"]);
    let tracked = tracked.split('\0').filter(|path| !path.starts_with("vendor/"));
    let source = |path: &Path| {
        path.extension().is_some_and(|kind| SOURCES.iter().any(|source| kind == *source))
    };
    tracked.map(PathBuf::from).filter(|path| source(path) && root().join(path).is_file()).collect()
}

#[test]
fn dependencies_run_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("atoll-isolate", &[][..]),
        ("atoll-router", &[]),
        ("atoll-kv", &[]),
        ("atoll-edge-node", &["atoll-isolate", "atoll-router", "atoll-kv"]),
        ("atoll-tests", &["atoll-isolate", "atoll-router", "atoll-kv", "atoll-edge-node"]),
        ("atoll-bench", &["atoll-isolate", "atoll-router", "atoll-kv", "atoll-edge-node"]),
    ]);
    let packages = packages();
    for package in &packages {
        let allowed = allowed.get(name(package));
        let allowed = allowed.unwrap_or_else(|| panic!("{} has no place", name(package)));
        for dependency in package["dependencies"].as_array().unwrap() {
            let ours = packages.iter().any(|other| name(other) == name(dependency));
            // A crate's own tests may turn on its features.
            let itself = name(dependency) == name(package);
            assert!(
                !ours || itself || allowed.contains(&name(dependency)),
                "{} must not depend on {}",
                name(package),
                name(dependency)
            );
        }
    }
}

#[test]
fn files_are_short_and_named_by_their_subject() {
    let sources = sources();
    assert!(sources.len() > 50, "only {} source files are found", sources.len());
    let mut faults = Vec::new();
    for path in &sources {
        let lines = std::fs::read_to_string(root().join(path)).unwrap().lines().count();
        let main = path.file_name().is_some_and(|name| name == "main.rs");
        let most = if main { MAIN_LINES_MAX } else { LINES_MAX };
        if lines > most {
            faults.push(format!("{} has {lines} lines, more than {most}", path.display()));
        }
        let banned = |part: &std::ffi::OsStr| BANNED_MODULES.iter().any(|banned| part == *banned);
        if path.file_stem().is_some_and(banned) || path.iter().any(banned) {
            faults.push(format!("{} is named by no subject", path.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn unsafe_code_stands_in_the_isolate_crate_alone() {
    for package in packages() {
        let level = if name(&package) == "atoll-isolate" { "deny" } else { "forbid" };
        let line = format!("#![{level}(unsafe_code)]");
        for target in package["targets"].as_array().unwrap() {
            let kinds = target["kind"].as_array().unwrap();
            if !kinds.iter().any(|kind| kind == "lib" || kind == "bin") {
                continue;
            }
            let root = target["src_path"].as_str().unwrap();
            let text = std::fs::read_to_string(root).unwrap();
            assert!(text.lines().any(|found| found == line), "{root} lacks {line}");
        }
    }
}

#[test]
fn lock_files_name_no_registry() {
    for path in output("git", &["ls-files", "-z", "*package-lock.json"]).split_terminator('\0') {
        let lock = std::fs::read_to_string(root().join(path)).unwrap();
        assert!(!lock.contains("\"resolved\""), "{path} names where packages come from");
    }
}
