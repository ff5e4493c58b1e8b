//! Many keys in one namespace: how long they take to write, to list and to copy, and what they cost.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use super::Times;
use crate::api::Api;
use crate::histogram::Histogram;
use crate::servers::{Cluster, Member};

const VALUE_BYTES: usize = 100;
/// How long the other nodes may be behind when everything is written.
const ALL_WITHIN: Duration = Duration::from_secs(60);
/// Keys of one bulk write.
const BULK_KEYS: usize = 10_000;

/// What was found.
#[derive(Serialize)]
pub(super) struct Million {
    keys: usize,
    write_s: f64,
    /// Of pages of 1,000 keys.
    pages: Histogram,
    /// Proportional set size of each of the nodes' processes, before and with the keys.
    before_bytes: Vec<u64>,
    after_bytes: Vec<u64>,
    database_bytes: u64,
    /// From the start of an empty node until it says that it is current.
    copy_s: f64,
    copied_node_bytes: u64,
}

pub(super) fn measure(
    cluster: &mut Cluster<'_>,
    namespace: &str,
    keys: usize,
) -> Result<Million, String> {
    let before_bytes = memory(cluster)?;
    let begun = Instant::now();
    write(cluster, namespace, keys)?;
    let write_s = begun.elapsed().as_secs_f64();
    let mut pages = Histogram::new();
    for member in cluster.nodes() {
        pages = list_all(member, namespace, keys)?;
    }
    let after_bytes = memory(cluster)?;
    let database_bytes = size(&cluster.nodes()[0]);
    let copied = cluster.add()?;
    let member = cluster.nodes().last().ok_or("there is no new node")?;
    let (found, _) = list(&mut member.api()?, namespace)?;
    if found != keys {
        return Err(format!(
            "the new node says that it is current and lists {found} of {keys} keys"
        ));
    }
    let copied_node_bytes = member.footprint()?.total().pss_bytes;
    Ok(Million {
        keys,
        write_s,
        pages,
        before_bytes,
        after_bytes,
        database_bytes,
        copy_s: copied.as_secs_f64(),
        copied_node_bytes,
    })
}

/// Writes the keys in bulk, each node a part of them.
fn write(cluster: &Cluster<'_>, namespace: &str, keys: usize) -> Result<(), String> {
    let (next, value) = (AtomicUsize::new(0), "v".repeat(VALUE_BYTES));
    let lane = |mut api: Api| {
        loop {
            let first = next.fetch_add(BULK_KEYS, Ordering::Relaxed);
            if first >= keys {
                return Ok(());
            }
            let pair = |number: usize| json!({ "key": format!("key/{number:09}"), "value": value });
            let pairs = (first..keys.min(first + BULK_KEYS)).map(pair).collect();
            api.kv_bulk(namespace, &Value::Array(pairs))?;
            if first.is_multiple_of(10 * BULK_KEYS) {
                eprintln!("cluster: about {first} keys are written");
            }
        }
    };
    let apis = cluster.nodes().iter().map(Member::api).collect::<Result<Vec<_>, _>>()?;
    std::thread::scope(|scope| {
        let lanes: Vec<_> = apis.into_iter().map(|api| scope.spawn(|| lane(api))).collect();
        let mut lanes = lanes.into_iter();
        lanes
            .try_for_each(|lane| lane.join().unwrap_or_else(|_| Err("a write panicked".to_owned())))
    })
}

/// Lists a node's keys until all are there; answers how long the pages took of the list that was whole.
fn list_all(member: &Member, namespace: &str, keys: usize) -> Result<Histogram, String> {
    let mut api = member.api()?;
    let give_up = Instant::now() + ALL_WITHIN;
    loop {
        match list(&mut api, namespace)? {
            (found, pages) if found == keys => return Ok(pages),
            (found, _) if Instant::now() > give_up => {
                return Err(format!("a node lists {found} of {keys} keys"));
            }
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Lists all keys, page by page; answers how many there are.
fn list(api: &mut Api, namespace: &str) -> Result<(usize, Histogram), String> {
    let (mut pages, mut cursor, mut found) = (Histogram::new(), String::new(), 0);
    loop {
        let begun = Instant::now();
        let (names, next) = api.kv_page(namespace, &format!("prefix=key/&cursor={cursor}"))?;
        pages.record(begun.elapsed());
        found += names;
        if next.is_empty() {
            return Ok((found, pages));
        }
        cursor = next;
    }
}

fn memory(cluster: &Cluster<'_>) -> Result<Vec<u64>, String> {
    let of = |member: &Member| Ok(member.footprint()?.total().pss_bytes);
    cluster.nodes().iter().map(of).collect()
}

fn size(member: &Member) -> u64 {
    let database = member.database();
    let wal = database.with_extension("sqlite-wal");
    let bytes = |path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    bytes(database) + bytes(wal)
}

impl Million {
    pub(super) fn times(&self) -> Option<Times> {
        let what = "a page of 1,000 keys, through the API".to_owned();
        Some(Times { what, histogram: self.pages.clone() })
    }

    pub(super) fn sentences(&self) -> Vec<String> {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let each = |bytes: &[u64]| {
            bytes.iter().map(|bytes| format!("{:.0}", mb(*bytes))).collect::<Vec<_>>().join(", ")
        };
        vec![
            format!(
                "**A new, empty node holds {} keys of {VALUE_BYTES} B {:.1} s after its start**, by its own word \
                 (`/readyz`) and by its list.",
                self.keys, self.copy_s
            ),
            format!(
                "They were written in bulk through all nodes' APIs in {:.0} s ({:.0} a second).",
                self.write_s,
                self.keys as f64 / self.write_s
            ),
            format!(
                "Memory of each node's processes (Pss) in MB: {} before, {} with the keys; {:.0} of the new node. \
                 Its database: {:.0} MB.",
                each(&self.before_bytes),
                each(&self.after_bytes),
                mb(self.copied_node_bytes),
                mb(self.database_bytes)
            ),
        ]
    }
}
