//! The registry: what is deployed where, stored in SQLite and read as whole snapshots. Its methods
//! block on the disk: async callers run them on a blocking thread. It decides no HTTP status and
//! runs no code.

mod accounts;
mod acme;
mod archive;
mod certificates;
mod database;
mod deployments;
mod difference;
mod error;
mod key;
mod model;
mod namespaces;
mod pools;
pub(crate) mod private_file;
mod regions;
mod replica;
mod routes;
mod rules;
mod schedules;
mod section;
mod snapshot;
#[cfg(test)]
mod tests;
mod tls_keys;
mod tokens;
mod touched;
mod versions;
mod worker_document;
mod workers;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use moka::sync::Cache;
use rusqlite::Transaction;
use tokio::sync::watch;

pub use accounts::Account;
pub(crate) use accounts::ROOT_TOKEN_FILE;
pub(crate) use acme::{AcmeCertificate, AcmeIssued};
pub(crate) use archive::ArchivedRow;
pub use certificates::Certificate;
pub(crate) use certificates::Pem;
pub use difference::Difference;
pub use error::{Missing, RegistryError, Taken};
pub use model::*;
pub use namespaces::{Namespace, NamespaceOrder, NamespacePage};
#[cfg(test)]
pub(crate) use replica::NoFoundation;
pub(crate) use replica::{CLUSTER_DIR, Foundation, NotLaid};
pub use replica::{JoinOptions, ReplicaStatus};
pub use routes::HostPattern;
pub use rules::{StoredRules, Switch};
pub use schedules::StoredSchedule;
pub use section::{Owned, Owner, Section};
#[cfg(test)]
pub(crate) use tests::version as test_version;
pub use tokens::{NewToken, Scope, Token};
pub use versions::Deploy;
pub use workers::{SubdomainSettings, Worker};

pub(crate) use crate::report::now_ms;

use database::Database;
use key::NodeKey;
use replica::Replica;

const DATABASE_FILE: &str = "registry.sqlite";
/// Modules of recently used versions kept in memory.
const VERSION_CACHE_BYTES_MAX: u64 = 64 << 20;

/// The store of accounts, workers, versions, deployments and routes of one node.
///
/// Cloning is cheap and shares the store.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    database: Database,
    key: NodeKey,
    versions: Cache<VersionId, Arc<Version>>,
    published: watch::Sender<Arc<Snapshot>>,
    /// What makes it one of many, when the node belongs to a cluster.
    replica: Option<Replica>,
    /// This, for tasks that a change leads to; set in a cluster.
    this: OnceLock<Weak<Inner>>,
}

impl Registry {
    /// Opens the registry in `dir`, creating both when they are missing.
    ///
    /// # Errors
    /// Fails when the directory cannot be written, belongs to a cluster's node, or was written by a newer
    /// release.
    pub fn open(dir: &Path) -> Result<Self, RegistryError> {
        create_private_dir(dir)
            .map_err(|source| RegistryError::File { path: dir.to_owned(), source })?;
        replica::refuse_cluster(dir)?;
        let database = Database::open(dir.join(DATABASE_FILE))?;
        let key = NodeKey::open(dir)?;
        let inner = Inner::new(dir, database, key, None)?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The current state, whole.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.inner.published.borrow().clone()
    }

    /// Follows the state: the receiver sees the newest snapshot after every change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.inner.published.subscribe()
    }

    /// Makes one change durable, then publishes the snapshot that it leads to. The change is made anew where
    /// another node's came first.
    fn write<T>(
        &self,
        change: impl Fn(&Transaction<'_>) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        if let Some(replica) = &self.inner.replica {
            return replica.write(&self.inner, change);
        }
        self.inner.database.write(
            |transaction| {
                let value = change(transaction)?;
                transaction.execute("UPDATE node SET revision = revision + 1", [])?;
                Ok((value, snapshot::next(transaction, &self.snapshot())?))
            },
            |(value, snapshot)| {
                self.inner.published.send_replace(Arc::new(snapshot));
                value
            },
        )
    }

    fn read<T>(
        &self,
        query: impl FnOnce(&Transaction<'_>) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        self.inner.database.read(query)
    }
}

impl Inner {
    fn new(
        dir: &Path,
        database: Database,
        key: NodeKey,
        replica: Option<Replica>,
    ) -> Result<Self, RegistryError> {
        let snapshot = database.read(snapshot::build)?;
        let versions = Cache::builder()
            .max_capacity(VERSION_CACHE_BYTES_MAX)
            .weigher(|_, version: &Arc<Version>| version.weight())
            .build();
        let published = watch::Sender::new(Arc::new(snapshot));
        Ok(Self {
            dir: dir.to_owned(),
            database,
            key,
            versions,
            published,
            replica,
            this: OnceLock::new(),
        })
    }
}

/// Makes the key that the nodes of a cluster share, unless it is there.
pub(crate) fn make_key(path: &Path) -> Result<(), RegistryError> {
    NodeKey::open_file(path).map(drop)
}

fn create_private_dir(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// An unguessable id: 32 lower-case hexadecimal digits.
pub(crate) fn random_hex_id() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

fn from_json<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T, RegistryError> {
    serde_json::from_str(text).map_err(|_| RegistryError::Corrupt { what: what.to_owned() })
}

fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("the registry's types have string keys and no failing impl")
}
