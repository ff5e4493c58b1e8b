//! Versions: immutable scripts with their bindings. Equal modules are stored once; secrets are
//! sealed with the node's key.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::database::{from_sql, to_sql};
use super::{
    AccountId, Binding, Missing, Module, ModuleKind, Registry, RegistryError, ScriptFormat,
    Version, VersionId, VersionLimits, WorkerName, WorkerRef, deployments, from_json, now_ms,
    to_json, workers,
};

/// Newest versions of a worker that are kept, besides those that a kept deployment or a rule names.
const VERSIONS_KEPT_MAX: u64 = 100;

/// What happens to a version once it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deploy {
    /// It serves every request of its worker, which is made if it does not exist.
    Now,
    /// It waits for a deployment. The worker must exist.
    Later,
}

impl VersionId {
    /// An id for a new version.
    pub fn random() -> Self {
        Self::new(Uuid::new_v4().to_string())
    }
}

impl Version {
    /// SHA-256 over the modules' names, kinds and contents, in hexadecimal.
    pub fn hash_modules(modules: &[Module]) -> String {
        let mut hash = Sha256::new();
        for module in modules {
            for part in [module.name.as_bytes(), to_json(&module.kind).as_bytes(), &module.bytes] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        hex::encode(hash.finalize())
    }
}

impl Registry {
    /// One version with its modules and the values of its secrets.
    ///
    /// # Errors
    /// Fails when the database does, or the node's key is not the one that sealed the secrets.
    pub fn version(&self, id: &VersionId) -> Result<Option<Arc<Version>>, RegistryError> {
        if let Some(version) = self.inner.versions.get(id) {
            return Ok(Some(version));
        }
        let Some(mut version) = self.read(|view| self.load(view, id))? else { return Ok(None) };
        version.modules.shrink_to_fit();
        let version = Arc::new(version);
        self.inner.versions.insert(id.clone(), version.clone());
        Ok(Some(version))
    }

    /// The worker's versions, newest first, without modules and secrets' values.
    ///
    /// # Errors
    /// Fails when the worker does not exist.
    pub fn versions(&self, worker: &WorkerRef) -> Result<Vec<Version>, RegistryError> {
        self.read(|view| outlines(view, worker, None))
    }

    /// The worker's newest version without modules and secrets' values.
    ///
    /// # Errors
    /// Fails when the worker does not exist.
    pub fn latest_outline(&self, worker: &WorkerRef) -> Result<Option<Version>, RegistryError> {
        Ok(self.read(|view| outlines(view, worker, Some(1)))?.pop())
    }

    /// The worker's newest version, deployed or not. Nothing when the worker does not exist.
    ///
    /// # Errors
    /// Fails as `version` does.
    pub fn latest_version(
        &self,
        worker: &WorkerRef,
    ) -> Result<Option<Arc<Version>>, RegistryError> {
        match self.read(|view| latest_id(view, worker))? {
            Some(id) => self.version(&id),
            None => Ok(None),
        }
    }

    /// Stores a version under the worker's next number; the number that it carries is ignored.
    ///
    /// # Errors
    /// Fails when the worker's name is unfit, the account has too many workers, or the worker does
    /// not exist and nothing is deployed.
    pub fn add_version(
        &self,
        version: Version,
        deploy: Deploy,
    ) -> Result<Arc<Version>, RegistryError> {
        if let Some(replica) = &self.inner.replica {
            // Large modules are on their way before anybody has to wait for them.
            replica.upload(version.modules.iter().map(|module| module.bytes.clone()))?;
        }
        let version =
            self.write(|transaction| self.insert(transaction, version.clone(), deploy))?;
        let version = Arc::new(version);
        self.inner.versions.insert(version.id.clone(), version.clone());
        Ok(version)
    }

    /// Deploys a copy of the worker's latest version that `edit` has changed: its bindings and
    /// settings, not its modules.
    ///
    /// # Errors
    /// Fails when the worker does not exist, its latest version is not deployed, or `edit` fails.
    pub fn revise(
        &self,
        worker: &WorkerRef,
        edit: impl Fn(&mut Version) -> Result<(), RegistryError>,
    ) -> Result<Arc<Version>, RegistryError> {
        let version = self.write(|transaction| {
            let missing =
                || RegistryError::NotFound { what: Missing::Worker(worker.worker.to_string()) };
            let id = latest_id(transaction, worker)?.ok_or_else(missing)?;
            if !deployments::is_serving(transaction, worker, &id)? {
                return Err(RegistryError::LatestNotDeployed);
            }
            let mut version = self.load(transaction, &id)?.ok_or_else(missing)?;
            version.id = VersionId::random();
            version.created_ms = now_ms();
            version.annotations.clear();
            edit(&mut version)?;
            self.insert(transaction, version, Deploy::Now)
        })?;
        let version = Arc::new(version);
        self.inner.versions.insert(version.id.clone(), version.clone());
        Ok(version)
    }

