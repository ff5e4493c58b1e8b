//! The origin pools of a project, under `atoll.pools`.

use atoll_router::origins::{OriginPool, check_pools};

use super::Diagnostic;
use super::config::Scopes;
use super::document::{Document, Value};

/// The pools of a project; none where its file says nothing of them, so that those that are set stay.
pub(super) fn read(
    document: &Document,
    scopes: &Scopes<'_>,
    problems: &mut Vec<Diagnostic>,
) -> Option<Vec<OriginPool>> {
    let entries = scopes.inherited("atoll");
    let atoll = entries.iter().rfind(|entry| entry.key == "atoll")?;
    // Whatever else it may be is told where the rules are read.
    let Value::Object(entries) = &atoll.node.value else { return None };
    let entry = entries.iter().rfind(|entry| entry.key == "pools")?;
    let mut problem = |span: &std::ops::Range<usize>, message: String| {
        problems.push(document.diagnostic(span.clone(), message));
    };
    let Value::Array(items) = &entry.node.value else {
        let noun = entry.node.value.noun();
        let message =
            format!("\"atoll.pools\" must be a list of tables ([[atoll.pools]]), not {noun}");
        problem(&entry.key_span, message);
        return None;
    };
    let mut pools = Vec::new();
    for item in items {
        let pool = serde_json::from_value::<OriginPool>(item.value.to_json());
        let checked = pool.map_err(|error| error.to_string()).and_then(|pool| {
            pools.push(pool);
            // With those before it: its host may have a pool already.
            check_pools(&pools).map_err(|error| error.to_string())
        });
        if let Err(error) = checked {
            problem(&item.span, format!("\"atoll.pools\": {error}"));
            break;
        }
    }
    Some(pools)
}
