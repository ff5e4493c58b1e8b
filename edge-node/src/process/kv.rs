//! The key-value store over a link of its own: the supervisor serves its store, a serving process uses it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;

use atoll_kv::{EpochReader, KvStore, RemoteOptions, RemoteStore, ServeOptions, serve_remote};
use tokio::net::UnixStream;

use crate::config::KvConfig;

/// Serves the store on a new link until its other end, which this gives, is closed.
pub(crate) fn serve(store: &Arc<dyn KvStore>) -> std::io::Result<OwnedFd> {
    let (own, others) = UnixStream::pair()?;
    tokio::spawn(serve_remote(store.clone(), own, ServeOptions::default()));
    Ok(others.into_std()?.into())
}

/// Uses the store at the other end of a link.
pub(crate) fn connect(
    link: OwnedFd,
    epochs: OwnedFd,
    config: &KvConfig,
) -> std::io::Result<Arc<dyn KvStore>> {
    let link = StdUnixStream::from(link);
    link.set_nonblocking(true)?;
    let options = RemoteOptions {
        epochs: Some(EpochReader::new(epochs)?),
        cache_bytes_max: config.cache_bytes_max,
        ..RemoteOptions::default()
    };
    Ok(Arc::new(RemoteStore::new(UnixStream::from_std(link)?, options)))
}
