//! Accounts, their subdomains, and the first account of a fresh node.

use std::path::Path;

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::database::{from_sql, to_sql};
use super::tokens::{self, NewToken, Scope};
use super::{
    AccountId, Missing, Registry, RegistryError, Taken, now_ms, private_file, random_hex_id,
};

pub(super) const FIRST_ACCOUNT: &str = "demo";
pub(crate) const ROOT_TOKEN_FILE: &str = "root.token";
const ROOT_TOKEN_NAME: &str = "root";
const NAME_BYTES_MAX: usize = 100;
/// A DNS label (RFC 1035, section 2.3.4).
const SUBDOMAIN_BYTES_MAX: usize = 63;

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The account's id.
    pub id: AccountId,
    /// The account's name, for people.
    pub name: String,
    /// The `<subdomain>` of `<worker>.<subdomain>.<domain>`, once one is registered.
    pub subdomain: Option<String>,
    /// When it was made: milliseconds since the Unix epoch.
    pub created_ms: u64,
}

impl Registry {
    /// Prepares a fresh node: an account `demo` whose API token is in `<dir>/root.token`, readable
    /// by the owner alone. A node that has an account is left as it is.
    ///
    /// # Errors
    /// Fails when the directory or the database cannot be written.
    pub fn bootstrap(&self) -> Result<(), RegistryError> {
        if self.read(|view| {
            Ok(view.query_row("SELECT EXISTS (SELECT 1 FROM account)", [], |r| r.get(0))?)
        })? {
            return Ok(());
        }
        let token = root_token(&self.inner.dir)?;
        self.write(|transaction| {
            let account = insert(transaction, FIRST_ACCOUNT, Some(FIRST_ACCOUNT))?;
            tokens::insert(transaction, &account.id, ROOT_TOKEN_NAME, &token, &Scope::ALL)?;
            Ok(())
        })
    }

    /// Makes an account.
    ///
    /// # Errors
    /// Fails when the name is unfit or the subdomain is unfit or taken.
    pub fn create_account(
        &self,
        name: &str,
        subdomain: Option<&str>,
    ) -> Result<Account, RegistryError> {
        self.write(|transaction| insert(transaction, name, subdomain))
    }

    /// One account.
    ///
    /// # Errors
    /// Fails when the account does not exist.
    pub fn account(&self, id: &AccountId) -> Result<Account, RegistryError> {
        self.read(|view| {
            view.query_row("SELECT * FROM account WHERE id = ?1", [id.as_str()], from_row)
                .optional()?
                .ok_or(RegistryError::NotFound { what: Missing::Account })
        })
    }

    /// Registers the account's subdomain, in place of an earlier one.
    ///
    /// # Errors
    /// Fails when it is no DNS label, or belongs to another account.
    pub fn set_subdomain(&self, id: &AccountId, subdomain: &str) -> Result<(), RegistryError> {
        check_subdomain(subdomain)?;
        self.write(|transaction| {
            ensure_subdomain_is_free(transaction, id, subdomain)?;
            transaction.execute(
                "UPDATE account SET subdomain = ?2 WHERE id = ?1",
                params![id.as_str(), subdomain],
            )?;
            Ok(())
        })
    }
}

/// The token of this node's own commands. The file comes before the registry's row: when the node dies in
/// between, the next start takes its token.
pub(super) fn root_token(dir: &Path) -> Result<NewToken, RegistryError> {
    let path = dir.join(ROOT_TOKEN_FILE);
    let bytes = private_file::read_or_create(&path, || NewToken::random().text.into_bytes())?;
    std::str::from_utf8(&bytes).ok().and_then(NewToken::parse).ok_or_else(|| {
        let source = std::io::Error::other("it holds no token: delete it and start again");
        RegistryError::File { path, source }
    })
}

pub(super) fn insert(
    transaction: &Transaction<'_>,
    name: &str,
    subdomain: Option<&str>,
) -> Result<Account, RegistryError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(RegistryError::Invalid(format!(
            "an account's name has 1 to {NAME_BYTES_MAX} bytes and no control characters"
        )));
    }
    let id = AccountId::new(random_hex_id());
    if let Some(subdomain) = subdomain {
        check_subdomain(subdomain)?;
        ensure_subdomain_is_free(transaction, &id, subdomain)?;
    }
    let created_ms = now_ms();
    transaction.execute(
        "INSERT INTO account (id, name, subdomain, created_ms) VALUES (?1, ?2, ?3, ?4)",
        params![id.as_str(), name, subdomain, to_sql(created_ms)],
    )?;
    Ok(Account { id, name: name.to_owned(), subdomain: subdomain.map(str::to_owned), created_ms })
}

fn ensure_subdomain_is_free(
    transaction: &Transaction<'_>,
    id: &AccountId,
    subdomain: &str,
) -> Result<(), RegistryError> {
    let taken: bool = transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM account WHERE subdomain = ?2 AND id <> ?1)",
        params![id.as_str(), subdomain],
        |row| row.get(0),
    )?;
    match taken {
        true => Err(RegistryError::Taken { what: Taken::Subdomain(subdomain.to_owned()) }),
        false => Ok(()),
    }
}

fn check_subdomain(subdomain: &str) -> Result<(), RegistryError> {
    let fits = (1..=SUBDOMAIN_BYTES_MAX).contains(&subdomain.len())
        && subdomain.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !subdomain.starts_with('-')
        && !subdomain.ends_with('-');
    match fits {
        true => Ok(()),
        false => Err(RegistryError::Invalid(format!(
            "subdomain {subdomain:?} is not 1 to {SUBDOMAIN_BYTES_MAX} lower-case letters, digits or inner hyphens"
        ))),
    }
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Account> {
    Ok(Account {
        id: AccountId::new(row.get::<_, String>("id")?),
        name: row.get("name")?,
        subdomain: row.get("subdomain")?,
        created_ms: from_sql(row.get("created_ms")?),
    })
}
