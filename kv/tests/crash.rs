//! Acknowledged writes outlive the process.
//!
//! This program starts itself again as a child that writes keys from many tasks and prints each
//! one that was acknowledged. It is killed in the middle, several times on one database, and each
//! time every printed key must be there with its value. A kill leaves the system's page cache
//! intact: this proves the order of acknowledgement and commit, not what a power cut leaves.

#![allow(clippy::unwrap_used, reason = "a test's own functions are tests too")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use atoll_kv::{Key, KvStore, NamespaceId, PutOptions, SqliteOptions, SqliteStore};

/// Names the database to the child; the child's part is skipped without it.
const DATABASE: &str = "ATOLL_KV_CRASH_DATABASE";
/// The child's number, which its keys begin with.
const ROUND: &str = "ATOLL_KV_CRASH_ROUND";
/// Tasks of the child that write.
const WRITERS: usize = 16;
/// Writes of one task, at most, should the parent not end it.
const WRITES_MAX: usize = 10_000;
/// After how many acknowledgements each round's child is killed.
const KILL_AFTER: [usize; 8] = [1, 2, 17, 64, 150, 333, 500, 800];

fn namespace() -> NamespaceId {
    NamespaceId::parse("00000000000000000000000000000001").unwrap()
}

/// Some values are large, so that kills also meet writes of many pages.
fn value(name: &str) -> Vec<u8> {
    let repeats = if name.ends_with('7') { 20_000 } else { 3 };
    name.repeat(repeats).into_bytes()
}

#[test]
fn acknowledged_writes_outlive_a_kill() {
    let place = tempfile::tempdir().unwrap();
    let database = place.path().join("kv.sqlite");
    let mut acknowledged = Vec::new();
    for (round, count) in KILL_AFTER.into_iter().enumerate() {
        acknowledged.extend(kill_after(count, round, &database));
        check_all_present(&acknowledged, &database);
    }
}

/// Runs a child until it has acknowledged `count` writes, kills it, and returns all keys that it
/// had printed by then.
fn kill_after(count: usize, round: usize, database: &Path) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_writes_until_killed", "--nocapture"])
        .env(DATABASE, database)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut keys = Vec::new();
    for line in lines {
        // The first one stands on the line on which the test harness says what it runs.
        if let Some((_, key)) = line.unwrap().split_once("acknowledged ") {
            keys.push(key.to_owned());
        }
        if keys.len() == count {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(keys.len() >= count, "the child ended after {} of {count}", keys.len());
    keys
}

fn check_all_present(keys: &[String], database: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = SqliteStore::open(database, SqliteOptions::default()).unwrap();
    for name in keys {
        let read = store.get(&namespace(), &Key::parse(name).unwrap());
        let entry = runtime.block_on(read).unwrap();
        let entry = entry.unwrap_or_else(|| panic!("{name} was acknowledged and is lost"));
        assert!(entry.value == value(name), "{name} is damaged");
    }
}

#[test]
fn child_that_writes_until_killed() {
    let (Ok(database), Ok(round)) = (std::env::var(DATABASE), std::env::var(ROUND)) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = SqliteStore::open(database, SqliteOptions::default()).unwrap();
    let tasks = (0..WRITERS).map(|writer| {
        let (store, round) = (store.clone(), round.clone());
        async move {
            for index in 0..WRITES_MAX {
                let name = format!("{round}-{writer}-{index}");
                let key = Key::parse(&name).unwrap();
                let value = value(&name).into();
                store.put(&namespace(), &key, value, PutOptions::default()).await.unwrap();
                // One write, so that a kill never leaves half a line that reads as a key.
                let line = format!("acknowledged {name}\n");
                std::io::stdout().write_all(line.as_bytes()).unwrap();
            }
        }
    });
    runtime.block_on(futures_util::future::join_all(tasks));
}
