//! Whose rows the writing connection has changed since the last snapshot: recorded by triggers, so that nobody who
//! writes has to say so.

use std::collections::BTreeSet;

use rusqlite::{Connection, Transaction};

use super::section::Owner;
use super::{AccountId, RegistryError, WorkerName};

/// The tables that a snapshot is made of, with the columns that say whose a row is. Certificates are everybody's.
const TABLES: [(&str, Option<&str>, Option<&str>); 9] = [
    ("account", Some("id"), None),
    ("worker", Some("account"), Some("name")),
    ("deployment", Some("account"), Some("worker")),
    ("route", Some("account"), Some("worker")),
    ("schedule", Some("account"), Some("worker")),
    ("rules", Some("account"), Some("worker")),
    ("certificate", None, None),
    ("acme_certificate", None, None),
    ("acme_challenge", None, None),
];

/// What was touched.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Touched {
    pub(super) owners: BTreeSet<Owner>,
    pub(super) certificates: bool,
}

/// Makes the connection record whose rows its transactions change.
pub(super) fn watch(connection: &Connection) -> Result<(), RegistryError> {
    connection.execute_batch("CREATE TEMP TABLE touched (account, worker)")?;
    for (table, account, worker) in TABLES {
        let touch = |row: &str| {
            let of = [account, worker].map(|column| match column {
                None => "NULL".to_owned(),
                Some(column) => format!("{row}.{column}"),
            });
            format!("INSERT INTO touched VALUES ({})", of.join(", "))
        };
        let (old, new) = (touch("OLD"), touch("NEW"));
        connection.execute_batch(&format!(
            "CREATE TEMP TRIGGER {table}_appears AFTER INSERT ON main.{table} BEGIN {new}; END;
             CREATE TEMP TRIGGER {table}_changes AFTER UPDATE ON main.{table} BEGIN {old}; {new}; END;
             CREATE TEMP TRIGGER {table}_goes AFTER DELETE ON main.{table} BEGIN {old}; END;",
        ))?;
    }
    Ok(())
}

/// Takes what was touched so far.
pub(super) fn take(transaction: &Transaction<'_>) -> Result<Touched, RegistryError> {
    let mut touched = Touched::default();
    let mut statement =
        transaction.prepare_cached("SELECT DISTINCT account, worker FROM temp.touched")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        match row.get::<_, Option<String>>(0)? {
            None => touched.certificates = true,
            Some(account) => {
                let worker = row.get::<_, Option<String>>(1)?.map(WorkerName::new);
                touched.owners.insert(Owner { account: AccountId::new(account), worker });
            }
        }
    }
    transaction.prepare_cached("DELETE FROM temp.touched")?.execute([])?;
    Ok(touched)
}
