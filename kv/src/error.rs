//! What can go wrong in a store, in Workers KV's own words where the caller is at fault.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::{
    BULK_BYTES_MAX, BULK_GET_KEYS_MAX, BULK_PAIRS_MAX, EXPIRATION_TTL_S_MIN, KEY_BYTES_MAX,
    LIST_KEYS_MAX, METADATA_BYTES_MAX, VALUE_BYTES_MAX,
};

/// The cause of a failure below a store, shared by every write of the batch that it failed.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// The operation that an error interrupted, as Workers KV names it in its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `get` and `getWithMetadata` of one key.
    Get,
    /// `get` and `getWithMetadata` of many keys.
    GetBulk,
    /// `put`.
    Put,
    /// `delete`.
    Delete,
    /// `list`, which Workers KV calls a GET.
    List,
}

impl Operation {
    fn method(self) -> &'static str {
        match self {
            Self::Get | Self::List => "GET",
            Self::GetBulk => "GET_BULK",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

/// Every failure of a `KvStore`.
///
/// The display of a caller's fault is the text of Workers KV (workerd `api/kv.c++`, miniflare
/// `workers/kv/validator.worker.ts`), because programs match on it. It serialises so that it can
/// cross to another process, where only the type of a cause is lost.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum KvError {
    /// The key is the empty string.
    #[error("Key name cannot be empty.")]
    KeyEmpty,
    /// The key is one of the two path segments that no URL can carry.
    #[error("\"{0}\" is not allowed as a key name.")]
    KeyReserved(Cow<'static, str>),
    /// The key or the prefix is longer than `KEY_BYTES_MAX`; holds its bytes.
    #[error("UTF-8 encoded length of {0} exceeds key length limit of {KEY_BYTES_MAX}.")]
    KeyTooLong(usize),
    /// The namespace id is not 32 lower-case hexadecimal digits.
    #[error("malformed namespace ID")]
    NamespaceInvalid,
    /// The value is longer than `VALUE_BYTES_MAX`; holds its bytes.
    #[error("Value length of {0} exceeds limit of {VALUE_BYTES_MAX}.")]
    ValueTooLarge(usize),
    /// The serialised metadata is longer than `METADATA_BYTES_MAX`; holds its bytes.
    #[error("Metadata length of {0} exceeds limit of {METADATA_BYTES_MAX}.")]
    MetadataTooLarge(usize),
    /// The metadata is not JSON.
    #[error("Metadata must be valid JSON.")]
    MetadataInvalid,
    /// The time to live is zero or negative.
    #[error("Invalid expiration_ttl of {0}. Please specify integer greater than 0.")]
    TtlNotPositive(i64),
    /// The time to live is shorter than `EXPIRATION_TTL_S_MIN`.
    #[error(
        "Invalid expiration_ttl of {0}. Expiration TTL must be at least {EXPIRATION_TTL_S_MIN}."
    )]
    TtlTooShort(i64),
    /// The expiration is not in the future.
    #[error(
        "Invalid expiration of {0}. Please specify integer greater than the current number of \
         seconds since the UNIX epoch."
    )]
    ExpirationPast(i64),
    /// The expiration is nearer than `EXPIRATION_TTL_S_MIN`.
    #[error(
        "Invalid expiration of {0}. Expiration times must be at least {EXPIRATION_TTL_S_MIN} \
         seconds in the future."
    )]
    ExpirationTooSoon(i64),
    /// The list's limit is below one.
    #[error("Invalid key_count_limit of {0}. Please specify an integer greater than 0.")]
    ListLimitTooSmall(i64),
    /// The list's limit is above `LIST_KEYS_MAX`.
    #[error("Invalid key_count_limit of {0}. Please specify an integer less than {LIST_KEYS_MAX}.")]
    ListLimitTooLarge(i64),
    /// The cursor was not made by this store.
    #[error("invalid \"list keys\" cursor")]
    CursorInvalid,
    /// A bulk read names no key.
    #[error("You must request a minimum of 1 key")]
    BulkGetEmpty,
    /// A bulk read names more than `BULK_GET_KEYS_MAX` keys.
    #[error("You can request a maximum of {BULK_GET_KEYS_MAX} keys")]
    BulkGetTooMany,
    /// A bulk read would return more than `BULK_GET_BYTES_MAX`.
    #[error("Total size of request exceeds the limit of 25MB")]
    BulkGetTooLarge,
    /// A bulk write or delete has more than `BULK_PAIRS_MAX` members; holds how many.
    #[error("bulk request of {0} keys exceeds limit of {BULK_PAIRS_MAX}")]
    BulkTooMany(usize),
    /// A bulk write has more than `BULK_BYTES_MAX`; holds its bytes.
    #[error("bulk request of {0} bytes exceeds limit of {BULK_BYTES_MAX}")]
    BulkTooLarge(usize),
    /// The store's queue is full. Nothing was done; the caller may try again.
    #[error("Too Many Requests")]
    Overloaded,
    /// The store was closed before the operation could be done. Whether a write that was under way
    /// is stored is then unknown until it is read.
    #[error("the store is closed")]
    Closed,
    /// The storage below failed. Whether a write is stored is then unknown until it is read.
    #[error("cannot {action}: {cause}")]
    Storage {
        /// What was being done, as an infinitive.
        action: Cow<'static, str>,
        /// The engine's own error.
        #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
        cause: Cause,
    },
    /// Another store, in this process or another, has the database open.
    #[error("the key-value store {path} is in use by another process, stop it first")]
    InUse {
        /// The database's file.
        #[serde(serialize_with = "as_lossy_text")]
        path: PathBuf,
    },
    /// The log that all nodes share cannot be reached. Nothing was written; the caller may try again.
    #[error("writes are not possible now: {0}; reads go on, try again later")]
    Unavailable(Cow<'static, str>),
    /// The log that all nodes share did not answer in time. Whether the write is stored is unknown
    /// until it is read.
    #[error("whether it was written is unknown: {0}; read it, or write it again")]
    OutcomeUnknown(Cow<'static, str>),
    /// The value lies in the blob store and was not on this node yet, and cannot be had now.
    #[error("the value is not on this node yet and cannot be fetched: {0}; try again later")]
    ValueAway(Cow<'static, str>),
    /// The file belongs to a store of the other kind, or to a replica of another number of shards.
    #[error(
        "the key-value store {path} is of another kind or has another number of shards, export it \
         and import it into a new one"
    )]
    WrongRole {
        /// The database's file.
        #[serde(serialize_with = "as_lossy_text")]
        path: PathBuf,
    },
    /// The database was written by a newer version of this program.
    #[error(
        "the key-value store has schema {found} but this version knows only {supported}, \
         start the newer version again"
    )]
    SchemaTooNew {
        /// The schema's version in the file.
        found: i64,
        /// The newest version that this program reads.
        supported: i64,
    },
}

