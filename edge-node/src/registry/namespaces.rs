//! KV namespaces: which ids an account owns. The values live in the KV store.

use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::database::to_sql;
use super::{
    AccountId, Missing, NamespaceId, Registry, RegistryError, Taken, now_ms, random_hex_id,
};

const TITLE_BYTES_MAX: usize = 512;
/// Namespaces of one account.
const NAMESPACES_MAX: usize = 1_000;

/// A KV namespace of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// The namespace's id.
    pub id: NamespaceId,
    /// The name for people, unique within the account.
    pub title: String,
}

/// How a list of namespaces is sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NamespaceOrder {
    /// By title, ascending.
    #[default]
    Title,
    /// By title, descending.
    TitleDescending,
    /// By id, ascending.
    Id,
    /// By id, descending.
    IdDescending,
}

impl NamespaceOrder {
    fn sql(self) -> &'static str {
        match self {
            Self::Title => "title",
            Self::TitleDescending => "title DESC",
            Self::Id => "id",
            Self::IdDescending => "id DESC",
        }
    }
}

/// One page of namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespacePage {
    /// The page's namespaces: none past the end.
    pub namespaces: Vec<Namespace>,
    /// How many the account has in all.
    pub total: usize,
}

impl Registry {
    /// Makes a namespace.
    ///
    /// # Errors
    /// Fails when the title is unfit or taken, or the account has too many.
    pub fn create_namespace(
        &self,
        account: &AccountId,
        title: &str,
    ) -> Result<Namespace, RegistryError> {
        check_title(title)?;
        let id = NamespaceId::parse(&random_hex_id()).expect("a random id has the form of an id");
        self.write(|transaction| {
            ensure_title_is_free(transaction, account, &id, title)?;
            if count(transaction, account)? >= NAMESPACES_MAX {
                let what = "KV namespaces of an account";
                return Err(RegistryError::TooMany { what, max: NAMESPACES_MAX });
            }
            transaction.execute(
                "INSERT INTO namespace (id, account, title, created_ms) VALUES (?1, ?2, ?3, ?4)",
                params![id.as_str(), account.as_str(), title, to_sql(now_ms())],
            )?;
            Ok(())
        })?;
        Ok(Namespace { id, title: title.to_owned() })
    }

    /// A page of the account's namespaces. `page` counts from 0.
    ///
    /// # Errors
    /// Fails when the database does.
    pub fn namespaces(
        &self,
        account: &AccountId,
        order: NamespaceOrder,
        page: usize,
        per_page: usize,
    ) -> Result<NamespacePage, RegistryError> {
        self.read(|view| {
            let mut statement = view.prepare_cached(&format!(
                "SELECT id, title FROM namespace WHERE account = ?1
                 ORDER BY {} LIMIT ?2 OFFSET ?3",
                order.sql()
            ))?;
            let offset = page.saturating_mul(per_page);
            let rows = statement.query_map(
                params![account.as_str(), to_sql(per_page as u64), to_sql(offset as u64)],
                from_row,
            )?;
            let namespaces = rows.collect::<Result<_, _>>()?;
            Ok(NamespacePage { namespaces, total: count(view, account)? })
        })
    }

    /// One namespace of the account.
    ///
    /// # Errors
    /// Fails when the account has no such namespace.
    pub fn namespace(
        &self,
        account: &AccountId,
        id: &NamespaceId,
    ) -> Result<Namespace, RegistryError> {
        self.read(|view| {
            view.prepare_cached("SELECT id, title FROM namespace WHERE account = ?1 AND id = ?2")?
                .query_row(params![account.as_str(), id.as_str()], from_row)
                .optional()?
                .ok_or_else(|| missing(id))
        })
    }

    /// Gives a namespace another title.
    ///
    /// # Errors
    /// Fails when the namespace does not exist, or the title is unfit or taken.
    pub fn rename_namespace(
        &self,
        account: &AccountId,
        id: &NamespaceId,
        title: &str,
    ) -> Result<(), RegistryError> {
        check_title(title)?;
        self.write(|transaction| {
            ensure_title_is_free(transaction, account, id, title)?;
            let changed = transaction.execute(
                "UPDATE namespace SET title = ?3 WHERE account = ?1 AND id = ?2",
                params![account.as_str(), id.as_str(), title],
            )?;
            if changed == 0 { Err(missing(id)) } else { Ok(()) }
        })
    }

    /// Forgets a namespace. Its values are the caller's to delete.
    ///
    /// # Errors
    /// Fails when the namespace does not exist.
    pub fn delete_namespace(
        &self,
        account: &AccountId,
        id: &NamespaceId,
    ) -> Result<(), RegistryError> {
        self.write(|transaction| {
            let deleted = transaction.execute(
                "DELETE FROM namespace WHERE account = ?1 AND id = ?2",
                params![account.as_str(), id.as_str()],
            )?;
            if deleted == 0 { Err(missing(id)) } else { Ok(()) }
        })
    }
}

fn missing(id: &NamespaceId) -> RegistryError {
    RegistryError::NotFound { what: Missing::Namespace(id.to_string()) }
}

fn count(view: &Transaction<'_>, account: &AccountId) -> Result<usize, RegistryError> {
    let count: i64 = view.query_row(
        "SELECT count(*) FROM namespace WHERE account = ?1",
        [account.as_str()],
        |row| row.get(0),
    )?;
    Ok(usize::try_from(count).unwrap_or(0))
}

fn check_title(title: &str) -> Result<(), RegistryError> {
    let fits = (1..=TITLE_BYTES_MAX).contains(&title.len()) && !title.chars().any(char::is_control);
    match fits {
        true => Ok(()),
        false => Err(RegistryError::Invalid(format!(
            "a namespace's title has 1 to {TITLE_BYTES_MAX} bytes and no control characters"
        ))),
    }
}

fn ensure_title_is_free(
    view: &Transaction<'_>,
    account: &AccountId,
    id: &NamespaceId,
    title: &str,
) -> Result<(), RegistryError> {
    let taken: bool = view.query_row(
        "SELECT EXISTS (
             SELECT 1 FROM namespace WHERE account = ?1 AND title = ?3 AND id <> ?2)",
        params![account.as_str(), id.as_str(), title],
        |row| row.get(0),
    )?;
    match taken {
        true => Err(RegistryError::Taken { what: Taken::NamespaceTitle(title.to_owned()) }),
        false => Ok(()),
    }
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Namespace> {
    let id: String = row.get(0)?;
    let id = NamespaceId::parse(&id)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(e)))?;
    Ok(Namespace { id, title: row.get(1)? })
}
