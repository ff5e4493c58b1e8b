//! A deploy until every node serves it.

use std::time::Instant;

use serde_json::Value;

use super::Times;
use super::watch::Watcher;
use crate::histogram::Histogram;
use crate::servers::Cluster;

const WORKER: &str = "deployed";
const HOST: &str = "deployed.demo.localhost";

/// Deploys a worker again and again through the first node's API; all nodes are asked for each version.
pub(super) fn measure(cluster: &Cluster<'_>, deploys: usize) -> Result<Vec<Times>, String> {
    let watchers: Vec<_> =
        cluster.nodes().iter().map(|member| Watcher::start(member.http(), HOST)).collect();
    let mut api = cluster.nodes()[0].api()?;
    api.upload(WORKER, &source("first"), Value::Array(Vec::new()))?;
    let (mut live, mut answered) = (Histogram::new(), Histogram::new());
    for number in 0..deploys {
        let answer = format!("version {number}");
        watchers.iter().for_each(|watcher| watcher.look_for("/", &answer));
        let called = Instant::now();
        api.upload_version(WORKER, &source(&answer), Value::Array(Vec::new()))?;
        answered.record(called.elapsed());
        let mut last = called;
        for watcher in &watchers {
            last = last.max(watcher.seen()?);
        }
        live.record(last - called);
    }
    Ok(vec![
        Times { what: "deploy: live on all three nodes".to_owned(), histogram: live },
        Times { what: "deploy: answered".to_owned(), histogram: answered },
    ])
}

fn source(answer: &str) -> String {
    format!("export default {{ fetch: () => new Response({answer:?}) }};")
}
