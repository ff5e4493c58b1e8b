//! Writes the file.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use atoll_kv::{Key, KvStore, ListOptions, NamespaceId};

use super::format::{Frame, Writer};
use super::{ArchiveError, Moved};
use crate::registry::Registry;

type Out = Writer<BufWriter<tempfile::NamedTempFile>>;

/// Writes all that the stores hold into a file, which appears when it is whole, readable by its owner alone.
pub(crate) async fn export(
    registry: &Registry,
    kv: &Arc<dyn KvStore>,
    path: &Path,
) -> Result<Moved, ArchiveError> {
    let failed = |source| ArchiveError::File { path: path.to_owned(), source };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    let mut out = Writer::new(BufWriter::new(file)).map_err(failed)?;
    let mut moved = Moved::default();
    write_registry(registry, &mut out, &mut moved, path)?;
    for namespace in registry.all_namespaces()? {
        moved.keys += write_namespace(kv, &namespace, &mut out, path).await?;
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
) -> Result<u64, ArchiveError> {
    let (mut cursor, mut count) = (None, 0);
    loop {
        let page = kv.list(namespace, ListOptions { cursor, ..ListOptions::default() }).await?;
        for info in &page.keys {
            let key = Key::parse(&info.name)?;
            // It may have expired since.
            let Some(entry) = kv.get(namespace, &key).await? else { continue };
            let frame = Frame::Value {
                namespace: namespace.as_str().to_owned(),
                key: key.as_str().to_owned(),
                metadata: entry.metadata.as_deref().map(str::to_owned),
                expiration: entry.expiration,
            };
            out.write(&frame, &entry.value)
                .map_err(|source| ArchiveError::File { path: path.to_owned(), source })?;
            count += 1;
        }
        cursor = page.cursor;
        if page.list_complete || cursor.is_none() {
            return Ok(count);
        }
    }
}
