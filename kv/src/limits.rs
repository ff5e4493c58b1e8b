//! The limits that Workers KV documents, by name. Every implementation enforces the same ones.

/// Bytes of UTF-8 in a key or a prefix, at most.
pub const KEY_BYTES_MAX: usize = 512;
/// Bytes in a value, at most.
pub const VALUE_BYTES_MAX: usize = 25 * 1024 * 1024;
/// Bytes of serialised JSON in a key's metadata, at most.
pub const METADATA_BYTES_MAX: usize = 1024;
/// Seconds between a write and its expiration, at least.
pub const EXPIRATION_TTL_S_MIN: i64 = 60;
/// Keys on one page of a list, at most; also the default.
pub const LIST_KEYS_MAX: usize = 1000;
/// Keys in one bulk read, at most.
pub const BULK_GET_KEYS_MAX: usize = 100;
/// Bytes of all values that one bulk read returns, at most.
pub const BULK_GET_BYTES_MAX: usize = 25 * 1024 * 1024;
/// Pairs in one bulk write, and keys in one bulk delete, at most.
pub const BULK_PAIRS_MAX: usize = 10_000;
/// Bytes of keys, values and metadata in one bulk write, at most.
pub const BULK_BYTES_MAX: usize = 100 * 1024 * 1024;
