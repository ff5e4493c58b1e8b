//! `atoll pools`: a worker's origin pools, and how their origins stand on the node.

use serde_json::Value;

use super::args::ProjectArgs;
use super::client::items;
use super::error::CliError;
use super::session::Session;
use super::terminal::{Terminal, printable};

const HEADINGS: [&str; 7] =
    ["origin", "weight", "state", "outstanding", "requests", "failures", "latency"];

pub(super) async fn run(session: &Session, project: &ProjectArgs) -> Result<(), CliError> {
    let worker = session.worker(None, project)?;
    let api = session.api().await?;
    let answer: Value = api.client.get(&api.script(&worker, "/pools/status")).await?;
    let terminal = session.terminal;
    if terminal.json {
        terminal.json(&answer);
        return Ok(());
    }
    let pools = items(&answer["pools"]);
    if pools.is_empty() {
        terminal.note(format!(
            "{worker} has no origin pools: give it some under [[atoll.pools]] and deploy"
        ));
    }
    for pool in pools {
        terminal.line(format!(
            "{} ({})",
            terminal.bold(&text(&pool["host"])),
            text(&pool["steering"])
        ));
        let rows = items(&pool["origins"]).iter().map(|origin| row(terminal, origin)).collect();
        terminal.table(&HEADINGS, rows);
        terminal.line("");
    }
    if let Some(node) = answer["node"].as_str() {
        terminal
            .note(format!("as {} sees them: other nodes find out for themselves", printable(node)));
    }
    Ok(())
}

fn row(terminal: Terminal, origin: &Value) -> Vec<String> {
    let state = state(origin);
    let state = match state.split(' ').next() {
        Some("healthy") => terminal.green(&state),
        Some("unused") => terminal.dim(&state),
        _ => terminal.red(&state),
    };
    let requests = &origin["requests"];
    let failures: Vec<String> = ["error", "unreachable", "lost"]
        .into_iter()
        .filter(|kind| number(&requests[kind]) > 0)
        .map(|kind| format!("{} {kind}", number(&requests[kind])))
        .collect();
    let all: u64 =
        ["answered", "error", "unreachable", "lost"].iter().map(|k| number(&requests[k])).sum();
    let latency = origin["latency_us"].as_u64();
    vec![
        text(&origin["address"]),
        number(&origin["weight"]).to_string(),
        state,
        number(&origin["outstanding"]).to_string(),
        all.to_string(),
        if failures.is_empty() { "0".to_owned() } else { failures.join(", ") },
        latency.map_or("-".to_owned(), |us| format!("{:.1} ms", us as f64 / 1e3)),
    ]
}

/// The state in words. Each serving process has its own.
fn state(origin: &Value) -> String {
    let [healthy, ejected, failing] =
        ["healthy", "ejected", "failing_checks"].map(|key| number(&origin[key]));
    let all = healthy + ejected + failing;
    let of_all = |count: u64| match count == all {
        true => String::new(),
        false => format!(" in {count} of {all} processes"),
    };
    let seconds = number(&origin["ejected_ms"]) as f64 / 1e3;
    match (ejected, failing) {
        _ if all == 0 => "unused of late".to_owned(),
        (0, 0) => "healthy".to_owned(),
        (ejected, 0) => format!("ejected{} for {seconds:.1} s", of_all(ejected)),
        (_, failing) => format!("failing checks{}", of_all(failing)),
    }
}

fn text(value: &Value) -> String {
    printable(value.as_str().unwrap_or("-"))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn states_of_several_processes_are_one_line() {
        let check = |healthy: u64, ejected: u64, failing: u64, expected: &str| {
            let origin = json!({
                "healthy": healthy, "ejected": ejected, "failing_checks": failing, "ejected_ms": 2_340,
            });
            assert_eq!(state(&origin), expected);
        };
        check(0, 0, 0, "unused of late");
        check(2, 0, 0, "healthy");
        check(0, 2, 0, "ejected for 2.3 s");
        check(1, 1, 0, "ejected in 1 of 2 processes for 2.3 s");
        check(1, 0, 1, "failing checks in 1 of 2 processes");
        check(0, 0, 1, "failing checks");
    }
}