impl KvError {
    /// The HTTP status that says the same.
    pub fn status(&self) -> u16 {
        match self {
            Self::KeyTooLong(_) => 414,
            Self::ValueTooLarge(_)
            | Self::MetadataTooLarge(_)
            | Self::BulkGetTooLarge
            | Self::BulkTooMany(_)
            | Self::BulkTooLarge(_) => 413,
            Self::Overloaded => 429,
            Self::Closed | Self::Unavailable(_) | Self::OutcomeUnknown(_) | Self::ValueAway(_) => {
                503
            }
            Self::Storage { .. }
            | Self::InUse { .. }
            | Self::WrongRole { .. }
            | Self::SchemaTooNew { .. } => 500,
            _ => 400,
        }
    }

    /// The code that Cloudflare's REST API gives for it.
    pub fn api_code(&self) -> u32 {
        match self {
            Self::KeyEmpty | Self::KeyReserved(_) => 10042,
            Self::KeyTooLong(_) => 10030,
            Self::NamespaceInvalid => 10011,
            Self::ValueTooLarge(_)
            | Self::BulkGetTooLarge
            | Self::BulkTooMany(_)
            | Self::BulkTooLarge(_) => 10024,
            Self::MetadataTooLarge(_) | Self::MetadataInvalid => 10047,
            Self::TtlNotPositive(_) | Self::TtlTooShort(_) => 10034,
            Self::ExpirationPast(_) | Self::ExpirationTooSoon(_) => 10033,
            Self::ListLimitTooSmall(_) | Self::ListLimitTooLarge(_) => 10028,
            Self::CursorInvalid => 10041,
            Self::BulkGetEmpty | Self::BulkGetTooMany => 10029,
            Self::Overloaded => 10022,
            Self::Closed
            | Self::Unavailable(_)
            | Self::OutcomeUnknown(_)
            | Self::ValueAway(_)
            | Self::Storage { .. }
            | Self::InUse { .. }
            | Self::WrongRole { .. }
            | Self::SchemaTooNew { .. } => 10001,
        }
    }

