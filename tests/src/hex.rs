//! Digests as text.

use sha2::{Digest, Sha256};

/// The first sixteen hexadecimal digits of a SHA-256.
pub(crate) fn short_digest(bytes: &[u8]) -> String {
    let mut text = full(&Sha256::digest(bytes));
    text.truncate(16);
    text
}

/// Every byte as two hexadecimal digits.
pub(crate) fn full(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
