//! A key's change as a record of a log, and back.
//!
//! The subject is `<namespace>.<key>`, the key in base32hex, which any bytes become a token in.
//! A put carries the value, or the name of one in the blob store; a delete is a record without
//! one; a drop of a namespace lies on a subject that no key has.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::entry::Entry;
use crate::key::{Key, NamespaceId};
use crate::log::{Append, BlobHash, Record};
use crate::sqlite::{Blob, ReplicaRecord, What};

/// Seconds since the epoch at which a put expires.
const EXPIRES: &str = "Expires";
/// A put's metadata in base64: JSON may hold line breaks, a header may not.
const METADATA: &str = "Metadata";
/// The hash and the size of a put's value in the blob store.
const BLOB: &str = "Blob";
/// Marks a delete.
const DELETED: &str = "Deleted";
/// The sequence below which a drop removes records; without it, the drop's own.
const BEFORE: &str = "Before";
/// Stands where a key would, in a drop's subject. No key's token has it.
const ALL_KEYS: &str = "-";
const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";

/// The shard of a key. All nodes, and all versions of this program, agree on it.
pub(super) fn shard_of(namespace: &NamespaceId, key: &Key, shards: u16) -> u16 {
    let mut hash = Sha256::new();
    hash.update(namespace.as_str());
    hash.update(key.as_str());
    let hash = hash.finalize();
    let head = u64::from_be_bytes(hash[..8].try_into().expect("a hash has 32 bytes"));
    u16::try_from(head % u64::from(shards)).expect("it is below a number of 16 bits")
}

/// The record of a put. It lives as long as its key, and never so short that a node which was away
/// for less than `absence` misses it: it may have replaced one that never expired.
pub(super) fn put(
    namespace: &NamespaceId,
    key: &Key,
    entry: &Entry,
    blob: Option<Blob>,
    now_s: u64,
    absence: Duration,
) -> Append {
    let payload = if blob.is_some() { Bytes::new() } else { entry.value.clone() };
    let mut append = Append::new(subject(namespace, key), payload);
    if let Some(expiration) = entry.expiration {
        let rest = Duration::from_secs(expiration.saturating_sub(now_s));
        // One that lasts longer than any server's clock does not expire there.
        if rest < MUCH_TIME {
            append = append.ttl(rest.max(absence));
        }
        append = append.header(EXPIRES, expiration.to_string());
    }
    if let Some(metadata) = &entry.metadata {
        append = append.header(METADATA, BASE64_STANDARD_NO_PAD.encode(metadata.as_bytes()));
    }
    if let Some(blob) = blob {
        append = append.header(BLOB, format!("{}:{}", blob.hash, blob.size));
    }
    append
}

/// A time to live past which a record lives for ever: servers count in nanoseconds of 64 bits.
const MUCH_TIME: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The record of a delete.
pub(super) fn delete(namespace: &NamespaceId, key: &Key, absence: Duration) -> Append {
    Append::new(subject(namespace, key), Bytes::new()).header(DELETED, "1").ttl(absence)
}

/// The record of a drop: of everything below its own sequence, and for ever; or of everything below
/// `before`, once the log holds nothing of that any more.
pub(super) fn dropped(namespace: &NamespaceId, before: Option<(u64, Duration)>) -> Append {
    let append = Append::new(format!("{namespace}.{ALL_KEYS}"), Bytes::new()).header(DELETED, "1");
    match before {
        None => append,
        Some((before, absence)) => append.header(BEFORE, before.to_string()).ttl(absence),
    }
}

/// The filter for all keys of a namespace.
pub(super) fn all_keys(namespace: &NamespaceId) -> String {
    format!("{namespace}.*")
}

/// Reads a record; none if another version of this program wrote it in a way that this one does not
/// know.
pub(super) fn decode(record: Record) -> Option<ReplicaRecord> {
    let (namespace, token) = record.subject.split_once('.')?;
    let namespace = NamespaceId::parse(namespace).ok()?;
    let sequence = record.sequence;
    if token == ALL_KEYS {
        let before = match record.header(BEFORE) {
            Some(text) => text.parse().ok()?,
            None => sequence,
        };
        return Some(ReplicaRecord { sequence, namespace, what: What::Drop { before } });
    }
    let key = Key::parse(&String::from_utf8(from_base32(token)?).ok()?).ok()?;
    if record.header(DELETED).is_some() {
        return Some(ReplicaRecord { sequence, namespace, what: What::Delete(key) });
    }
    let expiration = record.header(EXPIRES).map(str::parse).transpose().ok()?;
    let metadata = match record.header(METADATA) {
        Some(text) => {
            let bytes = BASE64_STANDARD_NO_PAD.decode(text).ok()?;
            Some(String::from_utf8(bytes).ok()?.into())
        }
        None => None,
    };
    let blob = match record.header(BLOB) {
        Some(text) => {
            let (hash, size) = text.split_once(':')?;
            Some(Blob { hash: BlobHash::parse(hash)?, size: size.parse().ok()? })
        }
        None => None,
    };
    let entry = Entry { value: record.payload, metadata, expiration };
    Some(ReplicaRecord { sequence, namespace, what: What::Put { key, entry, blob } })
}

