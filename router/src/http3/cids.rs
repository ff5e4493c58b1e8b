//! Connection ids that say, to us alone, which thread has the connection: a client's packets find it also
//! after the client's address has changed, when the kernel hands them to another thread.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::quic::{AES_128, HeaderProtectionKey};
use quinn::{ConnectionId, ConnectionIdGenerator};

/// Random bytes of an id, all that others see.
const NONCE_BYTES: usize = 8;
/// What is hidden under the nonce's mask: the thread's place, and zeros that show that the id is ours.
const HIDDEN_BYTES: usize = 5;
/// An id as a whole.
pub(super) const CID_BYTES: usize = NONCE_BYTES + HIDDEN_BYTES;
/// What the mask is made of.
const SAMPLE_BYTES: usize = 16;

/// What the place in ids is hidden with. Every thread of the node has the same.
pub(super) struct CidKey(HeaderProtectionKey);

impl CidKey {
    pub(super) fn new(secret: &[u8; 16]) -> Arc<Self> {
        let key = HeaderProtectionKey::new(&AES_128, secret);
        Arc::new(Self(key.expect("the secret has the length of a key")))
    }

    fn mask(&self, nonce: &[u8]) -> [u8; HIDDEN_BYTES] {
        let mut sample = [0; SAMPLE_BYTES];
        sample[..NONCE_BYTES].copy_from_slice(nonce);
        self.0.new_mask(&sample).expect("the sample has the length of a block")
    }

    fn make(&self, place: u16) -> ConnectionId {
        let mut id = [0; CID_BYTES];
        aws_lc_rs::rand::fill(&mut id[..NONCE_BYTES]).expect("the system has random numbers");
        let mask = self.mask(&id[..NONCE_BYTES]);
        id[NONCE_BYTES..NONCE_BYTES + 2].copy_from_slice(&place.to_be_bytes());
        id[NONCE_BYTES..].iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        ConnectionId::new(&id)
    }

    /// The place of the thread that made an id; none when nobody here did.
    pub(super) fn place_of(&self, id: &[u8]) -> Option<u16> {
        let (nonce, hidden) = id.split_at_checked(NONCE_BYTES)?;
        let hidden: [u8; HIDDEN_BYTES] = hidden.try_into().ok()?;
        let mask = self.mask(nonce);
        let [high, low, zeros @ ..]: [u8; HIDDEN_BYTES] =
            std::array::from_fn(|at| hidden[at] ^ mask[at]);
        (zeros == [0; HIDDEN_BYTES - 2]).then(|| u16::from_be_bytes([high, low]))
    }
}

impl fmt::Debug for CidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CidKey")
    }
}

/// Makes the ids of one thread.
pub(super) struct Cids {
    pub(super) key: Arc<CidKey>,
    pub(super) place: u16,
}

impl ConnectionIdGenerator for Cids {
    fn generate_cid(&mut self) -> ConnectionId {
        self.key.make(self.place)
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_its_place_to_the_key_alone() {
        let (key, other) = (CidKey::new(&[1; 16]), CidKey::new(&[2; 16]));
        for place in [0, 1, 255, 256, u16::MAX] {
            let id = key.make(place);
            assert_eq!(key.place_of(&id), Some(place));
            assert_eq!(other.place_of(&id), None);
            assert_ne!(&*id, &*key.make(place));
        }
        assert_eq!(key.place_of(&[0; CID_BYTES - 1]), None);
        assert_eq!(key.place_of(&[0; CID_BYTES + 1]), None);
    }
}
