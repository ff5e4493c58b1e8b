//! What a worker learns of its client: `request.cf`, and the headers that say where a request came from. It is
//! looked up and written down only for a worker that asks.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use atoll_isolate::RequestFacts;
use atoll_router::{ClientCertificate, Connection, Place, Scheme};
use bytes::Bytes;
use http::Version;
use http::header::{ACCEPT_ENCODING, FORWARDED, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use serde::Serialize;

use super::forward::{Carried, Errand, FromElsewhere};
use super::host::ThreadHost;
use super::rules::Decided;
use crate::config::NodeConfig;
use crate::geo::{Geo, ThreadGeo};
use crate::hop_by_hop::remove_hop_by_hop;

const CF_CONNECTING_IP: HeaderName = HeaderName::from_static("cf-connecting-ip");
const CF_IPCOUNTRY: HeaderName = HeaderName::from_static("cf-ipcountry");
const CF_RAY: HeaderName = HeaderName::from_static("cf-ray");
const CF_VISITOR: HeaderName = HeaderName::from_static("cf-visitor");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The country of clients of whom nothing is known.
const UNKNOWN: &str = "XX";

/// Headers that only nodes may write, beside those that this one always writes. A client's own are removed.
const OURS: [HeaderName; 3] = [
    HeaderName::from_static("cdn-loop"),
    HeaderName::from_static("true-client-ip"),
    // Proxies that are trusted have been listened to before.
    FORWARDED,
];

/// What the names of Cloudflare's headers begin with.
const CF: &str = "cf-";

/// Those of them that only nodes may write.
const OURS_OF_CF: [HeaderName; 13] = [
    HeaderName::from_static("cf-connecting-ipv6"),
    HeaderName::from_static("cf-connecting-o2o"),
    HeaderName::from_static("cf-pseudo-ipv4"),
    HeaderName::from_static("cf-worker"),
    CITY,
    CONTINENT,
    LATITUDE,
    LONGITUDE,
    REGION,
    REGION_CODE,
    METRO_CODE,
    POSTAL_CODE,
    TIMEZONE,
];

const CITY: HeaderName = HeaderName::from_static("cf-ipcity");
const CONTINENT: HeaderName = HeaderName::from_static("cf-ipcontinent");
const LATITUDE: HeaderName = HeaderName::from_static("cf-iplatitude");
const LONGITUDE: HeaderName = HeaderName::from_static("cf-iplongitude");
const REGION: HeaderName = HeaderName::from_static("cf-region");
const REGION_CODE: HeaderName = HeaderName::from_static("cf-region-code");
const METRO_CODE: HeaderName = HeaderName::from_static("cf-metro-code");
const POSTAL_CODE: HeaderName = HeaderName::from_static("cf-postal-code");
const TIMEZONE: HeaderName = HeaderName::from_static("cf-timezone");

/// What the node itself adds to every request that a thread answers.
pub(super) struct NodeFacts {
    pub(super) geo: ThreadGeo,
    /// Where the node says it is.
    colo: Box<str>,
    location_headers: bool,
}

impl NodeFacts {
    pub(super) fn new(config: &NodeConfig, geo: Arc<Geo>) -> Self {
        Self {
            geo: ThreadGeo::new(geo),
            colo: config.colo().into(),
            location_headers: config.geo.location_headers,
        }
    }

    /// Where the node says it is.
    pub(super) fn colo(&self) -> &str {
        &self.colo
    }

    /// A request's id with the place that answers it.
    pub(super) fn ray(&self, id: &str) -> HeaderValue {
        ray(id, &self.colo)
    }
}

/// Who sent a request, and how.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) ip: IpAddr,
    /// What it used itself: a proxy in front may have ended its TLS.
    pub(super) scheme: Scheme,
    /// The protocol that it speaks.
    pub(super) protocol: Cow<'static, str>,
    /// The version and cipher of TLS, if it came over that.
    pub(super) tls: Option<(Cow<'static, str>, Cow<'static, str>)>,
    /// Its certificate, where it was asked for one.
    pub(super) certificate: Option<Arc<ClientCertificate>>,
    /// What another node knows of it that it came to.
    from: Option<Arc<FromElsewhere>>,
}

