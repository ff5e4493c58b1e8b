//! `atoll nodes`: the nodes of the cluster, and what each serves by. Also what a deploy says of them.

use serde_json::Value;

use super::api::Api;
use super::client::{ApiError, items};
use super::error::CliError;
use super::session::Session;
use super::terminal::{Terminal, printable};

/// A node that told nothing for this long is said to be away, in milliseconds.
const AWAY_AFTER_MS: u64 = 5_000;
const HEADINGS: [&str; 10] = [
    "node",
    "region",
    "version",
    "revision",
    "kv lag",
    "staleness",
    "load",
    "round trip",
    "last seen",
    "address",
];

pub(crate) async fn run(session: &Session) -> Result<(), CliError> {
    let api = session.api().await?;
    let answer: Value = api.nodes().await?;
    let terminal = session.terminal;
    if terminal.json {
        terminal.json(&answer);
        return Ok(());
    }
    if answer["clustered"] != true {
        terminal.line("this node is alone: start nodes with --nats to make a cluster");
        return Ok(());
    }
    let revision = answer["revision"].as_u64().unwrap_or(0);
    let nodes = items(&answer["nodes"]);
    let rows = nodes.iter().map(|node| row(terminal, node, revision)).collect();
    terminal.table(&HEADINGS, rows);
    Ok(())
}

fn row(terminal: Terminal, node: &Value, revision: u64) -> Vec<String> {
    let text = |key: &str| printable(node[key].as_str().unwrap_or("-"));
    let number = |key: &str| node[key].as_u64().unwrap_or(0);
    let (seen_ms, serves) = (number("last_seen_ms"), number("revision"));
    let name = if node["this"] == true { format!("{} *", text("name")) } else { text("name") };
    let name = match (seen_ms > AWAY_AFTER_MS, node["ready"] == true) {
        (true, _) => terminal.red(&format!("{name} (away)")),
        (false, false) => terminal.yellow(&format!("{name} (not ready)")),
        (false, true) => terminal.green(&name),
    };
    let serves = match serves < revision {
        true => terminal.yellow(&format!("{serves} (of {revision})")),
        false => serves.to_string(),
    };
    vec![
        name,
        text("region"),
        text("version"),
        serves,
        number("kv_lag").to_string(),
        seconds(number("kv_staleness_ms")),
        format!("{} now, {}/s", node["in_flight"].as_i64().unwrap_or(0), number("requests_per_s")),
        node["rtt_us"].as_u64().map_or("-".to_owned(), |us| format!("{:.1} ms", us as f64 / 1e3)),
        format!("{} ago", seconds(seen_ms)),
        text("admin"),
    ]
}

/// A time for people.
fn seconds(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{:.1} s", ms as f64 / 1_000.0),
        10_000..120_000 => format!("{} s", ms / 1_000),
        _ => format!("{} min", ms / 60_000),
    }
}

/// Which nodes serve by the newest revision: nothing where the node is alone.
pub(crate) async fn serving(api: &Api) -> Result<Vec<(String, bool)>, ApiError> {
    let answer: Value = api.nodes().await?;
    let revision = answer["revision"].as_u64().unwrap_or(0);
    let nodes = items(&answer["nodes"]);
    let there =
        nodes.iter().filter(|node| node["last_seen_ms"].as_u64().unwrap_or(0) <= AWAY_AFTER_MS);
    let serves = |node: &Value| {
        let name = printable(node["name"].as_str().unwrap_or("-"));
        (name, node["revision"].as_u64().unwrap_or(0) >= revision)
    };
    Ok(there.map(serves).collect())
}

/// Says which nodes serve what was deployed, and names those that do not yet.
pub(crate) fn report(terminal: Terminal, nodes: &[(String, bool)]) {
    for (name, serves) in nodes {
        match serves {
            true => terminal.line(format!("  node {name}: {}", terminal.green("ok"))),
            false => terminal.line(format!("  node {name}: {}", terminal.yellow("straggler"))),
        }
    }
    let late: Vec<_> =
        nodes.iter().filter(|(_, serves)| !serves).map(|(name, _)| &**name).collect();
    if !late.is_empty() {
        terminal.warn(format!(
            "not live yet on {}: they will follow by themselves, `atoll nodes` shows how far they are",
            late.join(", ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_are_short() {
        let check = |ms, expected: &str| assert_eq!(seconds(ms), expected);
        check(0, "0.0 s");
        check(1_234, "1.2 s");
        check(12_345, "12 s");
        check(180_000, "3 min");
    }
}
