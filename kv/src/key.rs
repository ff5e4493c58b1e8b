//! The names of things: a namespace's id and a key, both checked when they are made.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::KvError;
use crate::limits::KEY_BYTES_MAX;

const NAMESPACE_ID_DIGITS: usize = 32;

/// The id of one isolated keyspace: 32 lower-case hexadecimal digits. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamespaceId(Arc<str>);

impl NamespaceId {
    /// Checks an id's form.
    ///
    /// # Errors
    /// `NamespaceInvalid` for any other form.
    pub fn parse(id: &str) -> Result<Self, KvError> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if id.len() == NAMESPACE_ID_DIGITS && id.bytes().all(is_digit) {
            Ok(Self(id.into()))
        } else {
            Err(KvError::NamespaceInvalid)
        }
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NamespaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for NamespaceId {
    type Error = KvError;

    fn try_from(id: String) -> Result<Self, KvError> {
        Self::parse(&id)
    }
}

impl From<NamespaceId> for String {
    fn from(id: NamespaceId) -> Self {
        id.0.as_ref().into()
    }
}

/// The name of a value in a namespace: 1 to 512 bytes of UTF-8, not `.` nor `..`. Cheap to clone.
/// Keys are ordered by their bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Arc<str>", into = "Arc<str>")]
pub struct Key(Arc<str>);

impl Key {
    /// Checks a key's form.
    ///
    /// # Errors
    /// `KeyEmpty`, `KeyReserved` or `KeyTooLong`.
    pub fn parse(name: &str) -> Result<Self, KvError> {
        check_name(name).map(|()| Self(name.into()))
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<Arc<str>> for Key {
    type Error = KvError;

    fn try_from(name: Arc<str>) -> Result<Self, KvError> {
        check_name(&name).map(|()| Self(name))
    }
}

impl From<Key> for Arc<str> {
    fn from(key: Key) -> Self {
        key.0
    }
}

fn check_name(name: &str) -> Result<(), KvError> {
    match name {
        "" => Err(KvError::KeyEmpty),
        "." | ".." => Err(KvError::KeyReserved(name.to_owned().into())),
        _ => check_length(name),
    }
}

/// Refuses a key or prefix that is too long.
pub(crate) fn check_length(name: &str) -> Result<(), KvError> {
    if name.len() > KEY_BYTES_MAX { Err(KvError::KeyTooLong(name.len())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked() {
        let check = |name: &str, expected: Option<&str>| {
            let problem = Key::parse(name).err().map(|error| error.to_string());
            assert_eq!(problem.as_deref(), expected, "{name:?}");
        };
        check("a", None);
        check("...", None);
        check("a/../b c%20\u{0}\u{10ffff}", None);
        check(&"x".repeat(512), None);
        check("", Some("Key name cannot be empty."));
        check(".", Some("\".\" is not allowed as a key name."));
        check("..", Some("\"..\" is not allowed as a key name."));
        let too_long = Some("UTF-8 encoded length of 514 exceeds key length limit of 512.");
        check(&"é".repeat(257), too_long);
    }

    #[test]
    fn namespace_ids_are_checked() {
        let check = |id: &str, good: bool| assert_eq!(NamespaceId::parse(id).is_ok(), good, "{id}");
        check("0123456789abcdef0123456789abcdef", true);
        check("0123456789ABCDEF0123456789abcdef", false);
        check("0123456789abcdef0123456789abcde", false);
        check("0123456789abcdef0123456789abcdef0", false);
        check("0123456789abcdef0123456789abcdeg", false);
        check("", false);
    }
}
