//! How a node becomes one of its cluster: it takes over the registry, shows that it has the cluster's key, and
//! gets a token for its own commands. The first node begins the cluster.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_kv::log::LogEngine;
use rusqlite::{Connection, OpenFlags, Transaction, params};
use tokio::runtime::Handle;

use super::super::accounts::{self, FIRST_ACCOUNT};
use super::super::database::Database;
use super::super::key::{KEY_FILE, NodeKey};
use super::super::tokens::{self, NewToken, Scope};
use super::super::{AccountId, DATABASE_FILE, Inner, Registry, RegistryError, create_private_dir};
use super::found::{self, Foundation};
use super::{CLUSTER_DIR, Replica, cluster, database_path, position};

/// The pause between tries to take over the registry at the very first start.
const JOIN_PAUSE: Duration = Duration::from_millis(250);

/// What a process holds while it has a node's registry open.
const LOCK_FILE: &str = "lock";
/// How long another process may take to let it go.
const LOCK_MAX: Duration = Duration::from_secs(3);

/// How a node joins, and how it keeps up.
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// What the node is called: unlike any other of its cluster.
    pub name: String,
    /// The key of the cluster's secrets; `node.key` in the data directory when absent.
    pub key_file: Option<PathBuf>,
    /// How long the very first start waits for the log.
    pub join_timeout: Duration,
    /// How long a change may take in the log.
    pub append_timeout: Duration,
    /// How often the log is asked whether everything is here.
    pub check_interval: Duration,
    /// Records between copies of the registry.
    pub copy_records: u64,
}

impl Default for JoinOptions {
    fn default() -> Self {
        Self {
            name: "node".to_owned(),
            key_file: None,
            join_timeout: Duration::from_secs(30),
            append_timeout: Duration::from_secs(5),
            check_interval: Duration::from_secs(5),
            copy_records: 256,
        }
    }
}

impl Registry {
    /// Opens the registry of a cluster's node in `dir`. Only the first start needs the log: it waits for it,
    /// and takes over what the cluster has or begins the cluster. Must run where it may block, on a thread of
    /// `runtime`'s. `foundation` makes what else a cluster needs that begins here.
    ///
    /// # Errors
    /// Fails as `open` does, and when the directory has the registry of a single node, the log cannot be
    /// reached at the first start, or the key is not the cluster's.
    pub(crate) fn join(
        dir: &Path,
        engine: &dyn LogEngine,
        foundation: &dyn Foundation,
        options: JoinOptions,
        runtime: Handle,
    ) -> Result<Self, RegistryError> {
        let cluster_dir = dir.join(CLUSTER_DIR);
        refuse_embedded(dir)?;
        create_private_dir(&cluster_dir)
            .map_err(|source| RegistryError::File { path: cluster_dir, source })?;
        let lock = lock(dir)?;
        let database = Database::open(database_path(dir))?;
        let replica = Replica::open(&database.writer(), engine, options, runtime, lock)?;
        if database
            .read(|view| Ok(position(view)?.identity.is_none() || cluster(view)?.is_none()))?
        {
            let first = FirstStart { dir, database: &database, engine, foundation };
            replica.take_over(&first)?;
        }
        let key_path = replica.options.key_file.clone().unwrap_or_else(|| dir.join(KEY_FILE));
        let key = match database.read(|view| cluster(view))? {
            None => NodeKey::open_file(&key_path)?,
            Some((_, check)) => {
                let key = key_path.exists().then(|| NodeKey::open_file(&key_path)).transpose()?;
                key.filter(|key| key.check() == check).ok_or_else(|| wrong_key(&key_path))?
            }
        };
        let inner = Arc::new(Inner::new(dir, database, key, Some(replica))?);
        // It is set once.
        let _ = inner.this.set(Arc::downgrade(&inner));
        let registry = Self { inner };
        if let Some(replica) = &registry.inner.replica {
            replica.follow(&registry.inner);
        }
        registry.settle_in(&key_path)?;
        Ok(registry)
    }

    /// Begins the cluster if nobody has, and sees to it that this node's own token is valid.
    fn settle_in(&self, key_path: &Path) -> Result<(), RegistryError> {
        let Some(replica) = &self.inner.replica else { return Ok(()) };
        let token = self.own_token()?;
        let is_known = self.authenticate(&token.text)?.is_some();
        if is_known && self.read(|view| cluster(view))?.is_some() {
            return Ok(());
        }
        let name = format!("root of {}", replica.options.name);
        replica.write(&self.inner, |transaction| {
            let account = match cluster(transaction)? {
                Some((_, check)) if check == self.inner.key.check() => oldest(transaction)?,
                Some(_) => return Err(wrong_key(key_path)),
                None => {
                    transaction.execute(
                        "INSERT INTO cluster (one, id, key_check) VALUES (1, ?1, ?2)",
                        params![found::id(&self.inner.dir)?, self.inner.key.check()],
                    )?;
                    accounts::insert(transaction, FIRST_ACCOUNT, Some(FIRST_ACCOUNT))?.id
                }
            };
            // A node that lost its directory and comes back by its name leaves no token behind.
            transaction.execute(
                "DELETE FROM token WHERE account = ?1 AND (name = ?2 OR id = ?3)",
                params![account.as_str(), name, token.id],
            )?;
            tokens::insert(transaction, &account, &name, &token, &Scope::ALL)
        })
    }

