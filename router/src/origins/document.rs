//! What a project has under `atoll.pools`, and what the API takes: read, and refused where it cannot be acted upon.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Uri};
use serde::{Deserialize, Serialize};

use crate::outlier::Ejection;

/// Pools of one worker.
pub const POOLS_MAX: usize = 8;
/// Origins of one pool.
pub const ORIGINS_MAX: usize = 16;

/// Bytes of a host, an address or a path.
const TEXT_BYTES_MAX: usize = 255;
/// Countries, continents or regions of one origin.
const PLACES_MAX: usize = 250;
/// Bytes of the name of one of them.
const PLACE_BYTES_MAX: usize = 64;
const WEIGHTS: RangeInclusive<u32> = 1..=1_000;
const FAILURES: RangeInclusive<u32> = 1..=100;
const EJECTION_S: RangeInclusive<u64> = 1..=3_600;
const CONNECT_MS: RangeInclusive<u64> = 100..=10_000;
/// Checks reach hosts without a request of anybody: they must not become a load.
const INTERVAL_S: RangeInclusive<u64> = 5..=3_600;
const TIMEOUT_MS: RangeInclusive<u64> = 100..=5_000;
const IN_A_ROW: RangeInclusive<u32> = 1..=10;
/// Statuses that a check may expect.
const STATUSES_MAX: usize = 20;

/// The origins that get what a worker fetches from one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginPool {
    /// The host of the URLs that the worker fetches, with a port unless it is the scheme's own.
    pub host: String,
    /// Which origin gets a request.
    #[serde(default)]
    pub steering: Steering,
    /// In the order in which they come into question.
    pub origins: Vec<Origin>,
    /// Questions whether they are well; none are asked when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// Requests in a row without an answer, or with a status from 500, after which an origin is left out for a while.
    #[serde(default = "three")]
    pub failures: u32,
    /// How long it is left out at most: the first time a second, then twice as long each time.
    #[serde(default = "a_minute")]
    pub ejection_s_max: u64,
    /// How long connecting to one origin may take.
    #[serde(default = "two_seconds")]
    pub connect_timeout_ms: u64,
}

/// Which origin gets a request, of those that are well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Steering {
    /// The first in the order written.
    #[default]
    Failover,
    /// Any, by their weights.
    Weighted,
    /// The one for the client's or the node's place.
    Geo,
    /// The one with the fewest requests under way for its weight.
    LeastOutstanding,
    /// The one that usually answers soonest.
    Latency,
}

/// As it is written.
impl std::fmt::Display for Steering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Failover => "failover",
            Self::Weighted => "weighted",
            Self::Geo => "geo",
            Self::LeastOutstanding => "least-outstanding",
            Self::Latency => "latency",
        })
    }
}

/// A server that answers for the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Where it listens: `https://10.0.0.5:8443`.
    pub address: String,
    /// Its share, beside the others' weights.
    #[serde(default = "one")]
    pub weight: u32,
    /// Clients' countries that it is for, as ISO 3166-1 has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub countries: Vec<String>,
    /// Clients' continents that it is for, by their two letters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub continents: Vec<String>,
    /// Regions whose nodes it is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    /// The host that it is asked for, and that its certificate is for, in place of the URL's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_header: Option<String>,
}

/// How origins are asked whether they are well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// What is fetched, with its query.
    #[serde(default = "root")]
    pub path: String,
    /// The time from one question to the next.
    #[serde(default = "ten")]
    pub interval_s: u64,
    /// How long the answer's head may take, connecting included.
    #[serde(default = "two_seconds")]
    pub timeout_ms: u64,
    /// The statuses of an origin that is well: 200 to 299 when none are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<u16>,
    /// Checks in a row that an origin must pass to get requests again.
    #[serde(default = "two")]
    pub healthy: u32,
    /// Checks in a row that it must fail to get none.
    #[serde(default = "two")]
    pub unhealthy: u32,
}

fn one() -> u32 {
    1
}

fn two() -> u32 {
    2
}

fn three() -> u32 {
    3
}

fn ten() -> u64 {
    10
}

fn a_minute() -> u64 {
    60
}

fn two_seconds() -> u64 {
    2_000
}

fn root() -> String {
    "/".to_owned()
}

/// A pool that cannot be acted upon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}{what}")]
pub struct OriginsError {
    /// Which pool and origin, as people find it.
    place: String,
    what: String,
}

impl OriginsError {
    fn new(what: String) -> Self {
        Self { place: String::new(), what }
    }

    fn within(self, place: &str) -> Self {
        Self { place: format!("{place}: {}", self.place), ..self }
    }
}

/// Checks the pools of one worker.
///
/// # Errors
/// With the first thing that is wrong.
pub fn check_pools(pools: &[OriginPool]) -> Result<(), OriginsError> {
    if pools.len() > POOLS_MAX {
        return Err(OriginsError::new(format!("a worker has at most {POOLS_MAX} pools")));
    }
    for (at, pool) in pools.iter().enumerate() {
        let place = format!("pool {:?}", pool.host);
        pool.check().map_err(|error| error.within(&place))?;
        if pools[..at].iter().any(|before| before.host.eq_ignore_ascii_case(&pool.host)) {
            return Err(OriginsError::new("its host has a pool already".to_owned()).within(&place));
        }
    }
    Ok(())
}

impl OriginPool {
    /// Whether it is for URLs of this scheme, host and port; no port is the scheme's own.
    pub fn is_for(&self, scheme: &str, host: &str, port: Option<u16>) -> bool {
        let Some(own) = authority(&self.host) else { return false };
        let default = if scheme == "https" { 443 } else { 80 };
        let bare = |host: &str| host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        own.port_u16().unwrap_or(default) == port.unwrap_or(default)
            && bare(own.host()) == bare(host)
    }