fn subject(namespace: &NamespaceId, key: &Key) -> String {
    let mut subject = String::with_capacity(34 + key.as_str().len() * 8 / 5);
    subject.push_str(namespace.as_str());
    subject.push('.');
    to_base32(key.as_str().as_bytes(), &mut subject);
    subject
}

/// Appends bytes in base32hex (RFC 4648), in lower case and without padding: it keeps their order.
fn to_base32(bytes: &[u8], text: &mut String) {
    let (mut buffer, mut bits) = (0_u32, 0);
    for byte in bytes {
        buffer = buffer << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(DIGITS[(buffer >> bits & 31) as usize]));
        }
    }
    if bits > 0 {
        text.push(char::from(DIGITS[(buffer << (5 - bits) & 31) as usize]));
    }
}

fn from_base32(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut buffer, mut bits) = (0_u32, 0);
    for byte in text.bytes() {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'v' => byte - b'a' + 10,
            _ => return None,
        };
        buffer = (buffer << 5 | u32::from(digit)) & 0xfff;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((buffer >> bits & 0xff) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::contract::{key, namespace};

    const ABSENCE: Duration = Duration::from_secs(7 * 86_400);

    fn read_back(append: Append) -> ReplicaRecord {
        let Append { subject, payload, headers, .. } = append;
        let record = Record { sequence: 9, subject, headers, payload, time_ms: 1 };
        decode(record).expect("it was just made")
    }

    proptest! {
        #[test]
        fn any_key_comes_back(name in "\\PC{1,60}") {
            prop_assume!(name != "." && name != "..");
            let key = key(&name);
            let back = read_back(delete(&namespace(1), &key, ABSENCE));
            prop_assert_eq!(back.namespace, namespace(1));
            prop_assert!(matches!(back.what, What::Delete(found) if found == key));
        }

        #[test]
        fn tokens_keep_the_order_of_bytes(
            a in prop::collection::vec(any::<u8>(), 0..9),
            b in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let encode = |bytes: &[u8]| {
                let mut text = String::new();
                to_base32(bytes, &mut text);
                text
            };
            prop_assert_eq!(a.cmp(&b), encode(&a).cmp(&encode(&b)));
            prop_assert_eq!(from_base32(&encode(&a)), Some(a));
        }
    }

    #[test]
    fn the_longest_key_fits_a_subject() {
        let longest = key(&"\u{10ffff}".repeat(128));
        assert_eq!(subject(&namespace(1), &longest).len(), 33 + 820);
    }

    #[test]
    fn puts_come_back_whole() {
        let metadata = Some("{\"a\":\n \"\u{e9}\"}".into());
        let entry = Entry { value: "v".into(), metadata, expiration: Some(2_000) };
        let blob = Blob { hash: BlobHash::of(b"v"), size: 1 << 30 };
        for blob in [None, Some(blob)] {
            let append = put(&namespace(1), &key("a"), &entry, blob, 1_000, ABSENCE);
            assert_eq!(append.ttl, Some(ABSENCE), "it outlives its expiration");
            let What::Put { key: found, entry: back, blob: found_blob } = read_back(append).what
            else {
                panic!("it is a put");
            };
            assert_eq!((found, found_blob), (key("a"), blob));
            let value = if blob.is_some() { Bytes::new() } else { entry.value.clone() };
            assert_eq!(back, Entry { value, ..entry.clone() });
        }
        let late = Entry { expiration: Some(u64::MAX >> 1), ..entry };
        assert_eq!(put(&namespace(1), &key("a"), &late, None, 0, ABSENCE).ttl, None);
    }

    #[test]
    fn drops_say_how_far_they_reach() {
        let check = |append: Append, expected: u64| {
            let back = read_back(append);
            assert!(matches!(back.what, What::Drop { before } if before == expected));
        };
        check(dropped(&namespace(1), None), 9);
        check(dropped(&namespace(1), Some((5, ABSENCE))), 5);
    }

    /// Nodes of all versions must agree: these numbers never change.
    #[test]
    fn shards_are_what_they_always_were() {
        let shards: Vec<u16> =
            (0..8).map(|n| shard_of(&namespace(1), &key(&n.to_string()), 16)).collect();
        assert_eq!(shards, [5, 15, 13, 1, 8, 10, 9, 1]);
    }
}
