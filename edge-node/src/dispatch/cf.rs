//! What a worker learns of its client: `request.cf`, and the headers that say where a request came from.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use atoll_router::{ClientCertificate, Connection};
use http::Version;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;

/// The name of the place that serves, until nodes say where they are.
const COLO: &str = "DEV";

const CF_CONNECTING_IP: HeaderName = HeaderName::from_static("cf-connecting-ip");
const CF_RAY: HeaderName = HeaderName::from_static("cf-ray");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Headers that only the node may write. A client's own copies are removed.
const OURS: &[&str] = &["cf-ipcountry", "cf-worker", "cf-visitor", "cdn-loop", "true-client-ip"];

/// What a request's headers say of its client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    pub(super) ip: IpAddr,
    /// Whether it came over TLS.
    pub(super) secure: bool,
}

impl Client {
    pub(super) fn of(connection: &Connection) -> Self {
        Self { ip: connection.peer.ip().to_canonical(), secure: connection.tls.is_some() }
    }
}

/// What the text depends on: the protocol, and the version and cipher of TLS.
type Kind = (Version, Option<(&'static str, &'static str)>);

/// The text of `request.cf`, made once for each kind of connection and kept on the thread.
#[derive(Default)]
pub(super) struct CfTexts {
    last: std::cell::RefCell<Option<(Kind, Arc<str>)>>,
}

impl CfTexts {
    pub(super) fn of(&self, version: Version, connection: &Connection) -> Arc<str> {
        let kind = (version, connection.tls.as_ref().map(|tls| (tls.version, tls.cipher)));
        if let Some(client) = connection.tls.as_ref().and_then(|tls| tls.client.as_deref()) {
            return cf(kind, Some(client));
        }
        if let Some((last, text)) = &*self.last.borrow()
            && *last == kind
        {
            return text.clone();
        }
        let text = cf(kind, None);
        *self.last.borrow_mut() = Some((kind, text.clone()));
        text
    }
}

/// `client` where clients are asked for certificates.
fn cf((version, tls): Kind, client: Option<&ClientCertificate>) -> Arc<str> {
    let protocol = match version {
        Version::HTTP_3 => "HTTP/3",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    };
    let (tls_version, tls_cipher) = tls.unwrap_or_default();
    let mut cf = json!({
        "colo": COLO,
        "httpProtocol": protocol,
        "tlsVersion": tls_version,
        "tlsCipher": tls_cipher,
    });
    if tls.is_some() {
        cf["tlsClientAuth"] = client.map_or_else(nobody, |client| json!(client));
    }
    cf.to_string().into()
}

/// What is said of a client that nobody asked for a certificate.
fn nobody() -> serde_json::Value {
    json!(ClientCertificate::none())
}

/// Removes what a client may not claim and writes what the node knows.
pub(super) fn stamp(headers: &mut HeaderMap, client: &Client, id: &str) {
    let ip = ip_header(client.ip);
    for name in OURS {
        headers.remove(*name);
    }
    let scheme = if client.secure { "https" } else { "http" };
    headers.insert(CF_CONNECTING_IP, ip.clone());
    headers.insert(X_FORWARDED_FOR, ip.clone());
    headers.insert(X_REAL_IP, ip);
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    if let Ok(ray) = HeaderValue::from_str(id) {
        headers.insert(CF_RAY, ray);
    }
}

/// An address as a header value.
fn ip_header(ip: IpAddr) -> HeaderValue {
    let mut text = String::with_capacity(39);
    let _ = write!(text, "{ip}");
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text))
        .expect("an IP address has no character that a header value may not have")
}
