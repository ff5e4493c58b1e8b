//! Certificates that were uploaded, with their private keys sealed. What they say was checked by the caller.

use std::collections::HashSet;

use rusqlite::{Row, Transaction, params};

use super::database::{from_sql, to_sql};
use super::{
    AccountId, HostPattern, Missing, Registry, RegistryError, Taken, from_json, now_ms,
    random_hex_id, to_json,
};

/// Certificates of one account.
const CERTIFICATES_MAX: usize = 100;

/// A certificate of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate's id: 32 hexadecimal digits.
    pub id: String,
    /// The host names that it is valid for, in lower case.
    pub hosts: Vec<String>,
    /// The chain as PEM, leaf first.
    pub chain: String,
    /// Until when it is valid: seconds since the Unix epoch.
    pub expires_s: u64,
    /// When it was uploaded: milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// A chain and its private key, as PEM.
pub(crate) type Pem = (Vec<u8>, Vec<u8>);

impl Registry {
    /// Stores a certificate, which serves its hosts from then on.
    ///
    /// # Errors
    /// Fails when one of its hosts is another account's, or the account has too many.
    pub fn add_certificate(
        &self,
        account: &AccountId,
        hosts: &[String],
        chain: &str,
        private_key: &str,
        expires_s: u64,
    ) -> Result<Certificate, RegistryError> {
        let certificate = Certificate {
            id: random_hex_id(),
            hosts: hosts.to_vec(),
            chain: chain.to_owned(),
            expires_s,
            created_ms: now_ms(),
        };
        let sealed =
            self.inner.key.seal(&context(&certificate.id), private_key.as_bytes().to_vec());
        self.write(|transaction| {
            for host in hosts {
                ensure_free(transaction, account, host)?;
            }
            let count: i64 = transaction.query_row(
                "SELECT count(*) FROM certificate WHERE account = ?1",
                [account.as_str()],
                |row| row.get(0),
            )?;
            if count >= CERTIFICATES_MAX as i64 {
                let what = "certificates of an account";
                return Err(RegistryError::TooMany { what, max: CERTIFICATES_MAX });
            }
            transaction.execute(
                "INSERT INTO certificate
                     (id, account, hosts, chain, private_key, expires_s, created_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    certificate.id,
                    account.as_str(),
                    to_json(&certificate.hosts),
                    certificate.chain,
                    sealed,
                    to_sql(expires_s),
                    to_sql(certificate.created_ms),
                ],
            )?;
            Ok(())
        })?;
        Ok(certificate)
    }

    /// The account's certificates, oldest first, without their keys.
    ///
    /// # Errors
    /// Fails when the database does.
    pub fn certificates(&self, account: &AccountId) -> Result<Vec<Certificate>, RegistryError> {
        self.read(|view| {
            let mut statement = view.prepare_cached(
                "SELECT * FROM certificate WHERE account = ?1 ORDER BY created_ms, id",
            )?;
            let rows = statement.query_map([account.as_str()], Stored::from_row)?;
            rows.map(|row| row?.parse()).collect()
        })
    }

    /// The names of every certificate that was uploaded.
    ///
    /// # Errors
    /// Fails when the database does.
    pub(crate) fn uploaded_hosts(&self) -> Result<HashSet<String>, RegistryError> {
        Ok(self.uploaded_expiries()?.into_iter().flat_map(|(hosts, _)| hosts).collect())
    }

    /// The names of every certificate that was uploaded, and until when it is valid: seconds since the Unix epoch.
    ///
    /// # Errors
    /// Fails when the database does.
    pub(crate) fn uploaded_expiries(&self) -> Result<Vec<(Vec<String>, u64)>, RegistryError> {
        self.read(|view| {
            let mut statement =
                view.prepare_cached("SELECT hosts, expires_s FROM certificate ORDER BY hosts")?;
            let rows = statement
                .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
            rows.map(|row| {
                let (hosts, expires_s) = row?;
                Ok((from_json("a certificate's hosts", &hosts)?, from_sql(expires_s)))
            })
            .collect()
        })
    }

    /// Forgets a certificate of the account.
    ///
    /// # Errors
    /// Fails when the account has no such certificate.
    pub fn delete_certificate(&self, account: &AccountId, id: &str) -> Result<(), RegistryError> {
        self.write(|transaction| {
            let deleted = transaction.execute(
                "DELETE FROM certificate WHERE account = ?1 AND id = ?2",
                params![account.as_str(), id],
            )?;
            match deleted {
                0 => Err(RegistryError::NotFound { what: Missing::Certificate(id.to_owned()) }),
                _ => Ok(()),
            }
        })
    }

