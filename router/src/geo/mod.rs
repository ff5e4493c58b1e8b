//! Where a client is, by its address: static networks first, then databases in MaxMind's format. Pure: it
//! opens no file, and an address that nobody knows is a place without attributes.

mod countries;
mod networks;
mod place;
mod record;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::IpAddr;

use bytes::Bytes;
use maxminddb::{MaxMindDbError, Reader, WithinOptions};

use networks::Networks;
pub use networks::{GEO_NETWORKS_MAX, GeoNetwork};
pub use place::Place;
use record::Record;

/// A database of places cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GeoError {
    /// It is no database, or damaged.
    #[error("it is no intact database in MaxMind's format (.mmdb): {0}")]
    Database(String),
    /// There are more static networks than one node takes.
    #[error(
        "{0} networks are more than the {GEO_NETWORKS_MAX} that a node takes: put them into a database"
    )]
    TooManyNetworks(usize),
}

/// What is known of addresses. Immutable: a new one replaces it.
#[derive(Default)]
pub struct GeoTable {
    networks: Networks,
    databases: Vec<Reader<Bytes>>,
}

impl GeoTable {
    /// Takes static networks and databases; what a database does not say of an address, a later one may.
    ///
    /// # Errors
    /// When there are too many networks, or a database is none.
    pub fn new(networks: &[GeoNetwork], databases: Vec<Bytes>) -> Result<Self, GeoError> {
        let networks = Networks::new(networks)?;
        let databases = databases.into_iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { networks, databases })
    }

    /// Reads every network and every record of a database. It may take seconds.
    ///
    /// The crate's own check is not asked: it wants metadata that free databases leave empty.
    ///
    /// # Errors
    /// When it is no database, or a part of it is damaged.
    pub fn check(database: Bytes) -> Result<(), GeoError> {
        let database = open(database)?;
        let damage = |error: MaxMindDbError| GeoError::Database(error.to_string());
        // A tree of so many nodes has fewer than twice as many leaves, unless it leads back into itself.
        let mut networks_left = database.metadata().node_count as usize * 2 + 1;
        let mut seen = HashSet::new();
        for network in database.networks(WithinOptions::default()).map_err(damage)? {
            let network = network.map_err(damage)?;
            networks_left = networks_left
                .checked_sub(1)
                .ok_or_else(|| GeoError::Database("its tree has a circle".to_owned()))?;
            if network.offset().is_some_and(|offset| seen.insert(offset)) {
                network.decode::<Record<'_>>().map_err(damage)?;
            }
        }
        Ok(())
    }

    /// Whether there is nothing to look up.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.databases.is_empty()
    }

    /// What is known of an address.
    pub fn place(&self, address: IpAddr) -> Place {
        let address = address.to_canonical();
        let mut place = self.networks.find(address).cloned().unwrap_or_default();
        for database in &self.databases {
            if let Some(record) = look_up(database, address) {
                place.complete(record);
            }
        }
        place.derive();
        place
    }
}

fn open(database: Bytes) -> Result<Reader<Bytes>, GeoError> {
    Reader::from_source(database).map_err(|error| GeoError::Database(error.to_string()))
}

/// What one database has of an address. Damage counts as nothing: it was looked for when the file came.
fn look_up(database: &Reader<Bytes>, address: IpAddr) -> Option<Place> {
    if address.is_ipv6() && database.metadata().ip_version == 4 {
        return None;
    }
    let found = database.lookup(address).ok()?;
    found.decode::<Record<'_>>().ok()?.map(Place::from)
}
