//! Reads the file: once to see that it is whole and to take the registry, then for KV values, and again to
//! compare them with what is stored.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use atoll_kv::{Entry, Key, KvStore, NamespaceId};
use bytes::Bytes;

use super::format::{Frame, Reader};
use super::{ArchiveError, Moved};
use crate::registry::{ArchivedRow, Registry};

/// Values that are written at once.
const BATCH_KEYS_MAX: usize = 1_000;
/// Bytes of values that are written at once; one larger value still goes alone.
const BATCH_BYTES_MAX: usize = 16 << 20;

/// Puts all that the file holds into the stores of an empty node.
pub(crate) async fn import(
    registry: &Registry,
    kv: &Arc<dyn KvStore>,
    path: &Path,
) -> Result<Moved, ArchiveError> {
    let (at, into) = (path.to_owned(), registry.clone());
    let import_registry = move || {
        let (rows, modules) = read_registry(&at, &into)?;
        into.import(&rows, &modules)?;
        Ok::<_, ArchiveError>((rows.len() as u64, modules.len() as u64))
    };
    let (rows, modules) = tokio::task::spawn_blocking(import_registry)
        .await
        .map_err(|error| failed(path, std::io::Error::other(error)))??;
    let mut moved = Moved { rows, modules, ..Moved::default() };
    write_values(kv, path, &mut moved).await?;
    compare_values(kv, path).await?;
    Ok(moved)
}

fn failed(path: &Path, source: std::io::Error) -> ArchiveError {
    ArchiveError::File { path: path.to_owned(), source }
}

fn open(path: &Path) -> Result<Reader<BufReader<File>>, ArchiveError> {
    let file = File::open(path).map_err(|source| failed(path, source))?;
    Reader::new(BufReader::new(file))
}

/// The registry's part of a file that is whole.
fn read_registry(
    path: &Path,
    registry: &Registry,
) -> Result<(Vec<ArchivedRow>, Vec<Bytes>), ArchiveError> {
    let mut reader = open(path)?;
    match reader.next()? {
        Some((Frame::Head { schema, .. }, _)) if schema > Registry::SCHEMA => {
            return Err(ArchiveError::Newer);
        }
        Some((Frame::Head { key_check, .. }, _)) if key_check != registry.key_check() => {
            return Err(ArchiveError::OtherKey);
        }
        Some((Frame::Head { .. }, _)) => {}
        _ => return Err(ArchiveError::Damaged("no head")),
    }
    let (mut rows, mut modules) = (Vec::new(), Vec::new());
    while let Some((frame, payload)) = reader.next()? {
        match frame {
            Frame::Row(row) => rows.push(row),
            Frame::Module => modules.push(payload.into()),
            _ => {}
        }
    }
    Ok((rows, modules))
}

/// A KV value of the file.
struct Value {
    namespace: NamespaceId,
    key: Key,
    entry: Entry,
}

/// The next value; none after the last.
fn next_value(reader: &mut Reader<BufReader<File>>) -> Result<Option<Value>, ArchiveError> {
    while let Some((frame, payload)) = reader.next()? {
        if let Frame::Value { namespace, key, metadata, expiration } = frame {
            let metadata = metadata.map(Into::into);
            return Ok(Some(Value {
                namespace: NamespaceId::parse(&namespace)?,
                key: Key::parse(&key)?,
                entry: Entry { value: payload.into(), metadata, expiration },
            }));
        }
    }
    Ok(None)
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

async fn write_values(
    kv: &Arc<dyn KvStore>,
    path: &Path,
    moved: &mut Moved,
) -> Result<(), ArchiveError> {
    let mut reader = open(path)?;
    let mut batch: Vec<(Key, Entry)> = Vec::new();
    let mut of = None;
    let mut bytes = 0;
    loop {
        let value = next_value(&mut reader)?;
        let ends = value.as_ref().is_none_or(|value| {
            of.as_ref() != Some(&value.namespace)
                || batch.len() >= BATCH_KEYS_MAX
                || bytes + value.entry.value.len() > BATCH_BYTES_MAX
        });
        if ends && let Some(namespace) = &of {
            let count = batch.len() as u64;
            let keys = std::mem::take(&mut batch);
            let written = atoll_kv::import(&**kv, namespace, keys, now_s()).await? as u64;
            moved.keys += written;
            moved.keys_expiring += count - written;
            bytes = 0;
        }
        let Some(Value { namespace, key, entry }) = value else { return Ok(()) };
        bytes += entry.value.len();
        batch.push((key, entry));
        of = Some(namespace);
    }
}

async fn compare_values(kv: &Arc<dyn KvStore>, path: &Path) -> Result<(), ArchiveError> {
    let mut reader = open(path)?;
    while let Some(Value { namespace, key, entry }) = next_value(&mut reader)? {
        let found = kv.get(&namespace, &key).await?;
        // What expires may have been left out, or is gone by now.
        let same = match found {
            Some(found) => found == entry,
            None => entry.expiration.is_some(),
        };
        if !same {
            return Err(ArchiveError::Differs(key.as_str().to_owned()));
        }
    }
    Ok(())
}
