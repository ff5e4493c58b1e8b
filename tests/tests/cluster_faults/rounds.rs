//! Rounds of load and one fault each, with all that was promised looked at after each.

use std::collections::BTreeMap;
use std::time::Instant;

use atoll_tests::{History, Holding, Node, Replica, check, eventually_within};

use super::PATIENCE;
use super::cluster::Cluster;
use super::faults::Fault;
use super::load::{self, Load};
use super::random::Random;

/// Acknowledged writes on every node that show that a cluster works.
const PROGRESS: usize = 15;
/// What a broken promise shows of the history of its key.
const SHOWN_OPERATIONS_MAX: usize = 200;

pub(crate) async fn run(rounds: u64, seed: u64) {
    let mut random = Random::new(seed);
    let mut cluster = Cluster::start().await;
    let mut settled = BTreeMap::new();
    for round in 0..rounds {
        let fault = Fault::ALL[(round % Fault::ALL.len() as u64) as usize];
        let begun = Instant::now();
        let history = History::default();
        let load = Load::start(&cluster, &history, round, random.next());
        load.progress(&[0, 1, 2], PROGRESS).await;
        let told = fault.happen(&mut cluster, &load, &mut random).await;
        load.progress(&[0, 1, 2], PROGRESS).await;
        load.end().await;
        let holdings = holdings(&cluster, &settled).await;
        let operations = judge(round, &history, &holdings, &settled);
        settled.extend(holdings[0].values.clone());
        println!(
            "round {round}: {fault:?}, {told}, {operations} operations, {:.1} s",
            begun.elapsed().as_secs_f64()
        );
    }
    exports_are_equal(&mut cluster).await;
}

/// What all replicas hold, once that is the same or does not become so.
async fn holdings(cluster: &Cluster, settled: &BTreeMap<String, String>) -> Vec<Holding> {
    let begun = Instant::now();
    eventually_within(PATIENCE, "all nodes are ready and answer", async || {
        let mut holdings = Vec::new();
        for (node, replica) in cluster.nodes.iter().zip(&cluster.replicas) {
            match holding(cluster, node, *replica).await {
                Ok(holding) => holdings.push(holding),
                Err(why) => {
                    if begun.elapsed() > PATIENCE / 2 {
                        println!("replica {replica}: {why}");
                    }
                    return None;
                }
            }
        }
        let same = holdings.iter().all(|holding| holding.values == holdings[0].values);
        let whole = settled.iter().all(|(key, value)| holdings[0].values.get(key) == Some(value));
        // What is not the same by then is for the checker to name.
        (same && whole || begun.elapsed() > PATIENCE / 2).then_some(holdings)
    })
    .await
}

/// What a replica holds, or why it is not asked.
async fn holding(cluster: &Cluster, node: &Node, replica: usize) -> Result<Holding, String> {
    let (status, text) = node.admin_text("/readyz").await;
    if status != 200 {
        return Err(text);
    }
    let values = node.api().kv_all(&cluster.namespace).await.map_err(|error| error.to_string())?;
    let values = values.into_iter().map(|(key, value)| (key, load::known(&value)));
    Ok(Holding { replica: Replica(replica), values: values.collect() })
}

/// Fails if a promise of this round was broken, or if something of an earlier one changed since. Answers how
/// many operations there were.
fn judge(
    round: u64,
    history: &History,
    holdings: &[Holding],
    settled: &BTreeMap<String, String>,
) -> usize {
    let operations = history.operations();
    let prefix = load::prefix(round);
    let of_round = |holding: &Holding| Holding {
        replica: holding.replica,
        values: holding
            .values
            .clone()
            .into_iter()
            .filter(|(k, _)| k.starts_with(&prefix))
            .collect(),
    };
    let violations = check(&operations, &holdings.iter().map(of_round).collect::<Vec<_>>());
    for violation in &violations {
        println!("{violation}");
        let text = format!("{violation:?}");
        let of_key = operations.iter().filter(|one| text.contains(&format!("{:?}", one.key)));
        for operation in of_key.take(SHOWN_OPERATIONS_MAX) {
            println!("  {operation:?}");
        }
    }
    assert!(violations.is_empty(), "round {round}: {} promises are broken", violations.len());
    for Holding { replica, values } in holdings {
        let mut older = values.clone();
        older.retain(|key, _| !key.starts_with(&prefix));
        assert_eq!(&older, settled, "round {round}: {replica:?} changed what nobody wrote");
    }
    operations.len()
}

/// What the nodes export, when all have ended in order, is the same file.
async fn exports_are_equal(cluster: &mut Cluster) {
    let place = tempfile::tempdir().unwrap();
    let mut exports = Vec::new();
    for index in 0..cluster.nodes.len() {
        let node = &mut cluster.nodes[index];
        assert!(node.drain().await.success());
        let (file, config) = (place.path().join(index.to_string()), place.path().join("node.toml"));
        std::fs::write(&config, cluster.config(index)).unwrap();
        let data = cluster.nodes[index].data_dir();
        let [file_text, config, data] = [&file, &config, &data].map(|path| path.to_str().unwrap());
        let arguments = ["export", file_text, "--data", data, "--config", config];
        let exported = cluster.nodes[index].atoll(&arguments).await;
        assert!(exported.success, "{}", exported.stderr);
        assert!(!exported.stderr.contains("may lack"), "{}", exported.stderr);
        exports.push(std::fs::read(file).unwrap());
    }
    println!("exports of {} bytes each", exports[0].len());
    assert!(exports.iter().all(|export| *export == exports[0]), "the exports differ");
}
