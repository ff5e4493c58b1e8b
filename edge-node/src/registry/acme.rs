//! What an ACME authority has issued and asks: the account there, certificates with their private keys sealed, and
//! the answers that are pending. All nodes of a cluster have it, so that any of them can answer.

use atoll_router::{Challenge, ChallengeKind};
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::database::{from_sql, to_sql};
use super::{Pem, Registry, RegistryError, from_json, now_ms, random_hex_id, to_json};

/// How long an answer stays when whoever asked for it does not take it away.
const CHALLENGE_MS_MAX: u64 = 3_600_000;

/// The certificate of one name, and how getting it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AcmeCertificate {
    /// The name, in lower case.
    pub(crate) host: String,
    /// The id of the certificate in use; none before the first one is there.
    pub(crate) id: Option<String>,
    /// The authority that has issued it.
    pub(crate) directory: Option<String>,
    /// From when it is valid: seconds since the Unix epoch.
    pub(crate) from_s: u64,
    /// Until when.
    pub(crate) expires_s: u64,
    /// When it was issued: milliseconds since the Unix epoch.
    pub(crate) issued_ms: u64,
    /// When the next one is asked for.
    pub(crate) due_ms: u64,
    /// How often that has failed since the last one.
    pub(crate) failures: u32,
    /// Why it failed the last time.
    pub(crate) error: Option<String>,
}

/// A certificate as an authority has issued it.
pub(crate) struct AcmeIssued {
    /// The chain as PEM, leaf first.
    pub(crate) chain: String,
    /// The key as PEM.
    pub(crate) private_key: String,
    pub(crate) from_s: u64,
    pub(crate) expires_s: u64,
    /// When the next one is to be asked for.
    pub(crate) due_ms: u64,
}

impl Registry {
    /// The account at the authority of this directory, as it was put.
    pub(crate) fn acme_account(&self, directory: &str) -> Result<Option<Vec<u8>>, RegistryError> {
        let sealed: Option<Vec<u8>> = self.read(|view| {
            let query = "SELECT credentials FROM acme_account WHERE directory = ?1";
            Ok(view.query_row(query, [directory], |row| row.get(0)).optional()?)
        })?;
        let open = |sealed: Vec<u8>| {
            let opened = self.inner.key.open_sealed(&account_context(directory), &sealed);
            opened.map_err(|_| RegistryError::Corrupt {
                what: "the ACME account's key: is node.key the one it was sealed with?".to_owned(),
            })
        };
        sealed.map(open).transpose()
    }

    /// Keeps the account at the authority of this directory.
    pub(crate) fn put_acme_account(
        &self,
        directory: &str,
        credentials: &[u8],
    ) -> Result<(), RegistryError> {
        let sealed = self.inner.key.seal(&account_context(directory), credentials.to_vec());
        self.write(|transaction| {
            transaction.execute(
                "INSERT INTO acme_account (directory, credentials, created_ms) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET credentials = excluded.credentials",
                params![directory, sealed, to_sql(now_ms())],
            )?;
            Ok(())
        })
    }

    /// Forgets the account at the authority of this directory.
    pub(crate) fn forget_acme_account(&self, directory: &str) -> Result<(), RegistryError> {
        self.write(|transaction| {
            transaction.execute("DELETE FROM acme_account WHERE directory = ?1", [directory])?;
            Ok(())
        })
    }

