//! How ids are made of numbers in a row, and weights of hashes.

/// The output of splitmix64 for a state (Steele, Lea, Flood 2014): states that differ little give numbers that have
/// nothing in common.
pub(super) fn mixed(state: u64) -> u64 {
    let mut mixed = state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// By what states differ.
pub(super) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
