//! A stored value, and the checks that make one from what a caller asks to put.

use std::sync::Arc;

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::error::KvError;
use crate::key::Key;
use crate::limits::{
    BULK_BYTES_MAX, BULK_PAIRS_MAX, EXPIRATION_TTL_S_MIN, METADATA_BYTES_MAX, VALUE_BYTES_MAX,
};

/// A value as a store keeps it. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value's bytes.
    pub value: Bytes,
    /// The JSON text that was stored beside the value.
    pub metadata: Option<Arc<str>>,
    /// The moment from which the key is absent, in seconds since the Unix epoch.
    pub expiration: Option<u64>,
}

/// What a put asks for beside the value. The default is a value that never expires.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutOptions {
    /// When the key expires, in seconds since the Unix epoch. Signed, as callers send it.
    pub expiration: Option<i64>,
    /// In how many seconds the key expires. It wins over `expiration`. Signed, as callers send it.
    pub expiration_ttl: Option<i64>,
    /// Any JSON value as its text.
    pub metadata: Option<Arc<str>>,
}

/// One pair of a bulk write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkWrite {
    /// Where to store.
    pub key: Key,
    /// What to store.
    pub value: Bytes,
    /// How long, and with what metadata.
    pub options: PutOptions,
}

impl Entry {
    /// Checks a put at the time `now_s` and makes the entry to store.
    ///
    /// # Errors
    /// The error that names the broken limit.
    pub fn from_put(value: Bytes, options: PutOptions, now_s: u64) -> Result<Self, KvError> {
        let expiration = options.expiration_at(now_s)?;
        if let Some(metadata) = &options.metadata {
            check_metadata(metadata)?;
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(KvError::ValueTooLarge(value.len()));
        }
        Ok(Self { value, metadata: options.metadata, expiration })
    }

    /// Checks a bulk write at the time `now_s` and makes the entries to store.
    ///
    /// # Errors
    /// The error that names the first broken limit; then no pair may be stored.
    pub fn from_bulk(writes: Vec<BulkWrite>, now_s: u64) -> Result<Vec<(Key, Self)>, KvError> {
        check_bulk_count(writes.len())?;
        let bytes = writes.iter().map(BulkWrite::bytes).sum();
        if bytes > BULK_BYTES_MAX {
            return Err(KvError::BulkTooLarge(bytes));
        }
        writes
            .into_iter()
            .map(|write| Ok((write.key, Self::from_put(write.value, write.options, now_s)?)))
            .collect()
    }

    /// Whether the key counts as absent at the time `now_s`.
    pub fn is_expired(&self, now_s: u64) -> bool {
        is_expired(self.expiration, now_s)
    }
}

impl PutOptions {
    fn expiration_at(&self, now_s: u64) -> Result<Option<u64>, KvError> {
        let now_s = i64::try_from(now_s).unwrap_or(i64::MAX);
        let soonest = now_s.saturating_add(EXPIRATION_TTL_S_MIN);
        let expiration = match (self.expiration_ttl, self.expiration) {
            (Some(ttl), _) if ttl <= 0 => return Err(KvError::TtlNotPositive(ttl)),
            (Some(ttl), _) if ttl < EXPIRATION_TTL_S_MIN => return Err(KvError::TtlTooShort(ttl)),
            (Some(ttl), _) => now_s.saturating_add(ttl),
            (None, Some(at)) if at <= now_s => return Err(KvError::ExpirationPast(at)),
            (None, Some(at)) if at < soonest => return Err(KvError::ExpirationTooSoon(at)),
            (None, Some(at)) => at,
            (None, None) => return Ok(None),
        };
        Ok(Some(expiration.unsigned_abs()))
    }
}

impl BulkWrite {
    fn bytes(&self) -> usize {
        let metadata = self.options.metadata.as_ref().map_or(0, |text| text.len());
        self.key.as_str().len() + self.value.len() + metadata
    }
}

/// Refuses a bulk write or delete of too many keys.
pub(crate) fn check_bulk_count(keys: usize) -> Result<(), KvError> {
    if keys > BULK_PAIRS_MAX { Err(KvError::BulkTooMany(keys)) } else { Ok(()) }
}

/// Whether an expiration has come at the time `now_s`.
pub(crate) fn is_expired(expiration: Option<u64>, now_s: u64) -> bool {
    expiration.is_some_and(|at| at <= now_s)
}

fn check_metadata(metadata: &str) -> Result<(), KvError> {
    if metadata.len() > METADATA_BYTES_MAX {
        return Err(KvError::MetadataTooLarge(metadata.len()));
    }
    serde_json::from_str::<IgnoredAny>(metadata).map_err(|_| KvError::MetadataInvalid)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_000_000;

    #[test]
    fn expirations_are_checked() {
        let check = |expiration, expiration_ttl, expected: Result<Option<u64>, &str>| {
            let options = PutOptions { expiration, expiration_ttl, metadata: None };
            let found = Entry::from_put(Bytes::new(), options, NOW_S).map(|entry| entry.expiration);
            let found = found.map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned));
        };
        check(None, None, Ok(None));
        check(None, Some(60), Ok(Some(NOW_S + 60)));
        check(Some(5), Some(60), Ok(Some(NOW_S + 60)));
        check(Some(1_000_060), None, Ok(Some(NOW_S + 60)));
        check(None, Some(i64::MAX), Ok(Some(i64::MAX as u64)));
        let ttl_short = "Invalid expiration_ttl of 59. Expiration TTL must be at least 60.";
        check(None, Some(59), Err(ttl_short));
        let ttl_negative = "Invalid expiration_ttl of -1. Please specify integer greater than 0.";
        check(None, Some(-1), Err(ttl_negative));
        let past = "Invalid expiration of 1000000. Please specify integer greater than the current \
                    number of seconds since the UNIX epoch.";
        check(Some(1_000_000), None, Err(past));
        let soon = "Invalid expiration of 1000059. Expiration times must be at least 60 seconds in \
                    the future.";
        check(Some(1_000_059), None, Err(soon));
    }

    #[test]
    fn metadata_and_values_are_checked() {
        let check = |value: usize, metadata: &str, expected: Option<&str>| {
            let options = PutOptions { metadata: Some(metadata.into()), ..Default::default() };
            let found = Entry::from_put(vec![0; value].into(), options, NOW_S);
            assert_eq!(found.err().map(|error| error.to_string()).as_deref(), expected);
        };
        check(0, "null", None);
        check(1, &format!("\"{}\"", "x".repeat(1022)), None);
        let long = format!("\"{}\"", "x".repeat(1023));
        check(1, &long, Some("Metadata length of 1025 exceeds limit of 1024."));
        check(1, &format!("{}{}", "[".repeat(512), "]".repeat(512)), None);
        check(1, "{", Some("Metadata must be valid JSON."));
        check(VALUE_BYTES_MAX, "1", None);
        let large = "Value length of 26214401 exceeds limit of 26214400.";
        check(VALUE_BYTES_MAX + 1, "1", Some(large));
    }
}