    /// Every name that a certificate was asked for, in their order.
    pub(crate) fn acme_certificates(&self) -> Result<Vec<AcmeCertificate>, RegistryError> {
        self.read(|view| {
            let mut statement =
                view.prepare_cached("SELECT * FROM acme_certificate ORDER BY host")?;
            let rows = statement.query_map([], from_row)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// The certificates in use with their keys, by name.
    ///
    /// # Errors
    /// Fails when the database does. A key that cannot be opened is said in the log and left out.
    pub(crate) fn acme_to_serve(&self) -> Result<Vec<(String, Pem)>, RegistryError> {
        let rows: Vec<(String, String, Vec<u8>)> = self.read(|view| {
            let mut statement = view.prepare_cached(
                "SELECT host, chain, private_key FROM acme_certificate WHERE id IS NOT NULL
                 ORDER BY host",
            )?;
            let rows =
                statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })?;
        let open = |(host, chain, sealed): (String, String, Vec<u8>)| {
            let key = self.inner.key.open_sealed(&key_context(&host), &sealed);
            let unreadable =
                "a private key cannot be opened: is node.key the one it was sealed with?";
            match key {
                Ok(key) => Some((host, (chain.into_bytes(), key))),
                Err(_) => {
                    tracing::error!(host, unreadable);
                    None
                }
            }
        };
        Ok(rows.into_iter().filter_map(open).collect())
    }

    /// Puts a certificate into use.
    pub(crate) fn put_acme_certificate(
        &self,
        host: &str,
        directory: &str,
        issued: &AcmeIssued,
    ) -> Result<(), RegistryError> {
        let private_key = issued.private_key.as_bytes().to_vec();
        let sealed = self.inner.key.seal(&key_context(host), private_key);
        let id = random_hex_id();
        self.write(|transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO acme_certificate
                     (host, id, directory, chain, private_key, from_s, expires_s, issued_ms, due_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    host,
                    id,
                    directory,
                    issued.chain,
                    sealed,
                    to_sql(issued.from_s),
                    to_sql(issued.expires_s),
                    to_sql(now_ms()),
                    to_sql(issued.due_ms),
                ],
            )?;
            Ok(())
        })
    }

    /// Notes that no certificate came of it, and when it is tried again. The one in use stays.
    pub(crate) fn note_acme_failure(
        &self,
        host: &str,
        error: &str,
        due_ms: u64,
    ) -> Result<(), RegistryError> {
        self.write(|transaction| {
            transaction.execute(
                "INSERT INTO acme_certificate (host, failures, error, due_ms) VALUES (?1, 1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET failures = failures + 1, error = excluded.error,
                     due_ms = excluded.due_ms",
                params![host, error, to_sql(due_ms)],
            )?;
            Ok(())
        })
    }

    /// Forgets a name and its certificate.
    pub(crate) fn forget_acme(&self, host: &str) -> Result<(), RegistryError> {
        self.write(|transaction| {
            transaction.execute("DELETE FROM acme_certificate WHERE host = ?1", [host])?;
            Ok(())
        })
    }

    /// What may be asked now.
    pub(crate) fn acme_challenges(&self) -> Result<Vec<Challenge>, RegistryError> {
        self.read(|view| {
            let mut statement = view.prepare_cached(
                "SELECT kind, host, token, answer FROM acme_challenge ORDER BY token",
            )?;
            let rows = statement.query_map([], |row| {
                Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?;
            let challenge = |row: rusqlite::Result<(String, String, String, String)>| {
                let (kind, host, token, answer) = row?;
                let kind: ChallengeKind = from_json("a challenge's kind", &kind)?;
                Ok(Challenge { kind, host, token, answer })
            };
            rows.map(challenge).collect()
        })
    }

    /// Has all nodes answer a question, and gives the revision from which on they do. Old ones go.
    pub(crate) fn add_acme_challenge(&self, challenge: &Challenge) -> Result<u64, RegistryError> {
        let now = now_ms();
        self.write(|transaction| {
            transaction.execute(
                "DELETE FROM acme_challenge WHERE created_ms < ?1",
                [to_sql(now.saturating_sub(CHALLENGE_MS_MAX))],
            )?;
            transaction.execute(
                "INSERT OR REPLACE INTO acme_challenge (token, host, kind, answer, created_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    challenge.token,
                    challenge.host,
                    to_json(&challenge.kind),
                    challenge.answer,
                    to_sql(now)
                ],
            )?;
            Ok(())
        })?;
        Ok(self.snapshot().revision)
    }

    /// Has no node answer this question any more.
    pub(crate) fn remove_acme_challenge(&self, token: &str) -> Result<(), RegistryError> {
        self.write(|transaction| {
            transaction.execute("DELETE FROM acme_challenge WHERE token = ?1", [token])?;
            Ok(())
        })
    }
}

/// What binds a sealed key to its row.
fn key_context(host: &str) -> String {
    format!("acme certificate {host}")
}

/// What binds a sealed account to its row.
fn account_context(directory: &str) -> String {
    format!("acme account {directory}")
}

/// What changes whenever a certificate or a question does.
pub(super) fn ids(view: &Transaction<'_>) -> Result<Vec<String>, RegistryError> {
    let mut statement = view.prepare_cached(
        "SELECT 'acme ' || id FROM acme_certificate WHERE id IS NOT NULL
         UNION ALL SELECT 'challenge ' || token FROM acme_challenge ORDER BY 1",
    )?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<AcmeCertificate> {
    Ok(AcmeCertificate {
        host: row.get("host")?,
        id: row.get("id")?,
        directory: row.get("directory")?,
        from_s: from_sql(row.get("from_s")?),
        expires_s: from_sql(row.get("expires_s")?),
        issued_ms: from_sql(row.get("issued_ms")?),
        due_ms: from_sql(row.get("due_ms")?),
        failures: row.get("failures")?,
        error: row.get("error")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issued(private_key: &str) -> AcmeIssued {
        AcmeIssued {
            chain: "chain".into(),
            private_key: private_key.into(),
            from_s: 1,
            expires_s: 9,
            due_ms: 7_000,
        }
    }

    #[test]
    fn secrets_are_sealed_and_failures_leave_what_serves() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        registry.put_acme_account("ca", b"the account").unwrap();
        assert_eq!(registry.acme_account("ca").unwrap().unwrap(), b"the account");
        assert_eq!(registry.acme_account("other").unwrap(), None);
        registry.note_acme_failure("a.test", "no", 5).unwrap();
        assert_eq!(registry.acme_to_serve().unwrap(), []);
        registry.put_acme_certificate("a.test", "ca", &issued("the key")).unwrap();
        registry.note_acme_failure("a.test", "down", 6).unwrap();
        registry.note_acme_failure("a.test", "still down", 8).unwrap();
        let known = registry.acme_certificates().unwrap();
        assert_eq!((known[0].failures, known[0].due_ms), (2, 8));
        assert_eq!(known[0].error.as_deref(), Some("still down"));
        let served = [("a.test".to_owned(), (b"chain".to_vec(), b"the key".to_vec()))];
        assert_eq!(registry.acme_to_serve().unwrap(), served);
        for file in std::fs::read_dir(dir.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            for secret in [&b"the key"[..], b"the account"] {
                assert!(!bytes.windows(secret.len()).any(|window| window == secret));
            }
        }
    }

    #[test]
    fn snapshots_tell_when_something_changes() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(dir.path()).unwrap();
        let ids = || registry.snapshot().certificates.clone();
        let challenge = Challenge {
            kind: ChallengeKind::TlsAlpn01,
            host: "a.test".into(),
            token: "t".into(),
            answer: "t.key".into(),
        };
        let revision = registry.add_acme_challenge(&challenge).unwrap();
        assert_eq!(registry.snapshot().revision, revision);
        assert_eq!(*ids(), ["challenge t"]);
        assert_eq!(registry.acme_challenges().unwrap(), [challenge]);
        registry.remove_acme_challenge("t").unwrap();
        assert_eq!(*ids(), [""; 0]);
        registry.put_acme_certificate("a.test", "ca", &issued("key")).unwrap();
        let first = ids();
        registry.put_acme_certificate("a.test", "ca", &issued("key")).unwrap();
        assert_ne!(ids(), first);
        registry.forget_acme("a.test").unwrap();
        assert_eq!(*ids(), [""; 0]);
    }
}
