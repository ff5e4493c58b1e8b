//! The part of the configuration that says where clients, and the node itself, are.

use std::path::PathBuf;

use atoll_router::{GEO_NETWORKS_MAX, GeoNetwork, Place};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::NodeConfig;

/// Database files of one node: each is asked for every client.
const DATABASES_MAX: usize = 8;

/// The node's place when nobody says where it is.
const COLO: &str = "local";

/// Letters of the node's place.
const COLO_BYTES_MAX: usize = 64;

/// Where clients are, and the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeoConfig {
    /// Databases in MaxMind's format (.mmdb). What one does not say of an address, a later one may.
    pub database: Vec<PathBuf>,
    /// Networks whose place the operator knows; the smallest one that has an address is asked, before databases.
    pub networks: Vec<GeoNetworkConfig>,
    /// `request.cf.colo`, and the end of `cf-ray`; the cluster's region when absent.
    pub colo: Option<String>,
    /// Whether workers get Cloudflare's location headers, `cf-ipcity` and so on.
    pub location_headers: bool,
}

/// A network, and where it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeoNetworkConfig {
    /// Its addresses, such as `10.0.0.0/8`.
    #[serde(with = "cidr")]
    pub cidr: IpNet,
    /// ISO 3166-1 alpha-2.
    pub country: Option<String>,
    /// Two letters; that of the country when absent.
    pub continent: Option<String>,
    /// The subdivision's name.
    pub region: Option<String>,
    /// Its ISO 3166-2 code without the country.
    pub region_code: Option<String>,
    /// The city's name.
    pub city: Option<String>,
    /// The postal code.
    pub postal_code: Option<String>,
    /// The DMA code.
    pub metro_code: Option<String>,
    /// Degrees north.
    pub latitude: Option<f64>,
    /// Degrees east.
    pub longitude: Option<f64>,
    /// By its name in the IANA database.
    pub timezone: Option<String>,
    /// The number of the autonomous system.
    pub asn: Option<u32>,
    /// Whose it is.
    pub as_organization: Option<String>,
}

/// Networks as text, in every format.
mod cidr {
    use ipnet::IpNet;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(cidr: &IpNet, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(cidr)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<IpNet, D::Error> {
        let text = String::deserialize(d)?;
        let address = || text.parse().ok().map(|address: std::net::IpAddr| address.into());
        text.parse()
            .ok()
            .or_else(address)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is no network: write 10.0.0.0/8")))
    }
}

impl GeoNetworkConfig {
    fn network(&self) -> GeoNetwork {
        let text = |text: &Option<String>| text.as_deref().map(Into::into);
        let code = |text: &Option<String>| text.as_deref().map(|c| c.to_ascii_uppercase().into());
        let place = Place {
            country: code(&self.country),
            continent: code(&self.continent),
            is_eu: None,
            region: text(&self.region),
            region_code: text(&self.region_code),
            city: text(&self.city),
            postal_code: text(&self.postal_code),
            metro_code: text(&self.metro_code),
            latitude: self.latitude,
            longitude: self.longitude,
            timezone: text(&self.timezone),
            asn: self.asn,
            as_organization: text(&self.as_organization),
        };
        GeoNetwork { cidr: self.cidr, place }
    }

    fn check(&self) -> Result<(), String> {
        let refuse =
            |key: &str, what: &str| Err(format!("geo.networks: {key} of {} {what}", self.cidr));
        for (key, code) in [("country", &self.country), ("continent", &self.continent)] {
            let fits = |c: &String| c.len() == 2 && c.bytes().all(|b| b.is_ascii_alphabetic());
            if !code.as_ref().is_none_or(fits) {
                return refuse(key, "is not a code of two letters, such as \"DE\"");
            }
        }
        if self.latitude.is_some() != self.longitude.is_some() {
            return refuse("latitude and longitude", "go together");
        }
        let within = |degrees: Option<f64>, max: f64| degrees.is_none_or(|d| d.abs() <= max);
        if !within(self.latitude, 90.0) || !within(self.longitude, 180.0) {
            return refuse("latitude or longitude", "is not in degrees");
        }
        Ok(())
    }
}

impl GeoConfig {
    /// The static networks.
    pub(crate) fn networks(&self) -> Vec<GeoNetwork> {
        self.networks.iter().map(GeoNetworkConfig::network).collect()
    }

    /// What is wrong with it, with the key first.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.database.len() > DATABASES_MAX {
            return Err(format!("geo.database: more than {DATABASES_MAX} files"));
        }
        if self.networks.len() > GEO_NETWORKS_MAX {
            return Err(format!(
                "geo.networks: more than {GEO_NETWORKS_MAX}: put them into a database"
            ));
        }
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if let Some(colo) = &self.colo
            && (colo.is_empty() || colo.len() > COLO_BYTES_MAX || !colo.bytes().all(fits))
        {
            return Err(format!(
                "geo.colo: {colo:?} is not 1 to {COLO_BYTES_MAX} letters, digits, -, _ or ."
            ));
        }
        self.networks.iter().try_for_each(GeoNetworkConfig::check)
    }
}

impl NodeConfig {
    /// Where the node says it is.
    pub(crate) fn colo(&self) -> &str {
        let region = self.cluster.as_ref().map(|cluster| cluster.region.as_str());
        self.geo.colo.as_deref().or(region).unwrap_or(COLO)
    }
}
