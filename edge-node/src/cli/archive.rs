//! `atoll export` and `atoll import`: all that a node keeps, out into one file and back, while it does not run.

use std::time::Duration;

use serde_json::json;

use super::args::ArchiveArgs;
use super::error::CliError;
use super::local_node;
use super::session::Session;
use crate::archive::{self, MissingValue, Moved};
use crate::node::stores::NodeStores;

/// How long a cluster's node may take to be current before it is exported as it is.
const CURRENT_MAX: Duration = Duration::from_secs(15);
const CURRENT_PAUSE: Duration = Duration::from_millis(100);

/// Which way.
#[derive(Clone, Copy)]
pub(crate) enum Direction {
    Export(MissingValue),
    Import,
}

pub(crate) async fn run(
    session: &Session,
    direction: Direction,
    args: ArchiveArgs,
) -> Result<(), CliError> {
    let config = local_node::configured_for_archive(&args)?;
    if matches!(direction, Direction::Export(_)) && !config.data_dir.is_dir() {
        let dir = config.data_dir.display();
        return Err(CliError::Failed(format!(
            "there is no data directory {dir}: name it with --data"
        )));
    }
    let stores = NodeStores::open(&config, None).await.map_err(failed)?;
    await_current(session, &stores).await;
    let kv = stores.kv.store();
    let (moved, word) = match direction {
        Direction::Export(missing) => {
            (archive::export(&stores.registry, &kv, &args.file, missing).await, "exported")
        }
        Direction::Import => (archive::import(&stores.registry, &kv, &args.file).await, "imported"),
    };
    stores.kv.close().await;
    if let Some(cluster) = &stores.cluster {
        cluster.connection().close().await;
    }
    let file = args.file.display();
    report(session, word, moved.map_err(|error| CliError::Failed(format!("{file}: {error}")))?);
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::Failed(error.to_string())
}

/// A cluster's node that was away gets what it missed, if that can be had.
async fn await_current(session: &Session, stores: &NodeStores) {
    let Some(cluster) = &stores.cluster else { return };
    let current = async {
        while cluster.why_not_ready().is_some() {
            tokio::time::sleep(CURRENT_PAUSE).await;
        }
    };
    if tokio::time::timeout(CURRENT_MAX, current).await.is_err() {
        let why = cluster.why_not_ready().unwrap_or_default();
        session.terminal.warn(format!("this node may lack what others have: {why}"));
    }
}

fn report(session: &Session, word: &str, moved: Moved) {
    let Moved { rows, modules, keys, keys_expiring, keys_missing } = moved;
    let terminal = session.terminal;
    if terminal.json {
        terminal.json(&json!({
            "rows": rows, "modules": modules, "keys": keys, "keys_expiring": keys_expiring,
            "keys_missing": keys_missing,
        }));
        return;
    }
    terminal.line(format!(
        "{} {rows} rows of the registry, {modules} modules, {keys} KV keys",
        terminal.green(word)
    ));
    if keys_expiring > 0 {
        terminal.line(format!("left out {keys_expiring} KV keys that expire within a minute"));
    }
    if keys_missing > 0 {
        terminal.warn(format!("left out {keys_missing} KV keys whose values cannot be had"));
    }
}
