//! The node's key and what it seals: secrets at rest. The key is a file beside the database and
//! never in it, so a copy of the database alone reveals no secret.

use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hkdf, hmac};

use super::{RegistryError, private_file};

const KEY_BYTES: usize = 32;
pub(super) const KEY_FILE: &str = "node.key";
/// What a key's check is made over.
const CHECKED: &[u8] = b"atoll: the key of a cluster's registry";
/// What derived keys begin with.
const DERIVED: &[u8] = b"atoll: keys derived from a node's key";

/// Seals and opens secrets with AES-256-GCM under a key that only this node has, or only those of its
/// cluster.
pub(super) struct NodeKey {
    key: RandomizedNonceKey,
    check: hmac::Tag,
    derived: hkdf::Prk,
}

/// How many bytes HKDF shall give.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// Sealed bytes could not be opened: another key, another context, or damage.
#[derive(Debug)]
pub(super) struct CannotOpen;

impl NodeKey {
    /// Reads `<dir>/node.key`, or makes one on first use.
    pub(super) fn open(dir: &Path) -> Result<Self, RegistryError> {
        Self::open_file(&dir.join(KEY_FILE))
    }

    /// Reads a key, or makes one where there is none.
    pub(super) fn open_file(path: &Path) -> Result<Self, RegistryError> {
        let bytes =
            private_file::read_or_create(path, || rand::random::<[u8; KEY_BYTES]>().to_vec())?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(|_| {
            let source = std::io::Error::other(format!(
                "it holds {} bytes, not {KEY_BYTES}: restore it from a backup",
                bytes.len()
            ));
            RegistryError::File { path: path.to_owned(), source }
        })?;
        let check = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), CHECKED);
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, DERIVED).extract(&bytes);
        Ok(Self { key, check, derived })
    }

    /// What tells this key from another, without telling the key.
    pub(super) fn check(&self) -> &[u8] {
        self.check.as_ref()
    }

    /// Another key for a purpose, from which this one cannot be told (RFC 5869).
    pub(super) fn derive<const BYTES: usize>(&self, purpose: &[&[u8]]) -> [u8; BYTES] {
        let mut derived = [0; BYTES];
        self.derived
            .expand(purpose, Length(BYTES))
            .and_then(|expanded| expanded.fill(&mut derived))
            .expect("no purpose needs more than HKDF can give");
        derived
    }

    /// Encrypts `plain`, bound to `context`: it opens only with the same context. The result is
    /// the nonce, the ciphertext and the tag.
    pub(super) fn seal(&self, context: &str, mut plain: Vec<u8>) -> Vec<u8> {
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(context.as_bytes()), &mut plain)
            .expect("AES-GCM takes any secret that fits in memory");
        let mut sealed = nonce.as_ref().to_vec();
        sealed.append(&mut plain);
        sealed
    }

    /// Decrypts what `seal` made with the same context.
    pub(super) fn open_sealed(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>, CannotOpen> {
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE_LEN).ok_or(CannotOpen)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| CannotOpen)?;
        let mut buffer = ciphertext.to_vec();
        let plain = self
            .key
            .open_in_place(nonce, Aad::from(context.as_bytes()), &mut buffer)
            .map_err(|_| CannotOpen)?;
        Ok(plain.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_open_only_whole_and_in_their_context() {
        let dir = tempfile::tempdir().unwrap();
        let key = NodeKey::open(dir.path()).unwrap();
        let sealed = key.seal("a", b"secret".to_vec());
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(key.open_sealed("a", &sealed).unwrap(), b"secret");
        assert!(key.open_sealed("b", &sealed).is_err());
        assert!(key.open_sealed("a", &sealed[1..]).is_err());
        assert!(key.open_sealed("a", b"short").is_err());
        assert_ne!(sealed, key.seal("a", b"secret".to_vec()), "nonces are never reused");
    }

    #[test]
    fn the_key_survives_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let sealed = NodeKey::open(dir.path()).unwrap().seal("a", b"x".to_vec());
        assert_eq!(NodeKey::open(dir.path()).unwrap().open_sealed("a", &sealed).unwrap(), b"x");
        let path = dir.path().join(KEY_FILE);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, b"short").unwrap();
        assert!(NodeKey::open(dir.path()).is_err());
    }
}