    /// When an origin is left out because of what became of requests.
    pub fn ejection(&self) -> Ejection {
        let time_max = Duration::from_secs(self.ejection_s_max);
        Ejection { failures: self.failures, time_max }
    }

    fn check(&self) -> Result<(), OriginsError> {
        if authority(&self.host).is_none() {
            return Err(OriginsError::new(
                "host is none: write the host of the URLs that the worker fetches, such as \
                 \"api.example.com\", with a port unless it is the usual one"
                    .to_owned(),
            ));
        }
        let count = self.origins.len();
        if !(1..=ORIGINS_MAX).contains(&count) {
            return Err(OriginsError::new(format!(
                "it has {count} origins: write 1 to {ORIGINS_MAX}"
            )));
        }
        within("failures", self.failures, &FAILURES)?;
        within("ejection_s_max", self.ejection_s_max, &EJECTION_S)?;
        within("connect_timeout_ms", self.connect_timeout_ms, &CONNECT_MS)?;
        for origin in &self.origins {
            let place = format!("origin {:?}", origin.address);
            origin.check().map_err(|error| error.within(&place))?;
        }
        let health = self.health.as_ref();
        health.map_or(Ok(()), HealthCheck::check).map_err(|error| error.within("health"))
    }
}

impl Origin {
    /// Its scheme, host and port; none when its address has not the form that it must have.
    pub fn parts(&self) -> Option<(&'static str, String, u16)> {
        if self.address.len() > TEXT_BYTES_MAX || self.address.contains(['@', '#', '?']) {
            return None;
        }
        let uri: Uri = self.address.parse().ok()?;
        let (scheme, default) = match uri.scheme_str()? {
            "http" => ("http", 80),
            "https" => ("https", 443),
            _ => return None,
        };
        let authority = authority(uri.authority()?.as_str())?;
        let port = authority.port_u16().unwrap_or(default);
        matches!(uri.path(), "" | "/").then(|| (scheme, authority.host().to_owned(), port))
    }

    fn check(&self) -> Result<(), OriginsError> {
        if self.parts().is_none() {
            return Err(OriginsError::new(
                "address is none: write http:// or https://, a host and a port, and no path, \
                 such as \"https://10.0.0.5:8443\""
                    .to_owned(),
            ));
        }
        within("weight", self.weight, &WEIGHTS)?;
        if self.host_header.as_ref().is_some_and(|host| authority(host).is_none()) {
            return Err(OriginsError::new("host_header is no host".to_owned()));
        }
        let letters =
            |name: &String| name.len() == 2 && name.bytes().all(|b| b.is_ascii_alphabetic());
        let name = |name: &String| (1..=PLACE_BYTES_MAX).contains(&name.len());
        let code = "a code of two letters, such as \"DE\"";
        places("countries", &self.countries, letters, code)?;
        places("continents", &self.continents, letters, code)?;
        places("regions", &self.regions, name, "a region's name")
    }
}

impl HealthCheck {
    /// Whether a status is one of an origin that is well.
    pub fn passes(&self, status: u16) -> bool {
        match self.status.is_empty() {
            true => (200..300).contains(&status),
            false => self.status.contains(&status),
        }
    }

    fn check(&self) -> Result<(), OriginsError> {
        let path = self.path.parse::<PathAndQuery>();
        if !self.path.starts_with('/') || self.path.len() > TEXT_BYTES_MAX || path.is_err() {
            return Err(OriginsError::new(
                "path is none: write one such as \"/health\"".to_owned(),
            ));
        }
        within("interval_s", self.interval_s, &INTERVAL_S)?;
        within("timeout_ms", self.timeout_ms, &TIMEOUT_MS)?;
        within("healthy", self.healthy, &IN_A_ROW)?;
        within("unhealthy", self.unhealthy, &IN_A_ROW)?;
        let fits = self.status.iter().all(|status| (100..600).contains(status));
        match fits && self.status.len() <= STATUSES_MAX {
            true => Ok(()),
            false => Err(OriginsError::new(format!(
                "status has at most {STATUSES_MAX} numbers from 100 to 599"
            ))),
        }
    }
}

/// A host with or without a port, and nothing else.
fn authority(text: &str) -> Option<Authority> {
    let strange = |c: char| c == '@' || c == '*' || c.is_ascii_whitespace();
    if text.is_empty() || text.len() > TEXT_BYTES_MAX || text.contains(strange) {
        return None;
    }
    let authority: Authority = text.parse().ok()?;
    let host = authority.host();
    let rest = &authority.as_str()[host.len()..];
    // What follows the host is a port that fits, or nothing.
    let fits = rest.is_empty() || authority.port_u16().is_some_and(|port| port > 0);
    (fits && !host.is_empty()).then_some(authority)
}

fn within<T: PartialOrd + std::fmt::Display>(
    key: &str,
    value: T,
    range: &RangeInclusive<T>,
) -> Result<(), OriginsError> {
    if range.contains(&value) {
        return Ok(());
    }
    let (start, end) = (range.start(), range.end());
    Err(OriginsError::new(format!("{key} is {value}: it is {start} to {end}")))
}

fn places(
    key: &str,
    names: &[String],
    fits: impl Fn(&String) -> bool,
    expected: &str,
) -> Result<(), OriginsError> {
    if names.len() > PLACES_MAX {
        return Err(OriginsError::new(format!("{key} has at most {PLACES_MAX} names")));
    }
    match names.iter().find(|name| !fits(name)) {
        Some(name) => Err(OriginsError::new(format!("{key}: {name:?} is not {expected}"))),
        None => Ok(()),
    }
}
