//! MurmurHash3 x86 32 (Appleby, 2011) and the buckets that are made of it: the same unit of the same seed is in
//! the same bucket on every node, in every release and in every other implementation.

use std::sync::LazyLock;

/// The buckets that units are spread over. A hundredth of a percent is one bucket.
pub const BUCKETS: u16 = 10_000;

/// A seed's text and the colon after it, hashed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seed {
    hash: u32,
    /// The bytes past the last whole word, the first one lowest.
    carry: u32,
    length: u32,
}

impl Seed {
    pub(super) fn new(text: &str) -> Self {
        let mut seed = Self { hash: 0, carry: 0, length: 0 };
        seed.append(text.as_bytes());
        seed.append(b":");
        seed
    }

    /// The bucket of a unit: `murmur3_x86_32(seed ":" unit, 0) * 10000 >> 32`.
    pub(super) fn bucket(mut self, unit: &str) -> u16 {
        self.append(unit.as_bytes());
        let bucket = (u64::from(self.finish()) * u64::from(BUCKETS)) >> 32;
        u16::try_from(bucket).expect("a fraction of 10,000 fits")
    }

    fn append(&mut self, bytes: &[u8]) {
        let shift = 8 * (self.length % 4);
        let (words, rest) = bytes.as_chunks::<4>();
        for word in words {
            let both = u64::from(self.carry) | u64::from(u32::from_le_bytes(*word)) << shift;
            self.mix(both as u32);
            self.carry = (both >> 32) as u32;
        }
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        let both = u64::from(self.carry) | u64::from(u32::from_le_bytes(last)) << shift;
        self.carry = both as u32;
        if shift / 8 + rest.len() as u32 >= 4 {
            self.mix(both as u32);
            self.carry = (both >> 32) as u32;
        }
        self.length = self.length.wrapping_add(bytes.len() as u32);
    }

    fn mix(&mut self, word: u32) {
        self.hash ^= scrambled(word);
        self.hash = self.hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }

    fn finish(self) -> u32 {
        let mut hash = self.hash ^ scrambled(self.carry) ^ self.length;
        hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
        hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
        hash ^ (hash >> 16)
    }
}

fn scrambled(word: u32) -> u32 {
    word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593)
}

/// 64 bits that stand for a unit: murmur3_x86_32 of `unit.0:` and the unit, and of `unit.1:` and the unit. They
/// have nothing to do with its buckets.
pub fn unit_hash(unit: &str) -> u64 {
    static SEEDS: LazyLock<[Seed; 2]> = LazyLock::new(|| ["unit.0", "unit.1"].map(Seed::new));
    let [mut upper, mut lower] = *SEEDS;
    upper.append(unit.as_bytes());
    lower.append(unit.as_bytes());
    u64::from(upper.finish()) << 32 | u64::from(lower.finish())
}

/// The bucket of a unit under a seed, from 0 to 9,999.
pub fn bucket(seed: &str, unit: &str) -> u16 {
    Seed::new(seed).bucket(unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hash(text: &[u8]) -> u32 {
        let mut seed = Seed { hash: 0, carry: 0, length: 0 };
        seed.append(text);
        seed.finish()
    }

    #[test]
    fn agrees_with_published_vectors() {
        for (text, expected) in [
            ("", 0),
            ("test", 0xba6b_d213),
            ("Hello, world!", 0xc036_3e43),
            ("The quick brown fox jumps over the lazy dog", 0x2e4f_f723),
        ] {
            assert_eq!(hash(text.as_bytes()), expected, "{text:?}");
        }
    }

    /// The vectors of docs/rules.md.
    #[test]
    fn buckets_are_those_that_are_published() {
        for (seed, unit, expected) in VECTORS {
            assert_eq!(bucket(seed, unit), expected, "{seed} {unit}");
        }
    }

    const VECTORS: [(&str, &str, u16); 9] = [
        ("checkout", "1", 6692),
        ("checkout", "2", 458),
        ("checkout", "user-42", 5547),
        ("checkout", "b6c2a1f04d3e4c5f9a8b7c6d5e4f3a2b", 4544),
        ("checkout", "zürich", 9225),
        ("layer.main", "user-42", 6224),
        ("holdout.global", "user-42", 2247),
        ("price-test", "user-42", 4079),
        ("a", "", 9430),
    ];

    proptest! {
        #[test]
        fn pieces_hash_as_the_whole(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..5),
        ) {
            let mut seed = Seed { hash: 0, carry: 0, length: 0 };
            for piece in &pieces {
                seed.append(piece);
            }
            prop_assert_eq!(seed.finish(), hash(&pieces.concat()));
        }
    }
}
