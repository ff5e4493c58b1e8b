//! The fields that databases in MaxMind's format have of an address. Their publishers nest them as MaxMind does,
//! or write them flat under names of their own; both are read, and what is not understood counts as absent.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::Place;

/// Bytes that are kept of one text.
const TEXT_BYTES_MAX: usize = 256;

/// A record. MaxMind, DB-IP and IP2Location nest; ip-location-db, IPinfo and IPLocate write flat.
#[derive(Default)]
pub(super) struct Record<'a> {
    country: Field<'a>,
    registered_country: Field<'a>,
    country_code: Field<'a>,
    continent: Field<'a>,
    continent_code: Field<'a>,
    subdivisions: Field<'a>,
    region: Field<'a>,
    region_code: Field<'a>,
    city: Field<'a>,
    postal: Field<'a>,
    metro_code: Field<'a>,
    location: Field<'a>,
    latitude: Field<'a>,
    longitude: Field<'a>,
    timezone: Field<'a>,
    asn: Field<'a>,
    as_organization: Field<'a>,
}

impl<'a> Record<'a> {
    /// Where the value of a key goes, under any of the names that publishers give it.
    fn slot(&mut self, key: &str) -> Option<&mut Field<'a>> {
        Some(match key {
            "country" => &mut self.country,
            "registered_country" => &mut self.registered_country,
            "country_code" => &mut self.country_code,
            "continent" => &mut self.continent,
            "continent_code" => &mut self.continent_code,
            "subdivisions" => &mut self.subdivisions,
            "region" | "state1" | "state" | "subdivision" => &mut self.region,
            "region_code" => &mut self.region_code,
            "city" => &mut self.city,
            "postal" | "postal_code" | "postcode" | "zip_code" => &mut self.postal,
            "metro_code" => &mut self.metro_code,
            "location" => &mut self.location,
            "latitude" | "lat" => &mut self.latitude,
            "longitude" | "lng" | "lon" => &mut self.longitude,
            "timezone" | "time_zone" => &mut self.timezone,
            "autonomous_system_number" | "asn" => &mut self.asn,
            "autonomous_system_organization"
            | "as_organization"
            | "asn_organization"
            | "as_name"
            | "org" => &mut self.as_organization,
            _ => return None,
        })
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Record<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RecordVisitor(PhantomData))
    }
}

struct RecordVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for RecordVisitor<'a> {
    type Value = Record<'a>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a record of an address")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut record = Record::default();
        while let Some(key) = map.next_key::<&str>()? {
            match record.slot(key) {
                Some(slot) if matches!(slot, Field::Absent) => *slot = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(record)
    }
}

/// The parts of an object that are of interest, under the names that publishers give them.
#[derive(Default)]
struct Object<'a> {
    code: Field<'a>,
    name: Field<'a>,
    is_in_european_union: Field<'a>,
    latitude: Field<'a>,
    longitude: Field<'a>,
    time_zone: Field<'a>,
    metro_code: Field<'a>,
}

impl<'a> Object<'a> {
    fn slot(&mut self, key: &str) -> Option<&mut Field<'a>> {
        Some(match key {
            "iso_code" | "code" => &mut self.code,
            // Of names by language, English is what Cloudflare shows.
            "name" | "names" | "en" => &mut self.name,
            "is_in_european_union" => &mut self.is_in_european_union,
            "latitude" => &mut self.latitude,
            "longitude" => &mut self.longitude,
            "time_zone" | "timezone" => &mut self.time_zone,
            "metro_code" => &mut self.metro_code,
            _ => return None,
        })
    }
}

/// A field as some publisher writes it. A list stands for its first item.
#[derive(Default)]
enum Field<'a> {
    #[default]
    Absent,
    Text(&'a str),
    Number(f64),
    Flag(bool),
    Object(Box<Object<'a>>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Field<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor(PhantomData))
    }
}

