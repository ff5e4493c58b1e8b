//! Places of networks that the operator names: private ones, those of tests, and those that databases have
//! wrong.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{GeoError, Place};

/// Static networks of one node. More belong in a database.
pub const GEO_NETWORKS_MAX: usize = 10_000;

/// A network, and where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct GeoNetwork {
    /// Its addresses.
    pub cidr: IpNet,
    /// What is said of them.
    pub place: Place,
}

/// Networks by the length of their prefix, the longest first: a lookup costs one probe for each length.
#[derive(Default)]
pub(super) struct Networks {
    v4: Vec<(u8, HashMap<IpAddr, Place>)>,
    v6: Vec<(u8, HashMap<IpAddr, Place>)>,
}

impl Networks {
    pub(super) fn new(networks: &[GeoNetwork]) -> Result<Self, GeoError> {
        if networks.len() > GEO_NETWORKS_MAX {
            return Err(GeoError::TooManyNetworks(networks.len()));
        }
        let mut all = Self::default();
        for GeoNetwork { cidr, place } in networks {
            let lengths = if cidr.addr().is_ipv4() { &mut all.v4 } else { &mut all.v6 };
            let at = lengths.iter().position(|(length, _)| *length == cidr.prefix_len());
            let at = at.unwrap_or_else(|| {
                lengths.push((cidr.prefix_len(), HashMap::new()));
                lengths.len() - 1
            });
            lengths[at].1.insert(cidr.network(), place.clone());
        }
        all.v4.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        all.v6.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        Ok(all)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// What is said of the smallest network that has the address.
    pub(super) fn find(&self, address: IpAddr) -> Option<&Place> {
        let lengths = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        lengths.iter().find_map(|(length, networks)| {
            let network = IpNet::new(address, *length).ok()?.network();
            networks.get(&network)
        })
    }
}