    /// The message for someone outside the node: it keeps the engine's own words and paths back.
    pub fn public_message(&self) -> Cow<'static, str> {
        match self {
            Self::Storage { .. }
            | Self::InUse { .. }
            | Self::WrongRole { .. }
            | Self::SchemaTooNew { .. } => Cow::Borrowed("Internal Server Error"),
            Self::Closed => Cow::Borrowed("Service Unavailable"),
            Self::Unavailable(_) => Cow::Borrowed(
                "Service Unavailable: writes are not possible now, and nothing was written",
            ),
            Self::ValueAway(_) => {
                Cow::Borrowed("Service Unavailable: the value cannot be fetched now")
            }
            Self::OutcomeUnknown(_) => {
                Cow::Borrowed("Service Unavailable, it is unknown whether the write was stored")
            }
            fault => Cow::Owned(fault.to_string()),
        }
    }

    /// Whether Workers KV throws a `TypeError` for it, and an `Error` otherwise.
    pub fn is_type_error(&self) -> bool {
        matches!(self, Self::KeyEmpty | Self::KeyReserved(_))
    }

    /// The message of the exception that a worker sees, such as
    /// `KV PUT failed: 414 UTF-8 encoded length of 513 exceeds key length limit of 512.`
    pub fn thrown_by(&self, operation: Operation) -> String {
        let message = self.public_message();
        if self.is_type_error() {
            return message.into_owned();
        }
        format!("KV {} failed: {} {message}", operation.method(), self.status())
    }
}

/// What is left of a cause once it has crossed to another process.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct ForeignCause(String);

fn as_text<S: Serializer>(cause: &Cause, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(cause)
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cause, D::Error> {
    Ok(Arc::new(ForeignCause(String::deserialize(deserializer)?)))
}

/// A path of bytes that are no text must not make an error impossible to report.
fn as_lossy_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_see_the_texts_of_workers_kv() {
        let check = |error: KvError, operation, expected: &str| {
            assert_eq!(error.thrown_by(operation), expected);
        };
        check(KvError::KeyEmpty, Operation::Get, "Key name cannot be empty.");
        check(
            KvError::KeyReserved("..".into()),
            Operation::Put,
            "\"..\" is not allowed as a key name.",
        );
        check(
            KvError::KeyTooLong(513),
            Operation::Put,
            "KV PUT failed: 414 UTF-8 encoded length of 513 exceeds key length limit of 512.",
        );
        check(
            KvError::TtlTooShort(59),
            Operation::Put,
            "KV PUT failed: 400 Invalid expiration_ttl of 59. Expiration TTL must be at least 60.",
        );
        check(
            KvError::ValueTooLarge(26_214_401),
            Operation::Put,
            "KV PUT failed: 413 Value length of 26214401 exceeds limit of 26214400.",
        );
        check(
            KvError::ListLimitTooLarge(1001),
            Operation::List,
            "KV GET failed: 400 Invalid key_count_limit of 1001. Please specify an integer less \
             than 1000.",
        );
        check(KvError::Overloaded, Operation::Delete, "KV DELETE failed: 429 Too Many Requests");
    }

    #[test]
    fn the_engines_words_stay_inside() {
        let cause: Cause = Arc::new(std::io::Error::other("disk of /srv/secret is full"));
        let error = KvError::Storage { action: "commit".into(), cause };
        assert_eq!(error.thrown_by(Operation::Put), "KV PUT failed: 500 Internal Server Error");
        assert!(error.to_string().contains("/srv/secret"));
    }
    #[test]
    fn every_error_crosses_to_another_process() {
        let cause: Cause = Arc::new(std::io::Error::other("disk full"));
        let errors = [
            KvError::KeyEmpty,
            KvError::KeyReserved(".".into()),
            KvError::KeyTooLong(513),
            KvError::NamespaceInvalid,
            KvError::ValueTooLarge(26_214_401),
            KvError::MetadataTooLarge(1025),
            KvError::MetadataInvalid,
            KvError::TtlNotPositive(-1),
            KvError::TtlTooShort(59),
            KvError::ExpirationPast(i64::MIN),
            KvError::ExpirationTooSoon(i64::MAX),
            KvError::ListLimitTooSmall(0),
            KvError::ListLimitTooLarge(1001),
            KvError::CursorInvalid,
            KvError::BulkGetEmpty,
            KvError::BulkGetTooMany,
            KvError::BulkGetTooLarge,
            KvError::BulkTooMany(10_001),
            KvError::BulkTooLarge(usize::MAX),
            KvError::Overloaded,
            KvError::Closed,
            KvError::Storage { action: "commit".into(), cause },
            KvError::InUse { path: "kv.sqlite".into() },
            KvError::SchemaTooNew { found: 9, supported: 1 },
            KvError::Unavailable("no server".into()),
            KvError::OutcomeUnknown("no answer".into()),
            KvError::ValueAway("no server".into()),
            KvError::WrongRole { path: "kv.sqlite".into() },
        ];
        for error in errors {
            let bytes = rmp_serde::to_vec(&error).unwrap();
            let crossed: KvError = rmp_serde::from_slice(&bytes).unwrap();
            assert_eq!(std::mem::discriminant(&crossed), std::mem::discriminant(&error));
            assert_eq!(crossed.to_string(), error.to_string());
        }
    }
}
