//! Long bodies that need no memory: bytes made from a seed, and a running digest of bytes seen.

use bytes::Bytes;
use sha2::Digest as _;

/// Pseudo-random bytes (xorshift64*), the same for the same seed.
pub struct Seed(u64);

impl Seed {
    /// A generator; a seed of zero would yield zeros only and becomes one.
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// The next `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Bytes {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            bytes.extend_from_slice(&self.0.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
        }
        bytes.truncate(length);
        bytes.into()
    }
}

/// A running SHA-256 and a count.
#[derive(Default)]
pub struct Digest {
    sha256: sha2::Sha256,
    length: u64,
}

impl Digest {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// The count and the digest in hexadecimal.
    pub fn finish(self) -> (u64, String) {
        (self.length, crate::hex::full(&self.sha256.finalize()))
    }
}