    fn insert(
        &self,
        transaction: &Transaction<'_>,
        mut version: Version,
        deploy: Deploy,
    ) -> Result<Version, RegistryError> {
        let worker = &version.worker;
        match deploy {
            Deploy::Now => workers::upsert(transaction, worker)?,
            Deploy::Later => workers::ensure_exists(transaction, worker)?,
        }
        let last: i64 = transaction.query_row(
            "SELECT coalesce(max(number), 0) FROM version WHERE account = ?1 AND worker = ?2",
            params![worker.account.as_str(), worker.worker.as_str()],
            |row| row.get(0),
        )?;
        version.number = from_sql(last) + 1;
        transaction.execute(
            "INSERT INTO version (id, account, worker, number, meta, secrets)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                version.id.as_str(),
                version.worker.account.as_str(),
                version.worker.worker.as_str(),
                to_sql(version.number),
                to_json(&Meta::of(&version)),
                self.seal_secrets(&version)
            ],
        )?;
        insert_modules(transaction, &version)?;
        if deploy == Deploy::Now {
            let all = vec![(version.id.clone(), 100.0)];
            let annotations = version.annotations.clone();
            deployments::insert(transaction, &version.worker, all, annotations)?;
        }
        prune(transaction, &version)?;
        Ok(version)
    }

    fn load(
        &self,
        view: &Transaction<'_>,
        id: &VersionId,
    ) -> Result<Option<Version>, RegistryError> {
        let stored = view
            .prepare_cached("SELECT * FROM version WHERE id = ?1")?
            .query_row([id.as_str()], Stored::from_row)
            .optional()?;
        let Some(mut stored) = stored else { return Ok(None) };
        let sealed = stored.secrets.take();
        let mut version = stored.parse()?;
        if let Some(sealed) = sealed {
            self.open_secrets(&mut version, &sealed)?;
        }
        version.modules = load_modules(view, id)?;
        Ok(Some(version))
    }

    fn seal_secrets(&self, version: &Version) -> Option<Vec<u8>> {
        let secrets: BTreeMap<&str, &str> = version
            .bindings
            .iter()
            .filter_map(|binding| match binding {
                Binding::SecretText { name, text } => Some((name.as_str(), text.as_str())),
                _ => None,
            })
            .collect();
        (!secrets.is_empty())
            .then(|| self.inner.key.seal(version.id.as_str(), to_json(&secrets).into_bytes()))
    }

    fn open_secrets(&self, version: &mut Version, sealed: &[u8]) -> Result<(), RegistryError> {
        let wrong_key = || RegistryError::WrongKey { version: version.id.to_string() };
        let plain =
            self.inner.key.open_sealed(version.id.as_str(), sealed).map_err(|_| wrong_key())?;
        let mut secrets: BTreeMap<String, String> =
            serde_json::from_slice(&plain).map_err(|_| wrong_key())?;
        for binding in &mut version.bindings {
            if let Binding::SecretText { name, text } = binding {
                *text = secrets.remove(name.as_str()).unwrap_or_default();
            }
        }
        Ok(())
    }
}

/// Versions, newest first, without what only running them needs.
fn outlines(
    view: &Transaction<'_>,
    worker: &WorkerRef,
    count_max: Option<i64>,
) -> Result<Vec<Version>, RegistryError> {
    workers::ensure_exists(view, worker)?;
    let mut statement = view.prepare_cached(
        "SELECT * FROM version WHERE account = ?1 AND worker = ?2
         ORDER BY number DESC LIMIT ?3",
    )?;
    // SQLite takes a negative limit as none.
    let limit = count_max.unwrap_or(-1);
    let rows = statement.query_map(
        params![worker.account.as_str(), worker.worker.as_str(), limit],
        Stored::from_row,
    )?;
    rows.map(|row| row?.parse()).collect()
}

fn latest_id(
    view: &Transaction<'_>,
    worker: &WorkerRef,
) -> Result<Option<VersionId>, RegistryError> {
    let id: Option<String> = view
        .prepare_cached(
            "SELECT id FROM version WHERE account = ?1 AND worker = ?2
             ORDER BY number DESC LIMIT 1",
        )?
        .query_row(params![worker.account.as_str(), worker.worker.as_str()], |row| row.get(0))
        .optional()?;
    Ok(id.map(VersionId::new))
}

/// Deletes module contents that no version has any more.
pub(super) fn delete_unused_blobs(transaction: &Transaction<'_>) -> Result<(), RegistryError> {
    transaction.execute(
        "DELETE FROM blob WHERE NOT EXISTS (SELECT 1 FROM module WHERE sha256 = blob.sha256)",
        [],
    )?;
    Ok(())
}

