//! Rows that a transaction changes: recorded by triggers on this node, written again on the others.
//!
//! SQLite's session extension does the same, but its bindings need libclang at build time; and a log that
//! is written by comparing and setting leaves no conflicts for a changeset to find.

use atoll_kv::log::BlobHash;
use rusqlite::{Connection, Transaction, params_from_iter};

use super::super::RegistryError;
use super::record::{Row, RowKind, Value};

/// Every replicated table, parents before their children. `blob` is not among them: modules are fetched by
/// their hash.
pub(in super::super) const TABLES: [&str; 16] = [
    "node",
    "cluster",
    "account",
    "token",
    "certificate",
    "worker",
    "version",
    "module",
    "deployment",
    "route",
    "schedule",
    "rules",
    "namespace",
    "acme_account",
    "acme_certificate",
    "acme_challenge",
];
/// Columns that a replicated table may have.
const COLUMNS_MAX: usize = 16;
/// The table of modules, and its column that names a blob.
const MODULES: (&str, &str) = ("module", "sha256");

/// What is known of the replicated tables.
#[derive(Debug)]
pub(super) struct Tables(Vec<Table>);

#[derive(Debug)]
struct Table {
    name: &'static str,
    columns: Vec<String>,
    /// The primary key's columns.
    key: Vec<String>,
}

impl Tables {
    /// Reads how the tables look.
    pub(super) fn read(connection: &Connection) -> Result<Self, RegistryError> {
        let table = |name: &&'static str| {
            let mut statement =
                connection.prepare("SELECT name, pk FROM pragma_table_info(?1) ORDER BY cid")?;
            let rows = statement
                .query_map([name], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
            let rows = rows.collect::<Result<Vec<_>, _>>()?;
            let mut key: Vec<_> = rows.iter().filter(|(_, place)| *place > 0).collect();
            key.sort_by_key(|(_, place)| *place);
            let key = key.into_iter().map(|(column, _)| column.clone()).collect();
            let columns: Vec<_> = rows.into_iter().map(|(column, _)| column).collect();
            assert!(columns.len() <= COLUMNS_MAX, "rows of {name} must fit among changes");
            Ok(Table { name, columns, key })
        };
        TABLES.iter().map(table).collect::<Result<_, RegistryError>>().map(Self)
    }

    /// Makes the connection record what its transactions change.
    pub(super) fn watch(&self, connection: &Connection) -> Result<(), RegistryError> {
        let columns: Vec<_> = (0..COLUMNS_MAX).map(|column| format!("c{column}")).collect();
        connection.execute_batch(&format!(
            "CREATE TEMP TABLE change (place INTEGER PRIMARY KEY, tbl, gone, count, {});",
            columns.join(", ")
        ))?;
        for table in &self.0 {
            connection.execute_batch(&table.triggers())?;
        }
        connection.execute_batch(
            "CREATE TEMP TRIGGER blob_inserted AFTER INSERT ON main.blob BEGIN
                 INSERT INTO change (tbl, gone, count, c0) VALUES ('blob', 0, 1, NEW.sha256); END;",
        )?;
        Ok(())
    }

    /// Writes rows as another node did.
    pub(super) fn apply(
        &self,
        transaction: &Transaction<'_>,
        rows: &[Row],
    ) -> Result<(), RegistryError> {
        // Rows come in the order of triggers, which need not be that of references.
        transaction.execute_batch("PRAGMA defer_foreign_keys = ON")?;
        for row in rows {
            let Some(table) = self.0.iter().find(|table| table.name == row.table) else {
                return Err(RegistryError::Replica(format!(
                    "the log has a table {} that this release does not know: run the release that the other nodes run",
                    row.table
                )));
            };
            let sql = table.statement(row)?;
            transaction.prepare_cached(&sql)?.execute(params_from_iter(&row.values))?;
        }
        Ok(())
    }

    /// The blobs that rows refer to.
    pub(super) fn blobs(&self, rows: &[Row]) -> Vec<BlobHash> {
        let modules = self.0.iter().find(|table| table.name == MODULES.0);
        let place = modules.and_then(|table| table.columns.iter().position(|c| c == MODULES.1));
        let Some(place) = place else { return Vec::new() };
        let named = |row: &Row| match row.values.get(place) {
            Some(Value::Blob(hash)) if row.table == MODULES.0 && row.kind == RowKind::Put => {
                BlobHash::from_slice(hash)
            }
            _ => None,
        };
        let mut hashes: Vec<_> = rows.iter().filter_map(named).collect();
        hashes.sort_unstable();
        hashes.dedup();
        hashes
    }
}

