//! What a record of the registry's log says: rows that a change left or took away, or where a copy of the
//! whole registry lies.

use atoll_kv::log::{BlobHash, Record};
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use serde::{Deserialize, Serialize};

use super::super::RegistryError;

/// Where changes are appended.
pub(super) const CHANGE: &str = "change";
/// Where copies are told of.
pub(super) const COPY: &str = "copy";
/// Names the blob that holds a change which is too large for a record.
pub(super) const BODY: &str = "Body";

/// One transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Change {
    /// The schema of the registry that wrote it.
    pub(super) schema: i64,
    /// The log's last sequence when it was appended: whoever has not applied that has missed something.
    pub(super) previous: u64,
    /// The registry's revision after it.
    pub(super) revision: u64,
    /// In the order in which they were written.
    pub(super) rows: Vec<Row>,
}

/// What became of one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) table: String,
    pub(super) kind: RowKind,
    /// All columns of a row that is there, the primary key of one that is gone.
    pub(super) values: Vec<Value>,
}

/// Whether the row is there after the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum RowKind {
    /// It is, with these values.
    Put,
    /// It is gone.
    Delete,
}

/// A value of the registry's tables, which hold no floating point numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Value {
    Null,
    Integer(i64),
    Text(String),
    Blob(Vec<u8>),
}

/// Where a copy of the registry lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Copy {
    /// The blob's hash.
    pub(super) blob: String,
    /// The last record that it covers.
    pub(super) covers: u64,
    /// The schema of the registry in it.
    pub(super) schema: i64,
}

/// What a record says.
pub(super) enum Told {
    Change(Change),
    /// The change lies in a blob.
    Elsewhere(BlobHash),
    Copy(Copy),
}

impl Change {
    pub(super) fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("a change is plain data")
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RegistryError> {
        rmp_serde::from_slice(bytes).map_err(|_| unreadable())
    }
}

impl Copy {
    pub(super) fn of(record: &Record) -> Result<Self, RegistryError> {
        serde_json::from_slice(&record.payload).map_err(|_| unreadable())
    }

    pub(super) fn hash(&self) -> Result<BlobHash, RegistryError> {
        BlobHash::parse(&self.blob).ok_or_else(unreadable)
    }
}

impl Told {
    pub(super) fn by(record: &Record) -> Result<Self, RegistryError> {
        match (record.subject.as_str(), record.header(BODY)) {
            (CHANGE, None) => Change::decode(&record.payload).map(Self::Change),
            (CHANGE, Some(hash)) => {
                BlobHash::parse(hash).map(Self::Elsewhere).ok_or_else(unreadable)
            }
            (COPY, _) => Copy::of(record).map(Self::Copy),
            _ => Err(unreadable()),
        }
    }
}

fn unreadable() -> RegistryError {
    RegistryError::Replica(
        "a record of the log is not understood: run the release that the other nodes run"
            .to_owned(),
    )
}

impl Value {
    pub(crate) fn read(value: ValueRef<'_>) -> Result<Self, RegistryError> {
        let corrupt = || RegistryError::Corrupt { what: "a value of an unfit type".to_owned() };
        Ok(match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(number) => Self::Integer(number),
            ValueRef::Text(text) => {
                Self::Text(std::str::from_utf8(text).map_err(|_| corrupt())?.to_owned())
            }
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_vec()),
            ValueRef::Real(_) => return Err(corrupt()),
        })
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}