struct FieldVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for FieldVisitor<'a> {
    type Value = Field<'a>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text, a number, an object or a list")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Field::Text(text))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Field::Number(number))
    }

    fn visit_f32<E>(self, number: f32) -> Result<Self::Value, E> {
        Ok(Field::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Field::Number(number as f64))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Field::Number(number as f64))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Self::Value, E> {
        Ok(Field::Flag(flag))
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Self::Value, E> {
        Ok(Field::Absent)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let first = list.next_element()?.unwrap_or_default();
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(first)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut object = Object::default();
        while let Some(key) = map.next_key::<&str>()? {
            match object.slot(key) {
                Some(slot) if matches!(slot, Field::Absent) => *slot = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Field::Object(Box::new(object)))
    }
}

impl<'a> Field<'a> {
    fn object(&self) -> Option<&Object<'a>> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// A text itself, or an object's code.
    fn code(&self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Object(object) => object.code.code(),
            _ => None,
        }
    }

    /// A text itself, or an object's English name.
    fn name(&self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Object(object) => object.name.name(),
            _ => None,
        }
    }

    /// A code as text; some are written as numbers.
    fn text(&self) -> Option<Box<str>> {
        match self {
            Self::Number(number) => Some(number.to_string().into()),
            other => other.code().and_then(text),
        }
    }

    fn number(&self) -> Option<f64> {
        let number = match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        number.filter(|number: &f64| number.is_finite())
    }

    fn flag(&self) -> Option<bool> {
        match self {
            Self::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    /// Degrees within their range.
    fn degrees(&self, max: f64) -> Option<f64> {
        self.number().filter(|degrees| degrees.abs() <= max)
    }

    /// The number of an autonomous system: `64500` or `AS64500`.
    fn asn(&self) -> Option<u32> {
        let asn = match self {
            Self::Text(text) => text.trim().trim_start_matches(['A', 'S', 'a', 's']).parse().ok(),
            other => other.number().map(|number| number as u32),
        };
        asn.filter(|asn| *asn > 0)
    }
}

/// A text that says something, cut to its limit.
fn text(text: &str) -> Option<Box<str>> {
    let text = text.trim();
    let cut = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
    (!cut.is_empty() && cut != "-").then(|| cut.into())
}

/// A code of two letters, in capitals.
fn two_letters(code: &str) -> Option<Box<str>> {
    let fits = code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_alphabetic());
    (fits && !code.eq_ignore_ascii_case("zz")).then(|| code.to_ascii_uppercase().into())
}

/// The first field with a code of two letters: a flat `country` may be a name.
fn first_code(fields: [&Field<'_>; 3]) -> Option<Box<str>> {
    fields.iter().find_map(|field| field.code().and_then(two_letters))
}

impl From<Record<'_>> for Place {
    fn from(record: Record<'_>) -> Self {
        let absent = Object::default();
        let location = record.location.object().unwrap_or(&absent);
        let country = record.country.object().or(record.registered_country.object());
        let subdivision = record.subdivisions.object().unwrap_or(&absent);
        let region = record.subdivisions.name().or(record.region.name());
        let region_code = record.region_code.code().or(subdivision.code.code());
        let time_zone = location.time_zone.code().or(record.timezone.code());
        Self {
            country: first_code([
                &record.country_code,
                &record.country,
                &record.registered_country,
            ]),
            continent: first_code([&record.continent_code, &record.continent, &Field::Absent]),
            is_eu: country.and_then(|country| country.is_in_european_union.flag()),
            region: region.and_then(text),
            region_code: region_code.and_then(text),
            city: record.city.name().and_then(text),
            postal_code: record.postal.text(),
            metro_code: location.metro_code.text().or_else(|| record.metro_code.text()),
            latitude: location.latitude.degrees(90.0).or_else(|| record.latitude.degrees(90.0)),
            longitude: location
                .longitude
                .degrees(180.0)
                .or_else(|| record.longitude.degrees(180.0)),
            timezone: time_zone.and_then(text),
            asn: record.asn.asn(),
            as_organization: record.as_organization.name().and_then(text),
        }
    }
}
