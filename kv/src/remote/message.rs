//! What the two ends of a link say to each other, as the headers of frames.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::frame::{LinkError, Values};
use crate::entry::{BulkWrite, Entry, PutOptions};
use crate::error::KvError;
use crate::key::{Key, NamespaceId};
use crate::list::{KeyInfo, ListOptions, ListPage};

/// A question. The values of its writes follow it in the frame.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) namespace: NamespaceId,
    pub(super) call: Call,
}

/// An operation of `KvStore`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Call {
    Get(Key),
    GetMany(Vec<Key>),
    Put(Key, PutOptions),
    Delete(Key),
    WriteBulk(Vec<Pair>),
    DeleteBulk(Vec<Key>),
    List(ListOptions),
    DropNamespace,
}

/// One pair of a bulk write, without its value.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Pair {
    key: Key,
    value_bytes: usize,
    options: PutOptions,
}

/// The answer to the request of the same id. The values that it found follow it in the frame.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Response {
    pub(super) id: u64,
    pub(super) answer: Result<Answer, KvError>,
}

/// What an operation returns.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    Found(Option<Found>),
    FoundMany(Vec<Option<Found>>),
    Page { keys: Vec<Listed>, list_complete: bool, cursor: Option<String> },
}

/// An entry without its value.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Found {
    value_bytes: usize,
    metadata: Option<Arc<str>>,
    expiration: Option<u64>,
}

/// A `KeyInfo` as it crosses: that one serialises for programs that read JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Listed {
    name: Arc<str>,
    expiration: Option<u64>,
    metadata: Option<Arc<str>>,
}

/// Parts a bulk write into what the header says and the values.
pub(super) fn split_writes(writes: Vec<BulkWrite>) -> (Vec<Pair>, Vec<Bytes>) {
    writes
        .into_iter()
        .map(|BulkWrite { key, value, options }| {
            (Pair { key, value_bytes: value.len(), options }, value)
        })
        .unzip()
}

/// Puts a bulk write together again.
pub(super) fn join_writes(
    pairs: Vec<Pair>,
    mut values: Values,
) -> Result<Vec<BulkWrite>, LinkError> {
    let writes = pairs
        .into_iter()
        .map(|Pair { key, value_bytes, options }| {
            Ok(BulkWrite { key, value: values.take(value_bytes)?, options })
        })
        .collect::<Result<_, LinkError>>()?;
    values.end()?;
    Ok(writes)
}

impl Answer {
    /// The answer to a read of one key, and the value to send behind it.
    pub(super) fn found(entry: Option<Entry>) -> (Self, Vec<Bytes>) {
        let (found, value) = entry.map(Found::split).unzip();
        (Self::Found(found), value.into_iter().collect())
    }

    /// The answer to a read of many keys, and the values to send behind it.
    pub(super) fn found_many(entries: Vec<Option<Entry>>) -> (Self, Vec<Bytes>) {
        let mut values = Vec::new();
        let mut split = |entry| {
            let (found, value) = Found::split(entry);
            values.push(value);
            found
        };
        let found = entries.into_iter().map(|entry| entry.map(&mut split)).collect();
        (Self::FoundMany(found), values)
    }

    /// The answer to a listing.
    pub(super) fn page(page: ListPage) -> (Self, Vec<Bytes>) {
        let listed = |KeyInfo { name, expiration, metadata }| Listed { name, expiration, metadata };
        let keys = page.keys.into_iter().map(listed).collect();
        let ListPage { list_complete, cursor, .. } = page;
        (Self::Page { keys, list_complete, cursor }, Vec::new())
    }

    pub(super) fn into_done(self, values: Values) -> Result<(), LinkError> {
        match self {
            Self::Done => values.end(),
            _ => Err(LinkError::Values),
        }
    }

    pub(super) fn into_found(self, mut values: Values) -> Result<Option<Entry>, LinkError> {
        let Self::Found(found) = self else { return Err(LinkError::Values) };
        let entry = found.map(|found| found.join(&mut values)).transpose()?;
        values.end()?;
        Ok(entry)
    }

    pub(super) fn into_found_many(
        self,
        mut values: Values,
    ) -> Result<Vec<Option<Entry>>, LinkError> {
        let Self::FoundMany(found) = self else { return Err(LinkError::Values) };
        let join = |found: Option<Found>| found.map(|found| found.join(&mut values)).transpose();
        let entries = found.into_iter().map(join).collect::<Result<_, _>>()?;
        values.end()?;
        Ok(entries)
    }

    pub(super) fn into_page(self, values: Values) -> Result<ListPage, LinkError> {
        let Self::Page { keys, list_complete, cursor } = self else {
            return Err(LinkError::Values);
        };
        values.end()?;
        let info = |Listed { name, expiration, metadata }| KeyInfo { name, expiration, metadata };
        Ok(ListPage { keys: keys.into_iter().map(info).collect(), list_complete, cursor })
    }
}

impl Found {
    fn split(Entry { value, metadata, expiration }: Entry) -> (Self, Bytes) {
        (Self { value_bytes: value.len(), metadata, expiration }, value)
    }

    fn join(self, values: &mut Values) -> Result<Entry, LinkError> {
        let Self { value_bytes, metadata, expiration } = self;
        Ok(Entry { value: values.take(value_bytes)?, metadata, expiration })
    }
}