fn prune(transaction: &Transaction<'_>, newest: &Version) -> Result<(), RegistryError> {
    let deleted = transaction.execute(
        "DELETE FROM version WHERE account = ?1 AND worker = ?2 AND number <= ?3 AND id NOT IN (
             SELECT json_extract(share.value, '$[0]')
             FROM deployment, json_each(deployment.versions) AS share
             WHERE deployment.account = ?1 AND deployment.worker = ?2
             UNION ALL SELECT named.value FROM rules, json_each(rules.versions) AS named
             WHERE rules.account = ?1 AND rules.worker = ?2)",
        params![
            newest.worker.account.as_str(),
            newest.worker.worker.as_str(),
            to_sql(newest.number.saturating_sub(VERSIONS_KEPT_MAX))
        ],
    )?;
    if deleted > 0 { delete_unused_blobs(transaction) } else { Ok(()) }
}

fn insert_modules(transaction: &Transaction<'_>, version: &Version) -> Result<(), RegistryError> {
    let mut blob = transaction.prepare_cached(
        "INSERT INTO blob (sha256, bytes) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
    )?;
    let mut row = transaction.prepare_cached(
        "INSERT INTO module (version, position, name, kind, sha256) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for (position, module) in version.modules.iter().enumerate() {
        let sha256: [u8; 32] = Sha256::digest(&module.bytes).into();
        blob.execute(params![sha256, &module.bytes[..]])?;
        row.execute(params![
            version.id.as_str(),
            position as i64,
            module.name,
            to_json(&module.kind),
            sha256
        ])?;
    }
    Ok(())
}

fn load_modules(view: &Transaction<'_>, id: &VersionId) -> Result<Vec<Module>, RegistryError> {
    let mut statement = view.prepare_cached(
        "SELECT name, kind, bytes FROM module JOIN blob USING (sha256)
         WHERE version = ?1 ORDER BY position",
    )?;
    let rows = statement.query_map([id.as_str()], |row| {
        Ok((row.get(0)?, row.get::<_, String>(1)?, row.get::<_, Vec<u8>>(2)?))
    })?;
    rows.map(|row| {
        let (name, kind, bytes) = row?;
        let kind: ModuleKind = from_json("a module's kind", &kind)?;
        Ok(Module { name, kind, bytes: bytes.into() })
    })
    .collect()
}

/// The part of a version that is stored as JSON.
#[derive(Serialize, Deserialize)]
struct Meta {
    created_ms: u64,
    format: ScriptFormat,
    main_module: String,
    bindings: Vec<Binding>,
    compatibility_date: Option<String>,
    compatibility_flags: Vec<String>,
    limits: VersionLimits,
    annotations: BTreeMap<String, String>,
    handlers: Vec<String>,
    content_hash: String,
    startup_ms: u64,
}

impl Meta {
    fn of(version: &Version) -> Self {
        Self {
            created_ms: version.created_ms,
            format: version.format,
            main_module: version.main_module.clone(),
            bindings: version.bindings.iter().map(Binding::without_secret).collect(),
            compatibility_date: version.compatibility_date.clone(),
            compatibility_flags: version.compatibility_flags.clone(),
            limits: version.limits.clone(),
            annotations: version.annotations.clone(),
            handlers: version.handlers.clone(),
            content_hash: version.content_hash.clone(),
            startup_ms: version.startup_ms,
        }
    }
}

/// A row of the table `version`.
struct Stored {
    id: VersionId,
    worker: WorkerRef,
    number: u64,
    meta: String,
    secrets: Option<Vec<u8>>,
}

impl Stored {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: VersionId::new(row.get::<_, String>("id")?),
            worker: WorkerRef {
                account: AccountId::new(row.get::<_, String>("account")?),
                worker: WorkerName::new(row.get::<_, String>("worker")?),
            },
            number: from_sql(row.get("number")?),
            meta: row.get("meta")?,
            secrets: row.get("secrets")?,
        })
    }

    fn parse(self) -> Result<Version, RegistryError> {
        let meta: Meta = from_json("a version", &self.meta)?;
        Ok(Version {
            id: self.id,
            worker: self.worker,
            number: self.number,
            created_ms: meta.created_ms,
            format: meta.format,
            main_module: meta.main_module,
            modules: Vec::new(),
            bindings: meta.bindings,
            compatibility_date: meta.compatibility_date,
            compatibility_flags: meta.compatibility_flags,
            limits: meta.limits,
            annotations: meta.annotations,
            handlers: meta.handlers,
            content_hash: meta.content_hash,
            startup_ms: meta.startup_ms,
        })
    }
}
