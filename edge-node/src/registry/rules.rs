//! Rules of workers: one document each, and what the node knows beside it: what is switched off, and who had
//! which bucket when weights last changed.

use atoll_router::rules::{Overlay, Picked, RollBack, RuleSet};
use rusqlite::{OptionalExtension, Transaction, params};
use serde_json::Value;

use super::database::{from_sql, to_sql};
use super::{Missing, Registry, RegistryError, WorkerRef, from_json, now_ms, to_json, workers};

/// The longest document, in bytes of JSON.
const DOCUMENT_BYTES_MAX: usize = 256 << 10;

/// A worker's rules as the API shows them.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRules {
    /// As it was set.
    pub document: Value,
    /// What the node adds.
    pub overlay: Overlay,
    /// When either last changed: milliseconds since the Unix epoch.
    pub modified_ms: u64,
}

/// Whether a rule is in force, whatever its document says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// As its document says.
    On,
    /// Not at all.
    Off,
}

impl StoredRules {
    /// Compiles them.
    ///
    /// # Errors
    /// Fails when this release cannot read them.
    pub fn compile(&self) -> Result<RuleSet, RegistryError> {
        RuleSet::parse(&self.document, self.overlay.clone()).map_err(invalid)
    }
}

impl Registry {
    /// The worker's rules, if it has any.
    ///
    /// # Errors
    /// Fails when the worker does not exist.
    pub fn rules(&self, worker: &WorkerRef) -> Result<Option<StoredRules>, RegistryError> {
        self.read(|view| {
            workers::ensure_exists(view, worker)?;
            load(view, worker)
        })
    }

    /// Replaces the worker's rules. Units keep their variants as far as the new weights let them, and what was
    /// switched off stays off.
    ///
    /// # Errors
    /// Fails when the worker or a version that a rule names does not exist, or the document is no set of
    /// rules.
    pub fn set_rules(
        &self,
        worker: &WorkerRef,
        document: &Value,
    ) -> Result<StoredRules, RegistryError> {
        if to_json(document).len() > DOCUMENT_BYTES_MAX {
            return Err(RegistryError::Invalid(format!(
                "the rules of a worker have at most {DOCUMENT_BYTES_MAX} bytes as JSON"
            )));
        }
        let now = now_ms();
        self.write(|transaction| {
            workers::ensure_exists(transaction, worker)?;
            // Rules that this release cannot read have no units to keep.
            let before = load(transaction, worker)?.and_then(|stored| stored.compile().ok());
            let overlay = match before {
                Some(before) => before.overlay_of_next(document, now).map_err(invalid)?,
                None => Overlay::default(),
            };
            let stored = StoredRules { document: document.clone(), overlay, modified_ms: now };
            store(transaction, worker, &stored)?;
            Ok(stored)
        })
    }

    /// Takes a variant of a rule back: its units get the control, until the rule is switched on again.
    ///
    /// # Errors
    /// Fails when the worker has no such rule.
    pub fn roll_back(
        &self,
        worker: &WorkerRef,
        rule: &str,
        variant: &str,
        why: &str,
    ) -> Result<(), RegistryError> {
        let missing = || RegistryError::NotFound { what: Missing::Rule(rule.to_owned()) };
        self.write(|transaction| {
            workers::ensure_exists(transaction, worker)?;
            let mut stored = load(transaction, worker)?.ok_or_else(missing)?;
            let taken = stored.overlay.rolled_back.entry(rule.to_owned()).or_default();
            // Another node may have been first.
            let (at_ms, why) = (now_ms(), why.to_owned());
            taken.entry(variant.to_owned()).or_insert(RollBack { at_ms, why });
            stored.modified_ms = now_ms();
            store(transaction, worker, &stored)
        })
    }

