//! A put on one node until a get on the others finds it.

use std::time::{Duration, Instant};

use super::Times;
use super::watch::Watcher;
use crate::api::Connection;
use crate::histogram::Histogram;
use crate::servers::{Cluster, Member};

/// Keys that are put in turn: they lie in several logs.
const KEYS: usize = 32;

/// Puts at an even pace through the first node's worker; the others are asked for each.
pub(super) fn measure(
    cluster: &Cluster<'_>,
    host: &str,
    puts: usize,
    per_second: f64,
) -> Result<Vec<Times>, String> {
    let (writer, others) = cluster.nodes().split_first().ok_or("there are no nodes")?;
    let watch = |member: &Member| Watcher::start(member.http(), host);
    let watchers: Vec<_> = others.iter().map(watch).collect();
    let mut connection = Connection::new(writer.http());
    let mut acknowledged = Histogram::new();
    let mut after = vec![(Histogram::new(), Histogram::new()); watchers.len()];
    let begun = Instant::now();
    for number in 0..puts {
        let due = begun + Duration::from_secs_f64(number as f64 / per_second);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let (path, value) = (format!("/seen-{}", number % KEYS), format!("value {number}"));
        watchers.iter().for_each(|watcher| watcher.look_for(&path, &value));
        let called = Instant::now();
        let put =
            connection.request(&format!("PUT {path}"), &[("host", host)], value.as_bytes())?;
        let answered = Instant::now();
        if put.status != 204 {
            return Err(format!("a put is answered with status {}", put.status));
        }
        acknowledged.record(answered - called);
        read_own(&mut connection, host, &path, &value)?;
        for (watcher, (from_call, from_answer)) in watchers.iter().zip(&mut after) {
            let seen = watcher.seen()?;
            from_call.record(seen - called);
            from_answer.record(seen.saturating_duration_since(answered));
        }
    }
    let mut times = vec![Times { what: "put: acknowledged".to_owned(), histogram: acknowledged }];
    for (index, (from_call, from_answer)) in after.into_iter().enumerate() {
        let node = index + 2;
        times.push(Times {
            what: format!("put: seen on node {node}, from the call"),
            histogram: from_call,
        });
        times.push(Times {
            what: format!("put: seen on node {node}, from the acknowledgement"),
            histogram: from_answer,
        });
    }
    Ok(times)
}

/// The node that wrote shows it at once.
fn read_own(
    connection: &mut Connection,
    host: &str,
    path: &str,
    value: &str,
) -> Result<(), String> {
    let found = connection.request(&format!("GET {path}"), &[("host", host)], b"")?;
    if found.body == value.as_bytes() {
        return Ok(());
    }
    Err(format!("the node that wrote does not read its write at once: {path}"))
}