/// What a transaction has changed.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) rows: Vec<Row>,
    /// Blobs that the registry did not have before.
    pub(super) new_blobs: Vec<Vec<u8>>,
}

/// Takes what the transaction has changed so far.
pub(super) fn take(transaction: &Transaction<'_>) -> Result<Taken, RegistryError> {
    let mut taken = Taken::default();
    {
        let mut statement =
            transaction.prepare_cached("SELECT * FROM temp.change ORDER BY place")?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let table: String = row.get("tbl")?;
            if table == "blob" {
                taken.new_blobs.push(row.get("c0")?);
                continue;
            }
            let count: u32 = row.get("count")?;
            let values = (0..count as usize).map(|column| Value::read(row.get_ref(4 + column)?));
            taken.rows.push(Row {
                table,
                kind: if row.get("gone")? { RowKind::Delete } else { RowKind::Put },
                values: values.collect::<Result<_, _>>()?,
            });
        }
    }
    forget(transaction)?;
    Ok(taken)
}

/// Forgets what the transaction has changed so far.
pub(super) fn forget(transaction: &Transaction<'_>) -> Result<(), RegistryError> {
    transaction.execute("DELETE FROM temp.change", [])?;
    Ok(())
}

impl Table {
    fn triggers(&self) -> String {
        let Self { name, columns, key } = self;
        let record = |gone: u8, row: &str, of: &[String]| {
            let into: Vec<_> = (0..of.len()).map(|column| format!("c{column}")).collect();
            let values: Vec<_> = of.iter().map(|column| format!("{row}.\"{column}\"")).collect();
            format!(
                "INSERT INTO change (tbl, gone, count, {}) SELECT '{name}', {gone}, {}, {}",
                into.join(", "),
                of.len(),
                values.join(", ")
            )
        };
        let moved: Vec<_> =
            key.iter().map(|column| format!("OLD.\"{column}\" IS NOT NEW.\"{column}\"")).collect();
        format!(
            "CREATE TEMP TRIGGER {name}_inserted AFTER INSERT ON main.{name} BEGIN {put}; END;
             CREATE TEMP TRIGGER {name}_updated AFTER UPDATE ON main.{name} BEGIN
                 {gone} WHERE {moved}; {put}; END;
             CREATE TEMP TRIGGER {name}_deleted AFTER DELETE ON main.{name} BEGIN {gone}; END;",
            put = record(0, "NEW", columns),
            gone = record(1, "OLD", key),
            moved = moved.join(" OR "),
        )
    }

    /// A row of an older release has fewer columns: the others take their defaults.
    fn statement(&self, row: &Row) -> Result<String, RegistryError> {
        let count = row.values.len();
        let fits = match row.kind {
            RowKind::Put => (1..=self.columns.len()).contains(&count),
            RowKind::Delete => count == self.key.len(),
        };
        if !fits {
            return Err(RegistryError::Replica(format!(
                "the log has a row of {} with {count} values: run the release that the other nodes run",
                self.name
            )));
        }
        let quoted = |columns: &[String]| -> Vec<String> {
            columns.iter().map(|column| format!("\"{column}\"")).collect()
        };
        let key = quoted(&self.key);
        if row.kind == RowKind::Delete {
            let same = key.iter().enumerate().map(|(n, column)| format!("{column} = ?{}", n + 1));
            let same: Vec<_> = same.collect();
            return Ok(format!("DELETE FROM main.{} WHERE {}", self.name, same.join(" AND ")));
        }
        let columns = quoted(&self.columns[..count]);
        let values: Vec<_> = (1..=count).map(|n| format!("?{n}")).collect();
        let set: Vec<_> =
            columns.iter().map(|column| format!("{column} = excluded.{column}")).collect();
        Ok(format!(
            "INSERT INTO main.{} ({}) VALUES ({}) ON CONFLICT ({}) DO UPDATE SET {}",
            self.name,
            columns.join(", "),
            values.join(", "),
            key.join(", "),
            set.join(", ")
        ))
    }
}