    /// Switches one rule of a worker on or off. It stays so when the rules are replaced. Switched on, it also gives
    /// variants again that were taken back, and its guardrail begins anew.
    ///
    /// # Errors
    /// Fails when the worker has no such rule.
    pub fn switch_rule(
        &self,
        worker: &WorkerRef,
        rule: &str,
        switch: Switch,
    ) -> Result<StoredRules, RegistryError> {
        let missing = || RegistryError::NotFound { what: Missing::Rule(rule.to_owned()) };
        self.write(|transaction| {
            workers::ensure_exists(transaction, worker)?;
            let mut stored = load(transaction, worker)?.ok_or_else(missing)?;
            stored.compile()?.rule(rule).ok_or_else(missing)?;
            match switch {
                Switch::On => {
                    stored.overlay.switched_off.remove(rule);
                    if stored.overlay.rolled_back.remove(rule).is_some() {
                        stored.overlay.guarded_since_ms.insert(rule.to_owned(), now_ms());
                    }
                }
                Switch::Off => {
                    stored.overlay.switched_off.insert(rule.to_owned());
                }
            }
            stored.modified_ms = now_ms();
            store(transaction, worker, &stored)?;
            Ok(stored)
        })
    }

    /// Removes the worker's rules.
    ///
    /// # Errors
    /// Fails when the worker does not exist.
    pub fn delete_rules(&self, worker: &WorkerRef) -> Result<(), RegistryError> {
        self.write(|transaction| {
            workers::ensure_exists(transaction, worker)?;
            transaction.execute(
                "DELETE FROM rules WHERE account = ?1 AND worker = ?2",
                params![worker.account.as_str(), worker.worker.as_str()],
            )?;
            Ok(())
        })
    }
}

fn invalid(error: atoll_router::rules::RulesError) -> RegistryError {
    RegistryError::Invalid(format!("the rules cannot be used: {error}"))
}

fn load(view: &Transaction<'_>, worker: &WorkerRef) -> Result<Option<StoredRules>, RegistryError> {
    let row = view
        .prepare_cached(
            "SELECT document, overlay, modified_ms FROM rules WHERE account = ?1 AND worker = ?2",
        )?
        .query_row(params![worker.account.as_str(), worker.worker.as_str()], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get(2)?))
        })
        .optional()?;
    row.map(|(document, overlay, modified_ms)| {
        Ok(StoredRules {
            document: from_json("a worker's rules", &document)?,
            overlay: from_json("what belongs to a worker's rules", &overlay)?,
            modified_ms: from_sql(modified_ms),
        })
    })
    .transpose()
}

fn store(
    transaction: &Transaction<'_>,
    worker: &WorkerRef,
    stored: &StoredRules,
) -> Result<(), RegistryError> {
    let versions = versions(&stored.compile()?);
    for version in &versions {
        let known: bool = transaction.query_row(
            "SELECT EXISTS (SELECT 1 FROM version WHERE id = ?1 AND account = ?2 AND worker = ?3)",
            params![version, worker.account.as_str(), worker.worker.as_str()],
            |row| row.get(0),
        )?;
        if !known {
            return Err(RegistryError::NotFound { what: Missing::Version(version.clone()) });
        }
    }
    transaction.execute(
        "INSERT INTO rules (account, worker, document, overlay, versions, modified_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (account, worker) DO UPDATE SET document = excluded.document,
             overlay = excluded.overlay, versions = excluded.versions, modified_ms = excluded.modified_ms",
        params![
            worker.account.as_str(),
            worker.worker.as_str(),
            to_json(&stored.document),
            to_json(&stored.overlay),
            to_json(&versions),
            to_sql(stored.modified_ms)
        ],
    )?;
    Ok(())
}

/// The versions that rules send requests to.
fn versions(set: &RuleSet) -> Vec<String> {
    let variants = set.rules().iter().flat_map(|rule| rule.variants());
    let mut versions: Vec<String> = variants
        .filter_map(|variant| match variant.picked() {
            Some(Picked::Version(version)) => Some(version.to_string()),
            _ => None,
        })
        .collect();
    versions.sort_unstable();
    versions.dedup();
    versions
}