impl Client {
    pub(super) fn of(version: Version, connection: &Connection) -> Self {
        let tls = connection.tls.as_ref().map(|tls| (tls.version.into(), tls.cipher.into()));
        let certificate = connection.tls.as_ref().and_then(|tls| tls.client.clone());
        let protocol = match version {
            Version::HTTP_3 => "HTTP/3",
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        };
        let ip = connection.peer.ip().to_canonical();
        let scheme = connection.scheme;
        Self { ip, scheme, protocol: protocol.into(), tls, certificate, from: None }
    }

    /// The client of a request that another node passed on.
    pub(super) fn carried(carried: &Carried) -> Self {
        let Carried { ip, protocol, tls, certificate, from, .. } = carried.clone();
        let scheme = if carried.https { Scheme::Https } else { Scheme::Http };
        Self { ip, scheme, protocol, tls, certificate, from: Some(from) }
    }

    /// What is told of its request where that is passed on to: what was known where it came to, and decided by rules.
    pub(super) fn carry(
        &self,
        node: &NodeFacts,
        flags: Option<String>,
        errand: Errand<'_>,
    ) -> Carried {
        let here = || {
            let (place, colo) = (self.place(node).into_owned(), node.colo().into());
            Arc::new(FromElsewhere { place, colo, flags })
        };
        let Errand { id, worker, version, url, policy } = errand;
        Carried {
            hops: 1,
            id: id.clone(),
            worker: worker.clone(),
            version: version.clone(),
            policy,
            url: url.clone(),
            ip: self.ip,
            https: self.scheme == Scheme::Https,
            protocol: self.protocol.clone(),
            tls: self.tls.clone(),
            certificate: self.certificate.clone(),
            from: self.from.clone().unwrap_or_else(here),
        }
    }

    /// Where it is.
    pub(super) fn place<'a>(&'a self, node: &NodeFacts) -> Cow<'a, Place> {
        match &self.from {
            Some(from) => Cow::Borrowed(&from.place),
            None => Cow::Owned(Place::clone(&node.geo.place(self.ip))),
        }
    }

    /// The place of the node that it came to.
    fn colo<'a>(&'a self, node: &'a NodeFacts) -> &'a str {
        self.from.as_ref().map_or(&node.colo, |from| &from.colo)
    }
}

/// What is known of one request's client, on the thread of its worker.
pub(super) struct ClientFacts {
    pub(super) client: Client,
    pub(super) id: Arc<str>,
    pub(super) host: Rc<ThreadHost>,
    /// What rules decided about the request.
    pub(super) decided: Option<Decided>,
}

impl RequestFacts for ClientFacts {
    fn finish_headers(&self, headers: &mut HeaderMap) {
        let node = &self.host.node;
        let place = self.client.place(node);
        strip(headers);
        stamp(headers, &self.client, &place);
        headers.insert(CF_RAY, ray(&self.id, self.client.colo(node)));
        if node.location_headers {
            tell_location(headers, &place);
        }
    }

    fn cf(&self, headers: &HeaderMap) -> String {
        let node = &self.host.node;
        let encodings = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
        cf(&self.client, &self.client.place(node), self.client.colo(node), encodings)
    }

    fn flags(&self) -> Option<String> {
        let told = || self.client.from.as_ref()?.flags.clone();
        self.decided.as_ref().map(Decided::flags).or_else(told)
    }

    fn track(&self, metric: &str, value: f64) {
        if let Some(decided) = &self.decided {
            decided.track(metric, value);
        }
    }
}

