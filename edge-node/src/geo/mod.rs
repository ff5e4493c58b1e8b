//! Where clients are: database files are read in one process, into memory that all processes of the node share,
//! and looked up where requests are. What is known of addresses is swapped whole.

mod files;
mod lookup;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use atoll_isolate::SealedMemory;
use atoll_router::{GeoError, GeoNetwork, GeoTable};
use bytes::Bytes;

pub(crate) use files::{GeoFileError, GeoFiles, GeoWatch};
pub(crate) use lookup::ThreadGeo;

use crate::config::GeoConfig;

/// What one process knows of addresses.
pub(crate) struct Geo {
    networks: Vec<GeoNetwork>,
    table: ArcSwap<GeoTable>,
    /// Counts the tables that were put into use.
    swaps: AtomicU64,
}

/// A set of databases cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GeoSetError {
    /// The memory that holds it cannot be mapped.
    #[error("it cannot be mapped: {0}")]
    Map(#[from] std::io::Error),
    /// It is no database.
    #[error(transparent)]
    Geo(#[from] GeoError),
}

impl Geo {
    /// Knows the configured networks alone.
    ///
    /// # Errors
    /// When there are too many of them.
    pub(crate) fn new(config: &GeoConfig) -> Result<Self, GeoError> {
        let networks = config.networks();
        let table = ArcSwap::from_pointee(GeoTable::new(&networks, Vec::new())?);
        Ok(Self { networks, table, swaps: AtomicU64::new(0) })
    }

    /// Puts other databases into use, each in sealed memory.
    ///
    /// # Errors
    /// When one of them is none: what was there before stays in use.
    pub(crate) fn replace(&self, databases: Vec<OwnedFd>) -> Result<(), GeoSetError> {
        let map = |file| Ok(Bytes::from_owner(SealedMemory::map(file)?));
        let databases = databases.into_iter().map(map).collect::<std::io::Result<_>>()?;
        self.table.store(Arc::new(GeoTable::new(&self.networks, databases)?));
        self.swaps.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Puts the files of this process into use.
    ///
    /// # Errors
    /// As `replace` does.
    pub(crate) fn take(&self, files: &GeoFiles) -> Result<(), GeoSetError> {
        self.replace(files.iter().map(OwnedFd::try_clone).collect::<std::io::Result<_>>()?)
    }

    fn swaps(&self) -> u64 {
        self.swaps.load(Ordering::Acquire)
    }
}