    /// The cluster's id, where the node belongs to one.
    pub(crate) fn cluster_id(&self) -> Result<Option<String>, RegistryError> {
        match &self.inner.replica {
            Some(_) => Ok(self.read(|view| cluster(view))?.map(|(id, _)| id)),
            None => Ok(None),
        }
    }

    pub(in super::super) fn own_token(&self) -> Result<NewToken, RegistryError> {
        accounts::root_token(&self.inner.dir)
    }
}

/// What a first start works with.
struct FirstStart<'a> {
    dir: &'a Path,
    database: &'a Database,
    engine: &'a dyn LogEngine,
    foundation: &'a dyn Foundation,
}

impl Replica {
    /// Takes over what the cluster has, which is nothing where this node begins it.
    fn take_over(&self, first: &FirstStart<'_>) -> Result<(), RegistryError> {
        let FirstStart { dir, database, engine, foundation } = *first;
        let deadline = Instant::now() + self.options.join_timeout;
        loop {
            let taken = found::take_over(dir, database, self, engine, foundation);
            match self.runtime.block_on(taken) {
                Ok(applied) => {
                    self.note_applied(applied);
                    return Ok(());
                }
                Err(error) if error.is_final() => {
                    return Err(RegistryError::Join(error.to_string()));
                }
                Err(error) if Instant::now() >= deadline => {
                    return Err(RegistryError::Join(format!(
                        "{error}: the very first start of a node needs NATS, later ones do not"
                    )));
                }
                // Mostly another node is at it; if not, the deadline says so.
                Err(error) if error.is_not_laid() => {
                    tracing::debug!(%error, "waiting for the cluster to begin");
                }
                Err(error) => tracing::info!(%error, "waiting for the cluster's log"),
            }
            std::thread::sleep(JOIN_PAUSE);
        }
    }
}

/// Keeps other processes away: two followers of one file would each miss what the other applied.
fn lock(dir: &Path) -> Result<File, RegistryError> {
    let path = dir.join(CLUSTER_DIR).join(LOCK_FILE);
    let failed = |source| RegistryError::File { path: path.clone(), source };
    let file = File::create(&path).map_err(failed)?;
    let deadline = Instant::now() + LOCK_MAX;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // A process that ends may be about to let it go.
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(JOIN_PAUSE);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(RegistryError::Join(format!(
                    "{} is in use by another process: stop it first",
                    dir.display()
                )));
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
}

/// Refuses to run a cluster's node alone: what it would write is nobody else's.
pub(in super::super) fn refuse_cluster(dir: &Path) -> Result<(), RegistryError> {
    match database_path(dir).exists() {
        true => Err(RegistryError::Invalid(format!(
            "{} belongs to a node of a cluster: start it with --nats, or take another data directory",
            dir.display()
        ))),
        false => Ok(()),
    }
}

/// Refuses to hide what a single node has.
fn refuse_embedded(dir: &Path) -> Result<(), RegistryError> {
    let path = dir.join(DATABASE_FILE);
    if !path.exists() {
        return Ok(());
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let embedded = Connection::open_with_flags(&path, flags)?;
    let empty = embedded
        .query_row("SELECT NOT EXISTS (SELECT 1 FROM account)", [], |row| row.get::<_, bool>(0));
    match empty {
        Ok(true) => Ok(()),
        _ => Err(RegistryError::Join(format!(
            "{} holds the state of a single node: move it into an empty data directory with `atoll \
             export` and `atoll import`",
            dir.display()
        ))),
    }
}

fn wrong_key(path: &Path) -> RegistryError {
    RegistryError::Join(format!(
        "{} is not there or is another key than the cluster's secrets are sealed with: copy node.key from the \
         data directory of the first node to it, or name the key's file in [cluster] key_file",
        path.display()
    ))
}

fn oldest(transaction: &Transaction<'_>) -> Result<AccountId, RegistryError> {
    let id: String = transaction.query_row(
        "SELECT id FROM account ORDER BY created_ms, id LIMIT 1",
        [],
        |row| row.get(0),
    )?;
    Ok(AccountId::new(id))
}
