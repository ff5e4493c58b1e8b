//! Where a project's worker may run, under `atoll.regions`.

use atoll_router::regions::RegionRules;

use super::config::Scopes;
use super::document::{Document, Value};
use super::{Diagnostic, RouteEntry};

/// The regions of a project; none where its file says nothing of them, so that those that are set stay.
pub(super) fn read(
    document: &Document,
    scopes: &Scopes<'_>,
    routes: &[RouteEntry],
    problems: &mut Vec<Diagnostic>,
) -> Option<RegionRules> {
    let entries = scopes.inherited("atoll");
    let atoll = entries.iter().rfind(|entry| entry.key == "atoll")?;
    // Whatever else it may be is told where the rules are read.
    let Value::Object(entries) = &atoll.node.value else { return None };
    let entry = entries.iter().rfind(|entry| entry.key == "regions")?;
    let mut problem =
        |message: String| problems.push(document.diagnostic(entry.key_span.clone(), message));
    let Value::Object(_) = &entry.node.value else {
        problem(format!("\"atoll.regions\" must be a table, not {}", entry.node.value.noun()));
        return None;
    };
    let regions: RegionRules = match serde_json::from_value(entry.node.value.to_json()) {
        Ok(regions) => regions,
        Err(error) => {
            problem(format!("\"atoll.regions\": {error}"));
            return None;
        }
    };
    if let Err(error) = regions.check() {
        problem(format!("\"atoll.regions\": {error}"));
    }
    for of_route in &regions.routes {
        if !routes.iter().any(|route| route.pattern == of_route.pattern) {
            let pattern = &of_route.pattern;
            problem(format!("\"atoll.regions\": {pattern:?} is none of the project's routes"));
        }
    }
    Some(regions)
}
