//! The attributes of an address, by the names of Cloudflare's `request.cf`.

use serde::{Deserialize, Serialize};

use super::countries::{continent_of, is_in_eu};

/// What is known of where a client is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Place {
    /// ISO 3166-1 alpha-2, in capitals.
    pub country: Option<Box<str>>,
    /// `AF`, `AN`, `AS`, `EU`, `NA`, `OC` or `SA`.
    pub continent: Option<Box<str>>,
    /// Whether the country belongs to the European Union.
    pub is_eu: Option<bool>,
    /// The name of the first subdivision.
    pub region: Option<Box<str>>,
    /// Its ISO 3166-2 code without the country.
    pub region_code: Option<Box<str>>,
    /// The city's name.
    pub city: Option<Box<str>>,
    /// The postal code, or its beginning.
    pub postal_code: Option<Box<str>>,
    /// The DMA code of places in the United States.
    pub metro_code: Option<Box<str>>,
    /// Degrees north.
    pub latitude: Option<f64>,
    /// Degrees east.
    pub longitude: Option<f64>,
    /// By its name in the IANA database.
    pub timezone: Option<Box<str>>,
    /// The number of the autonomous system.
    pub asn: Option<u32>,
    /// Whose it is.
    pub as_organization: Option<Box<str>>,
}

impl Place {
    /// Adds what another source has of the same address. Of two countries the first one stands, and the other
    /// source's region and city with it are not taken: they lie elsewhere.
    pub(super) fn complete(&mut self, other: Self) {
        if self.asn.is_none() {
            self.asn = other.asn;
            self.as_organization = other.as_organization;
        } else if self.asn == other.asn && self.as_organization.is_none() {
            self.as_organization = other.as_organization;
        }
        let elsewhere = |own: &Option<Box<str>>, others: &Option<Box<str>>| {
            own.is_some() && others.is_some() && own != others
        };
        if elsewhere(&self.country, &other.country) || elsewhere(&self.city, &other.city) {
            return;
        }
        let has_coordinates = self.latitude.is_some() && self.longitude.is_some();
        if !has_coordinates {
            (self.latitude, self.longitude) = (other.latitude, other.longitude);
        }
        self.is_eu = self.is_eu.or(other.is_eu);
        for (own, others) in [
            (&mut self.country, other.country),
            (&mut self.continent, other.continent),
            (&mut self.region, other.region),
            (&mut self.region_code, other.region_code),
            (&mut self.city, other.city),
            (&mut self.postal_code, other.postal_code),
            (&mut self.metro_code, other.metro_code),
            (&mut self.timezone, other.timezone),
        ] {
            if own.is_none() {
                *own = others;
            }
        }
    }

    /// Adds what follows from the country.
    pub(super) fn derive(&mut self) {
        let Some(country) = &self.country else { return };
        if self.continent.is_none() {
            self.continent = continent_of(country).map(Into::into);
        }
        if self.is_eu.is_none() {
            self.is_eu = Some(is_in_eu(country));
        }
    }
}