    /// Every certificate with its key, oldest first.
    ///
    /// # Errors
    /// Fails when the database does. A key that cannot be opened is said in the log and left out.
    pub(crate) fn certificates_to_serve(&self) -> Result<Vec<Pem>, RegistryError> {
        let rows: Vec<(String, String, Vec<u8>)> = self.read(|view| {
            let mut statement = view.prepare_cached(
                "SELECT id, chain, private_key FROM certificate ORDER BY created_ms, id",
            )?;
            let rows =
                statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })?;
        let open = |(id, chain, sealed): (String, String, Vec<u8>)| match self
            .inner
            .key
            .open_sealed(&context(&id), &sealed)
        {
            Ok(key) => Some((chain.into_bytes(), key)),
            Err(_) => {
                tracing::error!(
                    certificate = id,
                    "a private key cannot be opened: is node.key the one it was sealed with?"
                );
                None
            }
        };
        Ok(rows.into_iter().filter_map(open).collect())
    }
}

/// What binds a sealed key to its row.
fn context(id: &str) -> String {
    format!("certificate {id}")
}

/// A host belongs to the account that has a certificate or a route for it.
fn ensure_free(
    view: &Transaction<'_>,
    account: &AccountId,
    host: &str,
) -> Result<(), RegistryError> {
    let taken = || RegistryError::Taken { what: Taken::Host(host.to_owned()) };
    let wanted = HostPattern::of_route(host)?;
    let mut statement = view.prepare_cached("SELECT hosts FROM certificate WHERE account <> ?1")?;
    let rows = statement.query_map([account.as_str()], |row| row.get::<_, String>(0))?;
    for hosts in rows {
        let hosts: Vec<String> = from_json("a certificate's hosts", &hosts?)?;
        for other in hosts {
            if HostPattern::of_route(&other)?.overlaps(&wanted) {
                return Err(taken());
            }
        }
    }
    let mut statement = view.prepare_cached("SELECT pattern FROM route WHERE account <> ?1")?;
    let rows = statement.query_map([account.as_str()], |row| row.get::<_, String>(0))?;
    for pattern in rows {
        if HostPattern::of_route(&pattern?)?.overlaps(&wanted) {
            return Err(taken());
        }
    }
    Ok(())
}

/// The ids of all certificates: since rows do not change, they say whether anything has.
pub(super) fn ids(view: &Transaction<'_>) -> Result<Vec<String>, RegistryError> {
    let mut statement = view.prepare_cached("SELECT id FROM certificate ORDER BY id")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A row of the table `certificate`.
struct Stored {
    id: String,
    hosts: String,
    chain: String,
    expires_s: u64,
    created_ms: u64,
}

impl Stored {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            hosts: row.get("hosts")?,
            chain: row.get("chain")?,
            expires_s: from_sql(row.get("expires_s")?),
            created_ms: from_sql(row.get("created_ms")?),
        })
    }

    fn parse(self) -> Result<Certificate, RegistryError> {
        let Self { id, hosts, chain, expires_s, created_ms } = self;
        let hosts = from_json("a certificate's hosts", &hosts)?;
        Ok(Certificate { id, hosts, chain, expires_s, created_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_kept_with_their_keys_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        let (a, b) = (account(&registry, "a"), account(&registry, "b"));
        let hosts = ["example.com".to_owned(), "*.example.com".to_owned()];
        let made = registry.add_certificate(&a, &hosts, "chain", "the key", 9).unwrap();
        assert_eq!(registry.certificates(&a).unwrap(), std::slice::from_ref(&made));
        assert_eq!(registry.certificates(&b).unwrap(), []);
        assert_eq!(*registry.snapshot().certificates, *std::slice::from_ref(&made.id));
        let served = registry.certificates_to_serve().unwrap();
        assert_eq!(served, [(b"chain".to_vec(), b"the key".to_vec())]);
        let files = std::fs::read_dir(dir.path()).unwrap();
        for file in files {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(7).any(|window| window == b"the key"));
        }
        assert!(registry.delete_certificate(&b, &made.id).is_err());
        registry.delete_certificate(&a, &made.id).unwrap();
        assert_eq!(registry.certificates_to_serve().unwrap(), []);
    }

    #[test]
    fn a_host_is_one_accounts() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        let (a, b) = (account(&registry, "a"), account(&registry, "b"));
        let add = |account: &AccountId, host: &str| {
            registry.add_certificate(account, &[host.to_owned()], "chain", "key", 9).is_ok()
        };
        assert!(add(&a, "*.one.test"));
        assert!(add(&a, "x.one.test"));
        assert!(!add(&b, "x.one.test"));
        assert!(!add(&b, "*.one.test"));
        assert!(add(&b, "one.test"));
        registry.add_route(&b, "two.test/*", None).unwrap();
        assert!(!add(&a, "two.test"));
        assert!(add(&b, "two.test"));
    }

    fn account(registry: &Registry, name: &str) -> AccountId {
        registry.create_account(name, Some(name)).unwrap().id
    }
}
