//! Writes the file.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use atoll_kv::{Key, KvError, KvStore, ListOptions, NamespaceId};

use super::format::{Frame, Writer};
use super::{ArchiveError, MissingValue, Moved};
use crate::registry::Registry;

type Out = Writer<BufWriter<tempfile::NamedTempFile>>;

/// Writes all that the stores hold into a file, which appears when it is whole, readable by its owner alone.
pub(crate) async fn export(
    registry: &Registry,
    kv: &Arc<dyn KvStore>,
    path: &Path,
    missing: MissingValue,
) -> Result<Moved, ArchiveError> {
    let failed = |source| ArchiveError::File { path: path.to_owned(), source };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    let mut out = Writer::new(BufWriter::new(file)).map_err(failed)?;
    let mut moved = Moved::default();
    write_registry(registry, &mut out, &mut moved, path)?;
    for namespace in registry.all_namespaces()? {
        write_namespace(kv, &namespace, &mut out, path, missing, &mut moved).await?;
    }
    let mut file = out.end().map_err(failed)?;
    file.flush().map_err(failed)?;
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(moved)
}

fn write_registry(
    registry: &Registry,
    out: &mut Out,
    moved: &mut Moved,
    path: &Path,
) -> Result<(), ArchiveError> {
    let failed = |source| ArchiveError::File { path: path.to_owned(), source };
    let head = Frame::Head { schema: Registry::SCHEMA, key_check: registry.key_check() };
    out.write(&head, &[]).map_err(failed)?;
    let mut result = Ok(());
    registry.export(|item| {
        if result.is_err() {
            return;
        }
        result = match item {
            Ok(row) => {
                moved.rows += 1;
                out.write(&Frame::Row(row), &[])
            }
            Err(module) => {
                moved.modules += 1;
                out.write(&Frame::Module, module)
            }
        };
    })?;
    result.map_err(failed)
}

async fn write_namespace(
    kv: &Arc<dyn KvStore>,
    namespace: &NamespaceId,
    out: &mut Out,
    path: &Path,
    missing: MissingValue,
    moved: &mut Moved,
) -> Result<(), ArchiveError> {
    let mut cursor = None;
    loop {
        let page = kv.list(namespace, ListOptions { cursor, ..ListOptions::default() }).await?;
        for info in &page.keys {
            let key = Key::parse(&info.name)?;
            let entry = match kv.get(namespace, &key).await {
                Ok(Some(entry)) => entry,
                // It has expired since.
                Ok(None) => continue,
                Err(KvError::ValueAway(_)) if missing == MissingValue::LeaveOut => {
                    moved.keys_missing += 1;
                    continue;
                }
                Err(KvError::ValueAway(_)) => {
                    return Err(ArchiveError::Missing(info.name.to_string()));
                }
                Err(error) => return Err(error.into()),
            };
            let frame = Frame::Value {
                namespace: namespace.as_str().to_owned(),
                key: key.as_str().to_owned(),
                metadata: entry.metadata.as_deref().map(str::to_owned),
                expiration: entry.expiration,
            };
            out.write(&frame, &entry.value)
                .map_err(|source| ArchiveError::File { path: path.to_owned(), source })?;
            moved.keys += 1;
        }
        cursor = page.cursor;
        if page.list_complete || cursor.is_none() {
            return Ok(());
        }
    }
}
