//! Listing keys: what may be asked, what a page holds, and the cursor that leads to the next.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::ser::Error;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::error::KvError;
use crate::key::{Key, check_length};
use crate::limits::LIST_KEYS_MAX;

/// Which keys to list. The default is the first page of all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListOptions {
    /// Only keys that begin with it.
    pub prefix: Option<String>,
    /// How many keys at most, 1 to 1000 and 1000 by default. Signed, as callers send it.
    pub limit: Option<i64>,
    /// The cursor of the page before. The empty string counts as none, as in Workers KV.
    pub cursor: Option<String>,
}

/// A key on a page. Serialises as Workers KV and its REST API show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    /// The key.
    pub name: Arc<str>,
    /// When it expires, in seconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration: Option<u64>,
    /// Its metadata as JSON text; serialised as the JSON value itself.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_json")]
    pub metadata: Option<Arc<str>>,
}

/// One page of keys in the order of their bytes. A page can hold fewer keys than asked, even none,
/// and not be the last: only `list_complete` says that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListPage {
    /// The keys.
    pub keys: Vec<KeyInfo>,
    /// Whether no key follows.
    pub list_complete: bool,
    /// What leads to the next page; none on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A list request after its checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// The prefix of all keys, possibly empty.
    pub prefix: String,
    /// The key after which to begin.
    pub after: Option<Key>,
    /// Keys on the page, at most.
    pub limit: usize,
}

impl ListOptions {
    /// Checks a list request.
    ///
    /// # Errors
    /// The error that names the broken limit, or `CursorInvalid`.
    pub fn check(self) -> Result<ListQuery, KvError> {
        let limit = match self.limit {
            None => LIST_KEYS_MAX,
            Some(limit) if limit < 1 => return Err(KvError::ListLimitTooSmall(limit)),
            Some(limit) => usize::try_from(limit)
                .ok()
                .filter(|limit| *limit <= LIST_KEYS_MAX)
                .ok_or(KvError::ListLimitTooLarge(limit))?,
        };
        let prefix = self.prefix.unwrap_or_default();
        check_length(&prefix)?;
        let cursor = self.cursor.filter(|cursor| !cursor.is_empty());
        let after = cursor.as_deref().map(decode_cursor).transpose()?;
        Ok(ListQuery { prefix, after, limit })
    }
}

/// Makes the cursor that leads past `last`. It holds the key itself, so it outlives the key.
pub(crate) fn encode_cursor(last: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(last)
}

fn decode_cursor(cursor: &str) -> Result<Key, KvError> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).map_err(|_| KvError::CursorInvalid)?;
    let name = std::str::from_utf8(&bytes).map_err(|_| KvError::CursorInvalid)?;
    Key::parse(name).map_err(|_| KvError::CursorInvalid)
}

fn as_json<S: Serializer>(text: &Option<Arc<str>>, serializer: S) -> Result<S::Ok, S::Error> {
    let json: Option<&RawValue> =
        text.as_deref().map(serde_json::from_str).transpose().map_err(S::Error::custom)?;
    json.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_checked() {
        let check = |prefix: &str, limit, cursor: &str, expected: Option<&str>| {
            let options =
                ListOptions { prefix: Some(prefix.into()), limit, cursor: Some(cursor.into()) };
            let problem = options.check().err().map(|error| error.to_string());
            assert_eq!(problem.as_deref(), expected);
        };
        check("", None, "", None);
        check(".", Some(1), &encode_cursor("key"), None);
        check("", Some(1000), "", None);
        let small = "Invalid key_count_limit of 0. Please specify an integer greater than 0.";
        check("", Some(0), "", Some(small));
        let large = "Invalid key_count_limit of 1001. Please specify an integer less than 1000.";
        check("", Some(1001), "", Some(large));
        let long = "UTF-8 encoded length of 513 exceeds key length limit of 512.";
        check(&"p".repeat(513), None, "", Some(long));
        for cursor in ["not base64!", "Lg", "gICA", &encode_cursor(&"x".repeat(513))] {
            check("", None, cursor, Some("invalid \"list keys\" cursor"));
        }
    }

    #[test]
    fn pages_serialise_as_workers_kv_shows_them() {
        let bare = KeyInfo { name: "a".into(), expiration: None, metadata: None };
        let full = KeyInfo {
            name: "b".into(),
            expiration: Some(7),
            metadata: Some("{\"n\": [1]}".into()),
        };
        let page = ListPage { keys: vec![bare, full], list_complete: true, cursor: None };
        assert_eq!(
            serde_json::to_string(&page).unwrap(),
            concat!(
                r#"{"keys":[{"name":"a"},{"name":"b","expiration":7,"metadata":{"n": [1]}}],"#,
                r#""list_complete":true}"#
            )
        );
    }
}
