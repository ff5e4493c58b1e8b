//! What conditions ask of a request: each found out at most once in an evaluation, and only when asked for.

use std::borrow::Cow;
use std::cell::OnceCell;

use http::header::HeaderName;
use smallvec::SmallVec;

use super::device::Device;
use super::language;
use super::murmur3::unit_hash;
use super::visit::{Visit, cookie, cookies};
use crate::pattern::bare_host;

/// The name of the cookie that tells clients apart which nothing else does.
pub const UNIT_COOKIE: &str = "atoll_id";

/// Longer texts are no unit ids.
const UNIT_BYTES_MAX: usize = 512;

/// Pairs of a query string that are looked at.
const QUERY_PAIRS_MAX: usize = 256;

/// The names that a set of rules asks for, each with a number.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) headers: Vec<HeaderName>,
    pub(super) cookies: Vec<Box<str>>,
    pub(super) queries: Vec<Box<str>>,
    pub(super) units: Vec<UnitSource>,
}

/// Where the id of a unit comes from. Where there is none, it is the client's automatic cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UnitSource {
    Automatic,
    Cookie(Box<str>),
    Header(HeaderName),
}

/// The number of a name, which is added where it is new.
pub(super) fn numbered<T: PartialEq>(names: &mut Vec<T>, name: T) -> usize {
    names.iter().position(|known| *known == name).unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    })
}

/// A fact that is a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    Scheme,
    Host,
    Method,
    Path,
    Device,
    Country,
    Continent,
    Region,
    RegionCode,
    City,
    PostalCode,
    Timezone,
    Header(usize),
    Cookie(usize),
    Query(usize),
}

impl Fact {
    /// Whether it is about where the client is.
    pub(super) fn is_of_place(self) -> bool {
        match self {
            Self::Country
            | Self::Continent
            | Self::Region
            | Self::RegionCode
            | Self::City
            | Self::PostalCode
            | Self::Timezone => true,
            Self::Scheme
            | Self::Host
            | Self::Method
            | Self::Path
            | Self::Device
            | Self::Header(_)
            | Self::Cookie(_)
            | Self::Query(_) => false,
        }
    }

    /// Whether upper and lower case are the same in it.
    pub(super) fn folds(self) -> bool {
        !matches!(self, Self::Path | Self::Header(_) | Self::Cookie(_) | Self::Query(_))
    }
}

