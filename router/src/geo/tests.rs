//! Layouts of records as publishers write them, encoded by a small writer of the format.

use std::net::IpAddr;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NODES: u32 = 1 << 16;

/// Writes values in the format's data section.
fn encode(value: &Value, out: &mut Vec<u8>) {
    let mut control = |kind: u8, size: usize| {
        let (first, extended) = if kind > 7 { (0, Some(kind - 7)) } else { (kind << 5, None) };
        let (bits, more) = match size {
            0..29 => (size as u8, None),
            _ => (29, Some(u8::try_from(size - 29).unwrap())),
        };
        out.push(first | bits);
        out.extend(extended);
        out.extend(more);
    };
    match value {
        Value::String(text) => {
            control(2, text.len());
            out.extend(text.as_bytes());
        }
        Value::Number(number) if number.is_f64() => {
            control(3, 8);
            out.extend(number.as_f64().unwrap().to_be_bytes());
        }
        Value::Number(number) => match number.as_u64().unwrap() {
            number if number < 1 << 16 => {
                control(5, 2);
                out.extend((number as u16).to_be_bytes());
            }
            number if number < 1 << 32 => {
                control(6, 4);
                out.extend((number as u32).to_be_bytes());
            }
            number => {
                control(9, 8);
                out.extend(number.to_be_bytes());
            }
        },
        Value::Bool(flag) => control(14, usize::from(*flag)),
        Value::Array(items) => {
            control(11, items.len());
            items.iter().for_each(|item| encode(item, out));
        }
        Value::Object(fields) => {
            control(7, fields.len());
            for (key, value) in fields {
                encode(&Value::String(key.clone()), out);
                encode(value, out);
            }
        }
        Value::Null => unreachable!("the format has no such value"),
    }
}

/// A database of IPv4 addresses with one record, which the lower half of them has.
fn database(record: &Value) -> Bytes {
    // One node of two records of 24 bits counts, left to the data and right to nothing; the others make the
    // count of nodes a number of the type that the format wants. Data begins after 16 zeros.
    let data = NODES + 16;
    let mut bytes = vec![0; NODES as usize * 6 + 16];
    bytes[..3].copy_from_slice(&data.to_be_bytes()[1..]);
    for empty in bytes[3..NODES as usize * 6].chunks_exact_mut(3) {
        empty.copy_from_slice(&NODES.to_be_bytes()[1..]);
    }
    encode(record, &mut bytes);
    bytes.extend(b"\xab\xcd\xefMaxMind.com");
    let metadata = json!({
        "binary_format_major_version": 2, "binary_format_minor_version": 0, "build_epoch": 1_u64 << 32,
        "database_type": "test", "description": { "en": "test" }, "ip_version": 4,
        "languages": ["en"], "node_count": NODES, "record_size": 24,
    });
    encode(&metadata, &mut bytes);
    bytes.into()
}

fn place(records: &[Value], address: &str) -> Place {
    let databases = records.iter().map(database).collect();
    GeoTable::new(&[], databases).unwrap().place(address.parse().unwrap())
}

fn some(text: &str) -> Option<Box<str>> {
    Some(text.into())
}

fn berlin() -> Place {
    Place {
        country: some("DE"),
        continent: some("EU"),
        is_eu: Some(true),
        region: some("Land Berlin"),
        region_code: some("BE"),
        city: some("Berlin"),
        postal_code: some("10115"),
        metro_code: None,
        latitude: Some(52.5),
        longitude: Some(13.4),
        timezone: some("Europe/Berlin"),
        asn: Some(64_500),
        as_organization: some("Example"),
    }
}

#[test]
fn layouts_of_publishers_are_read() {
    let nested = json!({
        "country": { "iso_code": "DE", "is_in_european_union": true, "geoname_id": 1 },
        "continent": { "code": "EU", "names": { "de": "Europa", "en": "Europe" } },
        "subdivisions": [
            { "iso_code": "BE", "names": { "de": "x", "en": "Land Berlin" } }, { "iso_code": "ZZ" },
        ],
        "city": { "names": { "en": "Berlin" } },
        "postal": { "code": "10115" },
        "location": { "latitude": 52.5, "longitude": 13.4, "time_zone": "Europe/Berlin" },
        "autonomous_system_number": 64_500, "autonomous_system_organization": "Example",
    });
    assert_eq!(place(&[nested], "1.2.3.4"), berlin(), "MaxMind, DB-IP");
    let flat = json!({
        "country_code": "DE", "state1": "Land Berlin", "state2": "", "city": "Berlin",
        "postcode": "10115", "latitude": 52.5, "longitude": 13.4, "timezone": "Europe/Berlin",
    });
    let asn = json!({
        "autonomous_system_number": 64_500, "autonomous_system_organization": "Example",
    });
    let expected = Place { region_code: None, ..berlin() };
    assert_eq!(place(&[asn, flat], "1.2.3.4"), expected, "ip-location-db");
    let texts = json!({
        "asn": "AS64500", "as_name": "Example", "as_domain": "example.net", "org": "another name",
        "continent": "Europe", "continent_code": "EU", "country": "Germany", "country_code": "de",
        "region": "Land Berlin", "region_code": "BE", "city": "Berlin", "postal_code": "10115",
        "lat": "52.5", "lng": "13.4", "timezone": "Europe/Berlin",
    });
    assert_eq!(place(&[texts], "1.2.3.4"), berlin(), "IPinfo");
}

