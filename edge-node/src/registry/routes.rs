//! Routes: which URLs lead to which worker, and which account may say so.

use std::collections::HashSet;

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::{
    AccountId, Missing, Registry, RegistryError, Route, Taken, WorkerName, WorkerRef,
    random_hex_id, workers,
};

/// Routes of one account.
const ROUTES_MAX: usize = 1_000;
const PATTERN_BYTES_MAX: usize = 2_048;

/// The host part of a route's pattern: one host, or every host with a suffix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    /// Whether a `*` stood before the text.
    wildcard: bool,
    text: String,
}

impl HostPattern {
    /// Reads the host of a route's pattern and checks the pattern's form: a scheme at will, `*`
    /// only as the first character of the host and the last of the path, and no query.
    ///
    /// # Errors
    /// Fails when the pattern has another form.
    pub fn of_route(pattern: &str) -> Result<Self, RegistryError> {
        let invalid =
            |why: &str| Err(RegistryError::Invalid(format!("route pattern {pattern:?} {why}")));
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(RegistryError::Invalid(format!(
                "a route pattern has at most {PATTERN_BYTES_MAX} bytes"
            )));
        }
        if pattern.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return invalid("contains white space or control characters");
        }
        if pattern.contains(['?', '#']) {
            return invalid("contains a query or fragment: a pattern is a host and a path");
        }
        let rest = match pattern.split_once("://") {
            Some(("http" | "https", rest)) => rest,
            Some(_) => return invalid("has a scheme other than http and https"),
            None => pattern,
        };
        let (host, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if host.is_empty() {
            return invalid("has no host");
        }
        if path.trim_end_matches('*').contains('*') || path.ends_with("**") {
            return invalid("has a * that is not the last character of the path");
        }
        let (wildcard, text) = match host.strip_prefix('*') {
            Some(suffix) => (true, suffix),
            None => (false, host),
        };
        if text.contains('*') {
            return invalid("has a * that is not the first character of the host");
        }
        Ok(Self { wildcard, text: text.to_ascii_lowercase() })
    }

    /// Every host below a domain.
    pub fn below(domain: &str) -> Self {
        Self { wildcard: true, text: format!(".{}", domain.to_ascii_lowercase()) }
    }

    /// Whether some host matches both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self.wildcard, other.wildcard) {
            (false, false) => self.text == other.text,
            (false, true) => self.text.ends_with(&other.text),
            (true, false) => other.text.ends_with(&self.text),
            (true, true) => self.text.ends_with(&other.text) || other.text.ends_with(&self.text),
        }
    }
}

impl Registry {
    /// Replaces the routes that lead to the worker.
    ///
    /// # Errors
    /// Fails when a pattern is unfit, is another worker's, or has a host of another account.
    pub fn replace_routes(
        &self,
        worker: &WorkerRef,
        patterns: &[String],
    ) -> Result<Vec<Route>, RegistryError> {
        self.write(|transaction| {
            workers::ensure_exists(transaction, worker)?;
            transaction.execute(
                "DELETE FROM route WHERE account = ?1 AND worker = ?2",
                params![worker.account.as_str(), worker.worker.as_str()],
            )?;
            let mut seen = HashSet::new();
            patterns
                .iter()
                .filter(|pattern| seen.insert(pattern.as_str()))
                .map(|pattern| insert(transaction, &worker.account, pattern, Some(&worker.worker)))
                .collect()
        })
    }

    /// Adds a route of the account; without a worker it takes its URLs away from broader routes.
    ///
    /// # Errors
    /// Fails as `replace_routes` does.
    pub fn add_route(
        &self,
        account: &AccountId,
        pattern: &str,
        worker: Option<&WorkerName>,
    ) -> Result<Route, RegistryError> {
        self.write(|transaction| {
            ensure_target_exists(transaction, account, worker)?;
            insert(transaction, account, pattern, worker)
        })
    }

    /// Gives a route another pattern and worker.
    ///
    /// # Errors
    /// Fails as `replace_routes` does, and when the account has no such route.
    pub fn update_route(
        &self,
        account: &AccountId,
        id: &str,
        pattern: &str,
        worker: Option<&WorkerName>,
    ) -> Result<Route, RegistryError> {
        self.write(|transaction| {
            ensure_target_exists(transaction, account, worker)?;
            delete(transaction, account, id)?;
            let route = Route { id: id.to_owned(), ..new_route(account, pattern, worker) };
            insert_row(transaction, route)
        })
    }

    /// Deletes a route of the account.
    ///
    /// # Errors
    /// Fails when the account has no such route.
    pub fn delete_route(&self, account: &AccountId, id: &str) -> Result<(), RegistryError> {
        self.write(|transaction| delete(transaction, account, id))
    }
}

