//! MurmurHash3 (Appleby, 2011) and what is made of it, the same on every node, in every release and in every other
//! implementation: buckets of units under seeds, by its x86 32 variant, and what stands for a unit, by its x64 128.

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
    pub(super) fn bucket(mut self, unit: &[u8]) -> u16 {
        self.append(unit);
        let bucket = (u64::from(self.finish()) * u64::from(BUCKETS)) >> 32;
        u16::try_from(bucket).expect("a fraction of 10,000 fits")
    }

    fn append(&mut self, bytes: &[u8]) {
        let carried = self.length as usize % 4;
        self.length = self.length.wrapping_add(bytes.len() as u32);
        let (words, rest) = bytes.as_chunks::<4>();
        // What is carried has the low bits of every word, and its high bits are carried on.
        let with_carry =
            |carry: u32, word: u32| u64::from(word) << (8 * carried) | u64::from(carry);
        for word in words {
            let both = with_carry(self.carry, u32::from_le_bytes(*word));
            self.mix(both as u32);
            self.carry = (both >> 32) as u32;
        }
        let mut both = with_carry(self.carry, word(rest));
        if carried + rest.len() >= 4 {
            self.mix(both as u32);
            both >>= 32;
        }
        self.carry = both as u32;
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

/// At most four bytes, the first one lowest.
fn word(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

fn scrambled(word: u32) -> u32 {
    word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593)
}

/// The bucket of a unit under a seed, from 0 to 9,999.
pub fn bucket(seed: &str, unit: &str) -> u16 {
    Seed::new(seed).bucket(unit.as_bytes())
}

/// The constants of the x64 128 variant.
const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

/// 64 bits that stand for a unit: the first half of murmur3_x64_128 of it, with the seed 0. They have nothing to do
/// with its buckets.
pub fn unit_hash(unit: impl AsRef<[u8]>) -> u64 {
    let unit = unit.as_ref();
    let (mut first, mut second) = (0_u64, 0_u64);
    let (blocks, rest) = unit.as_chunks::<16>();
    for block in blocks {
        let block = u128::from_le_bytes(*block);
        first ^= scrambled_first(block as u64);
        first = first.rotate_left(27).wrapping_add(second);
        first = first.wrapping_mul(5).wrapping_add(0x52dc_e729);
        second ^= scrambled_second((block >> 64) as u64);
        second = second.rotate_left(31).wrapping_add(first);
        second = second.wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let last = rest.iter().rev().fold(0, |last, byte| last << 8 | u128::from(*byte));
    first ^= scrambled_first(last as u64);
    second ^= scrambled_second((last >> 64) as u64);
    let length = unit.len() as u64;
    (first, second) = (first ^ length, second ^ length);
    first = first.wrapping_add(second);
    second = second.wrapping_add(first);
    avalanched(first).wrapping_add(avalanched(second))
}

fn scrambled_first(word: u64) -> u64 {
    word.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

fn scrambled_second(word: u64) -> u64 {
    word.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

fn avalanched(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
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

    /// Each as the reference implementation has it; lengths on both sides of every boundary of a block and a word.
    #[test]
    fn what_stands_for_a_unit_is_what_is_published() {
        for (unit, expected) in UNIT_VECTORS {
            assert_eq!(unit_hash(unit), expected, "{unit:?}");
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

    const UNIT_VECTORS: [(&str, u64); 11] = [
        ("", 0),
        ("1", 0x71fb_bbfe_8a7b_7c71),
        ("user-42", 0x4d32_de26_9f8f_faa2),
        ("b6c2a1f0", 0x0678_2d8d_6f33_a04e),
        ("b6c2a1f04", 0x739a_bb3e_e4cc_b978),
        ("b6c2a1f04d3e4c5", 0xa0ba_d65f_2d40_df8a),
        ("b6c2a1f04d3e4c5f", 0x8f93_1f46_a1fa_2cf3),
        ("b6c2a1f04d3e4c5f9", 0xa049_1ec8_6bfc_5134),
        ("b6c2a1f04d3e4c5f9a8b7c6d5e4f3a2b", 0xf4ad_457e_8cb3_c6b9),
        ("zürich", 0x7a5f_88d9_3ddd_7b31),
        ("The quick brown fox jumps over the lazy dog", 0xe34b_bc7b_bc07_1b6c),
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