/// Removes what a client may not claim, and what concerned its connection to the node alone.
fn strip(headers: &mut HeaderMap) {
    // A worker that waits for WebSockets looks for it.
    let upgrade = headers.remove(UPGRADE);
    remove_hop_by_hop(headers);
    headers.extend(upgrade.map(|upgrade| (UPGRADE, upgrade)));
    for name in OURS {
        headers.remove(name);
    }
    if headers.keys().any(|name| name.as_str().starts_with(CF)) {
        for name in OURS_OF_CF {
            headers.remove(name);
        }
    }
}

/// Writes what the node knows in place of what the client may have written.
fn stamp(headers: &mut HeaderMap, client: &Client, place: &Place) {
    let ip = ip_header(client.ip);
    headers.insert(CF_CONNECTING_IP, ip.clone());
    headers.insert(X_FORWARDED_FOR, ip.clone());
    headers.insert(X_REAL_IP, ip);
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(client.scheme.as_str()));
    let visitor = match client.scheme {
        Scheme::Https => HeaderValue::from_static(r#"{"scheme":"https"}"#),
        Scheme::Http => HeaderValue::from_static(r#"{"scheme":"http"}"#),
    };
    headers.insert(CF_VISITOR, visitor);
    let country = place.country.as_deref().unwrap_or(UNKNOWN);
    let country = HeaderValue::from_str(country).unwrap_or(HeaderValue::from_static(UNKNOWN));
    headers.insert(CF_IPCOUNTRY, country);
}

/// Writes Cloudflare's location headers, as far as something is known.
fn tell_location(headers: &mut HeaderMap, place: &Place) {
    let (latitude, longitude) = (place.latitude.map(degrees), place.longitude.map(degrees));
    for (name, value) in [
        (CITY, place.city.as_deref()),
        (CONTINENT, place.continent.as_deref()),
        (LATITUDE, latitude.as_deref()),
        (LONGITUDE, longitude.as_deref()),
        (REGION, place.region.as_deref()),
        (REGION_CODE, place.region_code.as_deref()),
        (METRO_CODE, place.metro_code.as_deref()),
        (POSTAL_CODE, place.postal_code.as_deref()),
        (TIMEZONE, place.timezone.as_deref()),
    ] {
        // Names are UTF-8, as Cloudflare sends them.
        if let Some(value) = value.and_then(|v| HeaderValue::from_bytes(v.as_bytes()).ok()) {
            headers.insert(name, value);
        }
    }
}

/// The attributes of `request.cf`, by Cloudflare's names and in its types. What is not known is absent.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cf<'a> {
    colo: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    country: Option<&'a str>,
    #[serde(rename = "isEUCountry", skip_serializing_if = "Option::is_none")]
    is_eu_country: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    continent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region_code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    city: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    postal_code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metro_code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latitude: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    longitude: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timezone: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    asn: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    as_organization: Option<&'a str>,
    http_protocol: &'a str,
    tls_version: &'a str,
    tls_cipher: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_client_auth: Option<&'a ClientCertificate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_accept_encoding: Option<&'a str>,
}

fn cf(client: &Client, place: &Place, colo: &str, encodings: Option<&str>) -> String {
    let (tls_version, tls_cipher) =
        client.tls.as_ref().map_or(("", ""), |(version, cipher)| (version, cipher));
    let nobody;
    let tls_client_auth = match &client.certificate {
        Some(certificate) => Some(&**certificate),
        None if client.tls.is_none() => None,
        None => {
            nobody = ClientCertificate::none();
            Some(&nobody)
        }
    };
    let cf = Cf {
        colo,
        country: place.country.as_deref(),
        is_eu_country: place.is_eu.filter(|is_eu| *is_eu).map(|_| "1"),
        continent: place.continent.as_deref(),
        region: place.region.as_deref(),
        region_code: place.region_code.as_deref(),
        city: place.city.as_deref(),
        postal_code: place.postal_code.as_deref(),
        metro_code: place.metro_code.as_deref(),
        latitude: place.latitude.map(degrees),
        longitude: place.longitude.map(degrees),
        timezone: place.timezone.as_deref(),
        asn: place.asn,
        as_organization: place.as_organization.as_deref(),
        http_protocol: &client.protocol,
        tls_version,
        tls_cipher,
        tls_client_auth,
        client_accept_encoding: encodings,
    };
    serde_json::to_string(&cf).expect("texts and numbers are JSON")
}

