//! All that the registry holds, on its way out into a file and back in.

use bytes::Bytes;
use rusqlite::{OptionalExtension, Transaction, params, params_from_iter};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::database::SCHEMA;
use super::replica::{TABLES, Value};
use super::{NamespaceId, Registry, RegistryError};

/// Tables that belong to a node or a cluster, not to what is deployed there.
const STAYING: [&str; 2] = ["node", "cluster"];

/// One row of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ArchivedRow {
    table: String,
    columns: Vec<String>,
    values: Vec<Value>,
}

/// A token as it is stored: id, name, hash, scopes, and when it was made.
type TokenRow = (String, String, Vec<u8>, String, i64);

fn tables() -> impl DoubleEndedIterator<Item = &'static str> {
    TABLES.into_iter().filter(|table| !STAYING.contains(table))
}

impl Registry {
    /// The schema that this release reads and writes.
    pub(crate) const SCHEMA: i64 = SCHEMA;

    /// What tells the key of secrets from another, without telling the key.
    pub(crate) fn key_check(&self) -> String {
        hex::encode(self.inner.key.check())
    }

    /// Every namespace of every account.
    pub(crate) fn all_namespaces(&self) -> Result<Vec<NamespaceId>, RegistryError> {
        self.read(|view| {
            let mut statement = view.prepare("SELECT id FROM namespace ORDER BY id")?;
            let ids = statement.query_map([], |row| row.get::<_, String>(0))?;
            let corrupt = || RegistryError::Corrupt { what: "a namespace's id".to_owned() };
            ids.map(|id| NamespaceId::parse(&id?).map_err(|_| corrupt())).collect()
        })
    }

    /// Hands out every row and then every module, of one moment.
    pub(crate) fn export(
        &self,
        mut each: impl FnMut(Result<ArchivedRow, &[u8]>),
    ) -> Result<(), RegistryError> {
        self.read(|view| {
            for table in tables() {
                let mut statement = view.prepare(&format!("SELECT * FROM {table}"))?;
                let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
                let mut found = statement.query([])?;
                while let Some(row) = found.next()? {
                    let values = (0..columns.len()).map(|column| Value::read(row.get_ref(column)?));
                    let values = values.collect::<Result<_, RegistryError>>()?;
                    each(Ok(ArchivedRow {
                        table: table.to_owned(),
                        columns: columns.clone(),
                        values,
                    }));
                }
            }
            let mut statement = view.prepare("SELECT bytes FROM blob ORDER BY sha256")?;
            let mut found = statement.query([])?;
            while let Some(row) = found.next()? {
                each(Err(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?));
            }
            Ok(())
        })
    }

    /// Puts rows and modules into a registry in which nothing was deployed. Its own tokens stay, and open the
    /// oldest account of those that come.
    pub(crate) fn import(
        &self,
        rows: &[ArchivedRow],
        modules: &[Bytes],
    ) -> Result<(), RegistryError> {
        if let Some(replica) = &self.inner.replica {
            replica.upload(modules.iter().cloned())?;
        }
        self.write(|transaction| {
            ensure_empty(transaction)?;
            transaction.execute_batch("PRAGMA defer_foreign_keys = ON")?;
            let tokens = own_tokens(transaction)?;
            for table in tables().rev() {
                transaction.execute(&format!("DELETE FROM {table}"), [])?;
            }
            for module in modules {
                let sha256: [u8; 32] = Sha256::digest(module).into();
                transaction.execute(
                    "INSERT INTO blob (sha256, bytes) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                    params![sha256, &module[..]],
                )?;
            }
            rows.iter().try_for_each(|row| insert(transaction, row))?;
            keep_tokens(transaction, &tokens)
        })
    }
}

fn ensure_empty(view: &Transaction<'_>) -> Result<(), RegistryError> {
    let used = "SELECT EXISTS (SELECT 1 FROM worker) OR EXISTS (SELECT 1 FROM namespace)";
    match view.query_row(used, [], |row| row.get(0))? {
        true => Err(RegistryError::Invalid(
            "there are workers or namespaces here already: import into an empty data directory"
                .to_owned(),
        )),
        false => Ok(()),
    }
}

fn own_tokens(view: &Transaction<'_>) -> Result<Vec<TokenRow>, RegistryError> {
    let mut statement = view.prepare("SELECT id, name, sha256, scopes, created_ms FROM token")?;
    let rows = statement.query_map([], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn keep_tokens(transaction: &Transaction<'_>, tokens: &[TokenRow]) -> Result<(), RegistryError> {
    let oldest = "SELECT id FROM account ORDER BY created_ms, id LIMIT 1";
    let account: Option<String> = transaction.query_row(oldest, [], |row| row.get(0)).optional()?;
    let Some(account) = account else {
        return Err(RegistryError::Invalid("the export holds no account".to_owned()));
    };
    for (id, name, sha256, scopes, created_ms) in tokens {
        transaction.execute(
            "INSERT INTO token (id, account, name, sha256, scopes, created_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
            params![id, account, name, sha256, scopes, created_ms],
        )?;
    }
    Ok(())
}

/// The names of an export's tables and columns are believed only where there are such.
fn insert(transaction: &Transaction<'_>, row: &ArchivedRow) -> Result<(), RegistryError> {
    let unknown = || RegistryError::Invalid(format!("the export has a table {:?}", row.table));
    let table = tables().find(|table| *table == row.table).ok_or_else(unknown)?;
    let mut known = transaction
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2)")?;
    for column in &row.columns {
        if !known.query_row([table, column.as_str()], |row| row.get(0))? {
            return Err(unknown());
        }
    }
    if row.columns.len() != row.values.len() {
        return Err(unknown());
    }
    let columns: Vec<_> = row.columns.iter().map(|column| format!("\"{column}\"")).collect();
    let places: Vec<_> = (1..=columns.len()).map(|n| format!("?{n}")).collect();
    transaction
        .prepare_cached(&format!(
            "INSERT INTO {table} ({}) VALUES ({})",
            columns.join(", "),
            places.join(", ")
        ))?
        .execute(params_from_iter(&row.values))?;
    Ok(())
}