/// The facts of one request.
pub(super) struct Facts<'a> {
    pub(super) visit: &'a Visit<'a>,
    names: &'a Names,
    cookies: OnceCell<Box<[Option<&'a str>]>>,
    queries: OnceCell<Box<[Option<Cow<'a, str>>]>>,
    device: OnceCell<Device>,
    language: OnceCell<Option<&'a str>>,
    units: SmallVec<[Unit<'a>; 2]>,
    fresh_unit: OnceCell<Box<str>>,
}

/// The unit that a source names.
#[derive(Clone, Default)]
struct Unit<'a> {
    /// None where the request has none: it gets a fresh one.
    sent: OnceCell<Option<&'a [u8]>>,
    hash: OnceCell<u64>,
}

impl<'a> Facts<'a> {
    pub(super) fn new(visit: &'a Visit<'a>, names: &'a Names) -> Self {
        Self {
            visit,
            names,
            cookies: OnceCell::new(),
            queries: OnceCell::new(),
            device: OnceCell::new(),
            language: OnceCell::new(),
            units: SmallVec::from_elem(Unit::default(), names.units.len()),
            fresh_unit: OnceCell::new(),
        }
    }

    /// The value of a fact; none where the request does not say, or not in readable text.
    pub(super) fn text(&self, fact: Fact) -> Option<&str> {
        let Visit { scheme, host, method, path, headers, place, .. } = self.visit;
        match fact {
            Fact::Scheme => Some(scheme.as_str()),
            Fact::Host => Some(bare_host(host)),
            Fact::Method => Some(method.as_str()),
            Fact::Path => Some(path),
            Fact::Device => Some(self.device().as_str()),
            Fact::Country => place.as_ref()?.country.as_deref(),
            Fact::Continent => place.as_ref()?.continent.as_deref(),
            Fact::Region => place.as_ref()?.region.as_deref(),
            Fact::RegionCode => place.as_ref()?.region_code.as_deref(),
            Fact::City => place.as_ref()?.city.as_deref(),
            Fact::PostalCode => place.as_ref()?.postal_code.as_deref(),
            Fact::Timezone => place.as_ref()?.timezone.as_deref(),
            Fact::Header(name) => headers.get(&self.names.headers[name])?.to_str().ok(),
            Fact::Cookie(name) => self.cookies()[name],
            Fact::Query(name) => self.queries()[name].as_deref(),
        }
    }

    /// Whether the request says anything of a fact, readable or not.
    pub(super) fn exists(&self, fact: Fact) -> bool {
        match fact {
            Fact::Header(name) => self.visit.headers.contains_key(&self.names.headers[name]),
            fact => self.text(fact).is_some(),
        }
    }

    pub(super) fn device(&self) -> Device {
        *self.device.get_or_init(|| Device::of(self.visit.headers))
    }

    pub(super) fn language(&self) -> Option<&str> {
        *self.language.get_or_init(|| language::preferred(self.visit.headers))
    }

    fn cookies(&self) -> &[Option<&'a str>] {
        self.cookies.get_or_init(|| {
            let mut values: Box<[Option<&str>]> = vec![None; self.names.cookies.len()].into();
            for (name, value) in cookies(self.visit.headers) {
                if let Some(at) = self.names.cookies.iter().position(|known| **known == *name) {
                    values[at].get_or_insert(value);
                }
            }
            values
        })
    }

    fn queries(&self) -> &[Option<Cow<'a, str>>] {
        self.queries.get_or_init(|| {
            let mut values: Box<[Option<Cow<'_, str>>]> =
                vec![None; self.names.queries.len()].into();
            for (name, value) in pairs(self.visit.query) {
                if let Some(at) = self.names.queries.iter().position(|known| **known == *name) {
                    values[at].get_or_insert(value);
                }
            }
            values
        })
    }

    /// The id of the unit that a source names; the client's automatic id where the source is silent.
    pub(super) fn unit(&self, source: usize) -> &[u8] {
        let fresh = || self.fresh_unit.get_or_init(|| (self.visit.fresh_unit)().into()).as_bytes();
        self.sent_unit(source).unwrap_or_else(fresh)
    }

    /// The 64 bits that stand for the same.
    pub(super) fn unit_hash(&self, source: usize) -> u64 {
        *self.units[source].hash.get_or_init(|| unit_hash(self.unit(source)))
    }

    /// What stands for the units of all sources, as far as there are any without making one.
    pub(super) fn known_units(&self) -> Box<[Option<u64>]> {
        let known = |(source, unit): (usize, &Unit<'_>)| {
            // Who was asked for before has an id, be it a fresh one.
            let is_known = unit.sent.get().is_some() || self.sent_unit(source).is_some();
            is_known.then(|| self.unit_hash(source))
        };
        self.units.iter().enumerate().map(known).collect()
    }

    /// Takes the automatic id that was made in this evaluation, if any was.
    pub(super) fn take_fresh_unit(&mut self) -> Option<Box<str>> {
        self.fresh_unit.take()
    }

    fn sent_unit(&self, source: usize) -> Option<&'a [u8]> {
        *self.units[source].sent.get_or_init(|| self.find_unit(&self.names.units[source]))
    }

    /// The id that the request has, for a source.
    fn find_unit(&self, source: &UnitSource) -> Option<&'a [u8]> {
        let headers = self.visit.headers;
        let named = match source {
            UnitSource::Automatic => None,
            UnitSource::Cookie(name) => cookie(headers, name),
            UnitSource::Header(name) => {
                headers.get(name).and_then(|value| value.to_str().ok()).map(str::as_bytes)
            }
        };
        let fits = |id: &&[u8]| (1..=UNIT_BYTES_MAX).contains(&id.len());
        named.filter(fits).or_else(|| cookie(headers, UNIT_COOKIE).filter(fits))
    }
}

/// The pairs of a query string as a form sends them (WHATWG URL, section 5.1).
pub(super) fn pairs(query: Option<&str>) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let parts = query.unwrap_or("").split('&').filter(|part| !part.is_empty());
    parts.take(QUERY_PAIRS_MAX).map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (decoded(name), decoded(value))
    })
}

fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['+', '%']) {
        return Cow::Borrowed(text);
    }
    let digit = |byte: Option<&u8>| byte.and_then(|byte| (*byte as char).to_digit(16));
    let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let escaped = match byte {
            b'%' => digit(bytes.get(at + 1)).zip(digit(bytes.get(at + 2))),
            _ => None,
        };
        decoded.push(match (escaped, byte) {
            (Some((high, low)), _) => (high * 16 + low) as u8,
            (None, b'+') => b' ',
            (None, byte) => *byte,
        });
        at += if escaped.is_some() { 3 } else { 1 };
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_strings_are_read_as_forms() {
        let read = |query| {
            pairs(Some(query)).map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("|")
        };
        for (query, expected) in [
            ("a=1&b=2", "a=1|b=2"),
            ("a=x+y%20z&&b", "a=x y z|b="),
            ("%61=%C3%A9&a=%zz%4", "a=é|a=%zz%4"),
            ("a=b=c", "a=b=c"),
            ("", ""),
        ] {
            assert_eq!(read(query), expected, "{query}");
        }
    }
}
