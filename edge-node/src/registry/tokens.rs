//! API tokens: who may do what. Only hashes are stored; a token's text exists once, when it is
//! made.

use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::database::{from_sql, to_sql};
use super::{
    AccountId, Missing, Registry, RegistryError, from_json, now_ms, random_hex_id, to_json,
};

const PREFIX: &str = "atoll_";
const ID_HEX_LEN: usize = 32;
const SECRET_HEX_LEN: usize = 64;
const NAME_BYTES_MAX: usize = 100;
/// Tokens of one account.
const TOKENS_MAX: usize = 100;

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// See workers, versions, deployments, routes and schedules.
    WorkersRead,
    /// Change them.
    WorkersWrite,
    /// Read KV namespaces and values.
    KvRead,
    /// Change them.
    KvWrite,
    /// Follow workers' logs.
    TailRead,
    /// List, make and revoke the account's tokens.
    TokensWrite,
    /// Make further accounts on this node.
    AccountsWrite,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 7] = [
        Self::WorkersRead,
        Self::WorkersWrite,
        Self::KvRead,
        Self::KvWrite,
        Self::TailRead,
        Self::TokensWrite,
        Self::AccountsWrite,
    ];
}

/// A token as it is stored: without its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The token's id.
    pub id: String,
    /// The account that it opens.
    pub account: AccountId,
    /// For people.
    pub name: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// When it was made: milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// The text of a token, shown to its owner once.
pub struct NewToken {
    /// The token's id, a part of the text.
    pub id: String,
    /// What goes into `Authorization: Bearer`.
    pub text: String,
}

impl NewToken {
    pub(super) fn random() -> Self {
        let secret = hex::encode(rand::random::<[u8; SECRET_HEX_LEN / 2]>());
        let id = random_hex_id();
        Self { text: format!("{PREFIX}{id}_{secret}"), id }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim_ascii();
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let is_hex = |part: &str| part.bytes().all(|b| b.is_ascii_hexdigit());
        let fits = id.len() == ID_HEX_LEN && secret.len() == SECRET_HEX_LEN;
        (fits && is_hex(id) && is_hex(secret))
            .then(|| Self { id: id.to_owned(), text: text.to_owned() })
    }

    fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.text.as_bytes()).into()
    }
}

impl Registry {
    /// The token whose text this is, if there is one.
    ///
    /// # Errors
    /// Fails when the database does.
    pub fn authenticate(&self, text: &str) -> Result<Option<Token>, RegistryError> {
        let Some(presented) = NewToken::parse(text) else { return Ok(None) };
        let row = self.read(|view| {
            Ok(view
                .prepare_cached("SELECT * FROM token WHERE id = ?1")?
                .query_row([&presented.id], |row| {
                    Ok((row.get::<_, Vec<u8>>("sha256")?, parts(row)?))
                })
                .optional()?)
        })?;
        let Some((sha256, parts)) = row else { return Ok(None) };
        match bool::from(sha256.ct_eq(&presented.sha256())) {
            true => from_parts(parts).map(Some),
            false => Ok(None),
        }
    }

    /// Makes a token of the account.
    ///
    /// # Errors
    /// Fails when the name is unfit or the account has too many tokens.
    pub fn create_token(
        &self,
        account: &AccountId,
        name: &str,
        scopes: &[Scope],
    ) -> Result<NewToken, RegistryError> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(RegistryError::Invalid(format!(
                "a token's name has 1 to {NAME_BYTES_MAX} bytes and no control characters"
            )));
        }
        let token = NewToken::random();
        self.write(|transaction| insert(transaction, account, name, &token, scopes))?;
        Ok(token)
    }

    /// The account's tokens, oldest first.
    ///
    /// # Errors
    /// Fails when the database does.
    pub fn tokens(&self, account: &AccountId) -> Result<Vec<Token>, RegistryError> {
        let rows = self.read(|view| {
            let mut statement =
                view.prepare("SELECT * FROM token WHERE account = ?1 ORDER BY created_ms, id")?;
            let rows = statement.query_map([account.as_str()], parts)?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        })?;
        rows.into_iter().map(from_parts).collect()
    }

    /// Revokes a token of the account: its next use fails.
    ///
    /// # Errors
    /// Fails when the account has no such token.
    pub fn revoke_token(&self, account: &AccountId, id: &str) -> Result<(), RegistryError> {
        self.write(|transaction| {
            let deleted = transaction.execute(
                "DELETE FROM token WHERE account = ?1 AND id = ?2",
                params![account.as_str(), id],
            )?;
            match deleted {
                0 => Err(RegistryError::NotFound { what: Missing::Token(id.to_owned()) }),
                _ => Ok(()),
            }
        })
    }
}

pub(super) fn insert(
    transaction: &Transaction<'_>,
    account: &AccountId,
    name: &str,
    token: &NewToken,
    scopes: &[Scope],
) -> Result<(), RegistryError> {
    let count: i64 = transaction.query_row(
        "SELECT count(*) FROM token WHERE account = ?1",
        [account.as_str()],
        |row| row.get(0),
    )?;
    if count >= TOKENS_MAX as i64 {
        return Err(RegistryError::TooMany { what: "tokens of an account", max: TOKENS_MAX });
    }
    transaction.execute(
        "INSERT INTO token (id, account, name, sha256, scopes, created_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            token.id,
            account.as_str(),
            name,
            token.sha256(),
            to_json(&scopes),
            to_sql(now_ms())
        ],
    )?;
    Ok(())
}

/// A token whose scopes are still JSON.
fn parts(row: &Row<'_>) -> rusqlite::Result<(Token, String)> {
    let token = Token {
        id: row.get("id")?,
        account: AccountId::new(row.get::<_, String>("account")?),
        name: row.get("name")?,
        scopes: Vec::new(),
        created_ms: from_sql(row.get("created_ms")?),
    };
    Ok((token, row.get("scopes")?))
}

fn from_parts((token, scopes): (Token, String)) -> Result<Token, RegistryError> {
    Ok(Token { scopes: from_json("a token's scopes", &scopes)?, ..token })
}