#[test]
fn what_is_unfit_counts_as_absent() {
    let check = |record: Value, expected: Place| {
        assert_eq!(place(std::slice::from_ref(&record), "1.2.3.4"), expected, "{record}");
    };
    check(json!({ "country_code": "ZZ", "city": "-", "timezone": " " }), Place::default());
    check(json!({ "country": "Germany", "asn": 0, "latitude": 91.0 }), Place::default());
    check(
        json!({ "country": ["a", { "b": [1] }], "location": [], "lat": "north" }),
        Place::default(),
    );
    check(json!({ "asn": "ASN", "continent": true, "city": { "names": [] } }), Place::default());
    let long = place(&[json!({ "city": "ä".repeat(140) })], "1.2.3.4").city.unwrap();
    assert_eq!(long.len(), 256);
    assert_eq!(place(&[json!({ "city": "Berlin" })], "200.1.1.1"), Place::default());
    assert_eq!(place(&[json!({ "city": "Berlin" })], "::1"), Place::default());
}

#[test]
fn databases_complete_each_other_unless_they_disagree() {
    let country = json!({ "country_code": "DE" });
    let city = |country: &str| json!({ "country_code": country, "city": "Berlin" });
    assert_eq!(place(&[country.clone(), city("DE")], "1.1.1.1").city, some("Berlin"));
    let other = place(&[country, city("US")], "1.1.1.1");
    assert_eq!((other.country, other.city), (some("DE"), None));
    let of = |asn: u32, name: &str| json!({ "asn": asn, "as_name": name });
    let both = place(&[json!({ "asn": 5 }), of(5, "five")], "1.1.1.1");
    assert_eq!(both.as_organization, some("five"));
    assert_eq!(place(&[json!({ "asn": 5 }), of(6, "six")], "1.1.1.1").as_organization, None);
}

#[test]
fn the_smallest_network_wins_over_databases() {
    let network = |cidr: &str, country: &str| GeoNetwork {
        cidr: cidr.parse().unwrap(),
        place: Place { country: some(country), ..Place::default() },
    };
    let networks = [
        network("10.0.0.0/8", "AT"),
        network("10.1.0.0/16", "CH"),
        network("10.1.2.3/32", "US"),
        network("fd00::/8", "JP"),
        network("0.0.0.0/1", "FR"),
    ];
    let record = json!({ "country_code": "DE", "city": "Berlin", "asn": 7 });
    let table = GeoTable::new(&networks, vec![database(&record)]).unwrap();
    let check = |address: &str, country: &str, city: Option<Box<str>>| {
        let place = table.place(address.parse().unwrap());
        assert_eq!((place.country, place.city), (some(country), city), "{address}");
    };
    check("10.2.0.1", "AT", None);
    check("10.1.9.9", "CH", None);
    check("10.1.2.3", "US", None);
    check("::ffff:10.1.2.3", "US", None);
    check("fd12::1", "JP", None);
    check("9.9.9.9", "FR", None);
    assert_eq!(table.place("9.9.9.9".parse().unwrap()).asn, Some(7));
    assert_eq!(table.place("200.0.0.1".parse().unwrap()), Place::default());
    let many = vec![network("10.0.0.0/8", "AT"); GEO_NETWORKS_MAX + 1];
    assert!(matches!(GeoTable::new(&many, Vec::new()), Err(GeoError::TooManyNetworks(_))));
}

#[test]
fn continents_and_membership_follow_from_the_country() {
    let check = |country: &str, continent: &str, is_eu| {
        let found = place(&[json!({ "country_code": country })], "1.1.1.1");
        assert_eq!((found.continent, found.is_eu), (some(continent), Some(is_eu)), "{country}");
    };
    check("FR", "EU", true);
    check("CH", "EU", false);
    check("GB", "EU", false);
    check("US", "NA", false);
    check("BR", "SA", false);
    check("CY", "EU", true);
    check("AQ", "AN", false);
    check("NZ", "OC", false);
    check("ZA", "AF", false);
    check("JP", "AS", false);
}

#[test]
fn damage_is_found() {
    let good = database(&json!({ "country": { "iso_code": "DE" } }));
    GeoTable::check(good.clone()).unwrap();
    for bad in [Bytes::new(), good.slice(..good.len() / 2), Bytes::from_static(b"<html>")] {
        assert!(matches!(GeoTable::check(bad), Err(GeoError::Database(_))));
    }
}

proptest! {
    /// Whatever a file holds, a lookup ends and does not panic.
    #[test]
    fn damaged_databases_do_no_harm(at in 0_usize..260, byte: u8, address: u32) {
        let mut bytes = database(&json!({
            "country": { "iso_code": "DE" }, "subdivisions": [{ "iso_code": "BE" }],
        })).to_vec();
        // The one node that counts, then data and metadata.
        let at = if at < 6 { at } else { NODES as usize * 6 + at };
        bytes[at] = byte;
        if let Ok(table) = GeoTable::new(&[], vec![bytes.into()]) {
            let _ = table.place(IpAddr::from(address.to_be_bytes()));
        }
    }
}