fn ensure_target_exists(
    view: &Transaction<'_>,
    account: &AccountId,
    worker: Option<&WorkerName>,
) -> Result<(), RegistryError> {
    let Some(worker) = worker else { return Ok(()) };
    let target = WorkerRef { account: account.clone(), worker: worker.clone() };
    workers::ensure_exists(view, &target)
}

fn delete(
    transaction: &Transaction<'_>,
    account: &AccountId,
    id: &str,
) -> Result<(), RegistryError> {
    let deleted = transaction.execute(
        "DELETE FROM route WHERE account = ?1 AND id = ?2",
        params![account.as_str(), id],
    )?;
    match deleted {
        0 => Err(RegistryError::NotFound { what: Missing::Route(id.to_owned()) }),
        _ => Ok(()),
    }
}

fn new_route(account: &AccountId, pattern: &str, worker: Option<&WorkerName>) -> Route {
    Route {
        id: random_hex_id(),
        account: account.clone(),
        pattern: pattern.to_owned(),
        worker: worker.cloned(),
    }
}

fn insert(
    transaction: &Transaction<'_>,
    account: &AccountId,
    pattern: &str,
    worker: Option<&WorkerName>,
) -> Result<Route, RegistryError> {
    insert_row(transaction, new_route(account, pattern, worker))
}

fn insert_row(transaction: &Transaction<'_>, route: Route) -> Result<Route, RegistryError> {
    ensure_owned(transaction, &route)?;
    let count: i64 = transaction.query_row(
        "SELECT count(*) FROM route WHERE account = ?1",
        [route.account.as_str()],
        |row| row.get(0),
    )?;
    if count >= ROUTES_MAX as i64 {
        return Err(RegistryError::TooMany { what: "routes of an account", max: ROUTES_MAX });
    }
    transaction.execute(
        "INSERT INTO route (id, account, pattern, worker) VALUES (?1, ?2, ?3, ?4)",
        params![
            route.id,
            route.account.as_str(),
            route.pattern,
            route.worker.as_ref().map(WorkerName::as_str)
        ],
    )?;
    Ok(route)
}

/// An account owns the hosts of its routes: nobody else's pattern may reach them.
fn ensure_owned(view: &Transaction<'_>, route: &Route) -> Result<(), RegistryError> {
    let taken = || RegistryError::Taken { what: Taken::Route(route.pattern.clone()) };
    let host = HostPattern::of_route(&route.pattern)?;
    let same: Option<String> = view
        .query_row("SELECT id FROM route WHERE pattern = ?1", [&route.pattern], |row| row.get(0))
        .optional()?;
    if same.is_some() {
        return Err(taken());
    }
    let mut others = view.prepare_cached("SELECT pattern FROM route WHERE account <> ?1")?;
    let patterns = others.query_map([route.account.as_str()], |row| row.get::<_, String>(0))?;
    for pattern in patterns {
        if HostPattern::of_route(&pattern?)?.overlaps(&host) {
            return Err(taken());
        }
    }
    Ok(())
}

pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Route> {
    Ok(Route {
        id: row.get("id")?,
        account: AccountId::new(row.get::<_, String>("account")?),
        pattern: row.get("pattern")?,
        worker: row.get::<_, Option<String>>("worker")?.map(WorkerName::new),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_checked() {
        for (pattern, fits) in [
            ("example.com/*", true),
            ("https://example.com/a/b*", true),
            ("*.example.com/*", true),
            ("*example.com", true),
            ("*/*", true),
            ("example.com/a*b", false),
            ("ex*ample.com/", false),
            ("example.com/?q=1", false),
            ("ftp://example.com/", false),
            ("/path", false),
            ("", false),
            ("a b.com/", false),
        ] {
            assert_eq!(HostPattern::of_route(pattern).is_ok(), fits, "{pattern}");
        }
    }

    #[test]
    fn hosts_overlap_when_some_host_matches_both() {
        for (a, b, overlap) in [
            ("a.com/x", "A.com/y", true),
            ("a.com/", "b.com/", false),
            ("*.a.com/*", "x.a.com/*", true),
            ("*.a.com/*", "a.com/*", false),
            ("*a.com/*", "mya.com/*", true),
            ("*.a.com/*", "*.x.a.com/*", true),
            ("*.a.com/*", "*.b.com/*", false),
            ("*/*", "a.com/*", true),
        ] {
            let parse = |pattern| HostPattern::of_route(pattern).unwrap();
            assert_eq!(parse(a).overlaps(&parse(b)), overlap, "{a} {b}");
            assert_eq!(parse(b).overlaps(&parse(a)), overlap, "{b} {a}");
        }
    }
}
