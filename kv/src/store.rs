//! The seam between those who use a key-value store and the engines behind it.

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::entry::{BulkWrite, Entry, PutOptions};
use crate::error::KvError;
use crate::key::{Key, NamespaceId};
use crate::limits::BULK_GET_KEYS_MAX;
use crate::list::{ListOptions, ListPage};

/// What every operation of a store returns: it borrows nothing and can be awaited anywhere.
pub type KvFuture<T> = BoxFuture<'static, Result<T, KvError>>;

/// A key-value store of isolated namespaces with the operations and limits of Workers KV.
///
/// A namespace exists from its first write; an unknown one reads as empty. On the node that wrote,
/// an acknowledged write is durable and seen by every read that begins after it, and the reads of
/// one key never go back in time.
///
/// An operation is under way from the call, not from the first poll. Dropping its future does not
/// undo it. Any operation can fail with `Overloaded`, `Closed` or `Storage`.
pub trait KvStore: Send + Sync + 'static {
    /// Reads a key; none if it is absent or expired. Ready at once if memory has the answer.
    fn get(&self, namespace: &NamespaceId, key: &Key) -> KvFuture<Option<Entry>>;

    /// Reads 1 to 100 keys, answering in their order.
    ///
    /// # Errors
    /// `BulkGetEmpty`, `BulkGetTooMany`, or `BulkGetTooLarge` if the values pass 25 MiB together.
    fn get_many(&self, namespace: &NamespaceId, keys: Vec<Key>) -> KvFuture<Vec<Option<Entry>>>;

    /// Stores a value, in place of what was there with its metadata and expiration.
    ///
    /// # Errors
    /// Those of `Entry::from_put`.
    fn put(
        &self,
        namespace: &NamespaceId,
        key: &Key,
        value: Bytes,
        options: PutOptions,
    ) -> KvFuture<()>;

    /// Removes a key; removing an absent one succeeds.
    fn delete(&self, namespace: &NamespaceId, key: &Key) -> KvFuture<()>;

    /// Stores up to 10,000 pairs in their order. No pair is stored if one breaks a limit.
    ///
    /// # Errors
    /// Those of `Entry::from_bulk`.
    fn write_bulk(&self, namespace: &NamespaceId, writes: Vec<BulkWrite>) -> KvFuture<()>;

    /// Removes up to 10,000 keys.
    ///
    /// # Errors
    /// `BulkTooMany`.
    fn delete_bulk(&self, namespace: &NamespaceId, keys: Vec<Key>) -> KvFuture<()>;

    /// Lists keys in the order of their bytes.
    ///
    /// # Errors
    /// Those of `ListOptions::check`.
    fn list(&self, namespace: &NamespaceId, options: ListOptions) -> KvFuture<ListPage>;

    /// Removes a namespace with all its keys.
    fn drop_namespace(&self, namespace: &NamespaceId) -> KvFuture<()>;
}

/// Refuses a bulk read of no key or of too many.
pub(crate) fn check_get_many(keys: &[Key]) -> Result<(), KvError> {
    match keys.len() {
        0 => Err(KvError::BulkGetEmpty),
        count if count > BULK_GET_KEYS_MAX => Err(KvError::BulkGetTooMany),
        _ => Ok(()),
    }
}