/// A request's id with the place of the node that the client came to.
fn ray(id: &str, colo: &str) -> HeaderValue {
    let mut text = String::with_capacity(id.len() + 1 + colo.len());
    text.push_str(id);
    text.push('-');
    text.push_str(colo);
    // Places of other nodes are checked like this one's, and ids are hexadecimal.
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static("-"))
}

/// Degrees with as many digits as Cloudflare shows.
fn degrees(degrees: f64) -> String {
    format!("{degrees:.5}")
}

/// An address as a header value.
fn ip_header(ip: IpAddr) -> HeaderValue {
    let mut text = String::with_capacity(39);
    let _ = write!(text, "{ip}");
    HeaderValue::from_maybe_shared(Bytes::from(text))
        .expect("an IP address has no character that a header value may not have")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn berlin() -> Place {
        Place {
            country: Some("DE".into()),
            continent: Some("EU".into()),
            is_eu: Some(true),
            city: Some("Köln".into()),
            latitude: Some(50.9333),
            longitude: Some(-6.95),
            asn: Some(64_500),
            ..Place::default()
        }
    }

    fn client(tls: Option<(&'static str, &'static str)>) -> Client {
        Client {
            ip: "192.0.2.7".parse().unwrap(),
            scheme: if tls.is_some() { Scheme::Https } else { Scheme::Http },
            protocol: "HTTP/2".into(),
            tls: tls.map(|(version, cipher)| (version.into(), cipher.into())),
            certificate: None,
            from: None,
        }
    }

    #[test]
    fn attributes_have_cloudflares_names_and_types() {
        let client = client(Some(("TLSv1.3", "AEAD-AES128-GCM-SHA256")));
        let cf = cf(&client, &berlin(), "eu-1", Some("gzip"));
        let expected = serde_json::json!({
            "colo": "eu-1", "country": "DE", "isEUCountry": "1", "continent": "EU", "city": "Köln",
            "latitude": "50.93330", "longitude": "-6.95000", "asn": 64_500,
            "httpProtocol": "HTTP/2", "tlsVersion": "TLSv1.3",
            "tlsCipher": "AEAD-AES128-GCM-SHA256", "clientAcceptEncoding": "gzip",
            "tlsClientAuth": ClientCertificate::none(),
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&cf).unwrap(), expected);
    }

    #[test]
    fn a_client_cannot_say_where_it_is() {
        let mut headers = HeaderMap::new();
        let all = OURS.into_iter().chain(OURS_OF_CF).chain([
            CF_CONNECTING_IP,
            CF_IPCOUNTRY,
            CF_VISITOR,
            X_FORWARDED_FOR,
            X_FORWARDED_PROTO,
            X_REAL_IP,
        ]);
        for name in all {
            headers.append(name.clone(), HeaderValue::from_static("forged"));
            headers.append(name, HeaderValue::from_static("twice"));
        }
        headers.insert("cf-access-client-id", HeaderValue::from_static("its own"));
        strip(&mut headers);
        stamp(&mut headers, &client(None), &Place::default());
        tell_location(&mut headers, &Place { region: Some("x".into()), ..Place::default() });
        let mut said: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        said.sort_unstable();
        assert_eq!(
            said,
            [
                ("cf-access-client-id", "its own"),
                ("cf-connecting-ip", "192.0.2.7"),
                ("cf-ipcountry", "XX"),
                ("cf-region", "x"),
                ("cf-visitor", r#"{"scheme":"http"}"#),
                ("x-forwarded-for", "192.0.2.7"),
                ("x-forwarded-proto", "http"),
                ("x-real-ip", "192.0.2.7"),
            ]
        );
    }
}
