//! What every request passes before the service sees it, whatever its protocol.

use std::rc::Rc;
use std::sync::Arc;

use http::header::{ALT_SVC, CONNECTION, COOKIE, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, Uri, Version};

use crate::connection::Connection;
use crate::dot_segments;
use crate::options::{HEADERS_MAX, ServeOptions};
use crate::pattern::bare_host;
use crate::proxies::Proxies;
use crate::tls::{ClientMode, PolicyId, Tls, is_challenge_path};

/// How long clients may remember that HTTP/3 is spoken here, in seconds.
const ALT_SVC_S: u32 = 86_400;

/// Why a request is refused before it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Answer 414: the URL is longer than `url_bytes_max`.
    UrlTooLong,
    /// Answer 431: there are more than [`HEADERS_MAX`] header lines, or more bytes of them than
    /// `header_bytes_max`.
    HeadersTooLarge,
    /// Answer 400: the request names several hosts.
    HostsDiffer,
    /// Answer 400: the request names no host, or what cannot be one.
    BadHost,
    /// Answer 400: what the request line asks for is no path of an `http` or `https` URL.
    BadTarget,
    /// Answer 405: the method is for proxies or for debugging them, and no worker can have it.
    BadMethod,
    /// Answer 501: the body is in a transfer coding other than `chunked`.
    BadCoding,
    /// Answer 421: clients of this host are asked for a certificate, and on this connection it was not.
    Misdirected,
    /// Answer 403: clients of this host must have a certificate, and this connection has no TLS.
    NoClientCertificate,
    /// Answer 425: the request came in early data, which may be sent again by someone else, and its method is
    /// not safe.
    TooEarly,
}

/// What a listener holds requests to.
pub(crate) struct Gate {
    url_bytes_max: usize,
    header_bytes_max: usize,
    tls: Option<Arc<Tls>>,
    alt_svc: Option<HeaderValue>,
    proxies: Arc<Proxies>,
}

impl Gate {
    /// Holds requests to the options, and to what `tls` wants of their hosts. Where HTTP/3 is found is said on
    /// every response.
    pub(crate) fn new(options: &ServeOptions, tls: Option<Arc<Tls>>) -> Self {
        let announce = |port: u16| {
            HeaderValue::from_str(&format!("h3=\":{port}\"; ma={ALT_SVC_S}"))
                .expect("a port has digits alone")
        };
        Self {
            url_bytes_max: options.url_bytes_max,
            header_bytes_max: options.header_bytes_max,
            alt_svc: options.http3_port.map(announce),
            tls,
            proxies: options.proxies.clone(),
        }
    }

    /// The answer to an ACME authority's question that is pending: ahead of every route and of client certificates,
    /// over plain HTTP alone. `refusal` is what would become of the request.
    pub(crate) fn challenge_answer<B>(
        &self,
        request: &Request<B>,
        refusal: Option<Refusal>,
        connection: &Connection,
    ) -> Option<String> {
        let path = request.uri().path();
        let is_allowed = matches!(refusal, None | Some(Refusal::NoClientCertificate));
        if connection.tls.is_some() || !is_allowed || !is_challenge_path(path) {
            return None;
        }
        let authority = request.uri().authority().map(|authority| authority.as_str());
        let host = authority.or_else(|| request.headers().get(HOST)?.to_str().ok())?;
        self.tls.as_ref()?.challenge_answer(bare_host(host), path)
    }

    /// Why a request is refused, if it is.
    pub(crate) fn refusal<B>(
        &self,
        request: &Request<B>,
        connection: &Connection,
    ) -> Option<Refusal> {
        let (uri, headers) = (request.uri(), request.headers());
        let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
        let authority = uri.authority().map(|authority| authority.as_str());
        if target + authority.map_or(0, str::len) > self.url_bytes_max {
            return Some(Refusal::UrlTooLong);
        }
        let bytes: usize =
            headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if headers.len() > HEADERS_MAX || bytes > self.header_bytes_max {
            return Some(Refusal::HeadersTooLarge);
        }
        let host = match sole_host(request) {
            Ok(host) => host,
            Err(refusal) => return Some(refusal),
        };
        malformed(request).or_else(|| self.certificate_refusal(host, connection))
    }

    /// Makes a request that is let through ready for the service, with what is known of its client by the proxies
    /// in front of the node.
    pub(crate) fn prepare<B>(
        &self,
        request: &mut Request<B>,
        connection: &Rc<Connection>,
    ) -> Rc<Connection> {
        if let Some(path) = dot_segments::resolved(request.uri().path()) {
            replace_path(request.uri_mut(), path);
        }
        if request.version() > Version::HTTP_11 {
            join_cookies(request.headers_mut());
        }
        self.proxies.seen(request.headers(), connection)
    }

    /// A request must come on a connection that was made as its host wants it: with another name in the
    /// handshake a client could otherwise go around the certificate.
    fn certificate_refusal(&self, host: &str, connection: &Connection) -> Option<Refusal> {
        let tls = self.tls.as_ref().filter(|tls| tls.has_policies())?;
        let wanted = tls.policy_of(bare_host(host));
        match (&connection.tls, wanted) {
            (Some(session), _) => {
                let wanted = wanted.map_or(PolicyId::OPEN, |(id, _)| id);
                (session.policy != wanted).then_some(Refusal::Misdirected)
            }
            (None, Some((_, ClientMode::Required))) => Some(Refusal::NoClientCertificate),
            (None, _) => None,
        }
    }

    /// Adds what the listener says on every response.
    pub(crate) fn finish<B>(&self, response: &mut Response<B>) {
        if let Some(alt_svc) = &self.alt_svc {
            response.headers_mut().entry(ALT_SVC).or_insert_with(|| alt_svc.clone());
        }
    }
}

/// Ends the connection after the answer to a request that was refused: what follows on it may not be what its
/// sender means. HTTP/2 and HTTP/3 have no such doubt.
pub(crate) fn close_after<B>(version: Version, response: &mut Response<B>) {
    if version <= Version::HTTP_11 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// The one host that a request names (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
fn sole_host<B>(request: &Request<B>) -> Result<&str, Refusal> {
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    let differ = |authority: &str| {
        host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()))
    };
    if hosts.next().is_some() || authority.is_some_and(differ) {
        return Err(Refusal::HostsDiffer);
    }
    if host.is_none() && request.version() == Version::HTTP_11 {
        return Err(Refusal::BadHost);
    }
    let host = authority.or_else(|| host?.to_str().ok()).ok_or(Refusal::BadHost)?;
    if is_host(host) { Ok(host) } else { Err(Refusal::BadHost) }
}

/// A name or an address, and perhaps a port, and nothing that would be another part of a URL.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (address, port),
        Some(_) => return false,
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            if !name.bytes().all(fits) {
                return false;
            }
            (name, port)
        }
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok() && !port.starts_with('+');
    !name.is_empty()
        && port.strip_prefix(':').map_or(port.is_empty(), |p| p.is_empty() || is_port(p))
}

/// What no worker could be asked.
fn malformed<B>(request: &Request<B>) -> Option<Refusal> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) || request.method() == "TRACK" {
        return Some(Refusal::BadMethod);
    }
    if !is_target(request.uri()) {
        return Some(Refusal::BadTarget);
    }
    other_coding(request.headers()).then_some(Refusal::BadCoding)
}

/// Whether a target is a path, or a whole URL of the web (RFC 9112 section 3.2).
fn is_target(uri: &Uri) -> bool {
    let is_web = match (uri.scheme_str(), uri.authority()) {
        (None, authority) => authority.is_none(),
        (Some(scheme), Some(_)) => matches!(scheme, "http" | "https"),
        (Some(_), None) => false,
    };
    is_web && (uri.path().starts_with('/') || uri.path().is_empty())
}

/// Whether a body is in another transfer coding than the one that everybody reads alike.
fn other_coding(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return false };
    codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked")
}

/// Makes one header of cookies that came in several fields (RFC 9113 section 8.2.3): whoever joins them later does
/// it with commas, which no cookie parser knows.
fn join_cookies(headers: &mut HeaderMap) {
    let mut fields = headers.get_all(COOKIE).iter();
    if fields.next().is_none() || fields.next().is_none() {
        return;
    }
    let fields: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let joined = HeaderValue::from_bytes(&fields.join(&b"; "[..]));
    headers.insert(COOKIE, joined.expect("what joins values may stand in one"));
}

fn replace_path(uri: &mut Uri, mut path: String) {
    if let Some(query) = uri.query() {
        path.push('?');
        path.push_str(query);
    }
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(
        PathAndQuery::try_from(path).expect("a part of a path is a path, and the query was one"),
    );
    *uri = Uri::from_parts(parts).expect("only the path of a whole URI has changed");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_and_nothing_else() {
        for good in [
            "a",
            "a.b-c_d.example",
            "A.b:80",
            "127.0.0.1:8080",
            "[::1]",
            "[2001:db8::1]:443",
            "a.",
            "a:",
        ] {
            assert!(is_host(good), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "a@b",
            "user:pw@a",
            "a,b",
            "a\\b",
            "a%2eb",
            "a:b",
            "a:+1",
            "a:99999",
            "a:80:90",
            "[::1",
            "[::1]x",
            "[a]",
            "[]",
            "\u{e9}.example",
            "a\tb",
        ] {
            assert!(!is_host(bad), "{bad}");
        }
    }

    #[test]
    fn targets_are_paths_or_urls_of_the_web() {
        for good in ["/", "/a?b", "//a", "http://a/b", "https://a", "HTTP://a/"] {
            assert!(is_target(&good.parse().unwrap()), "{good}");
        }
        for bad in ["*", "a", "a:80", "ftp://a/"] {
            assert!(!is_target(&bad.parse().unwrap()), "{bad}");
        }
    }

    #[test]
    fn a_path_is_replaced_and_the_rest_stays() {
        for (target, path, expected) in
            [("/a/../b?x=/../y", "/b", "/b?x=/../y"), ("http://a:80/c/./", "/c/", "http://a:80/c/")]
        {
            let mut uri: Uri = target.parse().unwrap();
            replace_path(&mut uri, path.to_owned());
            assert_eq!(uri.to_string(), expected);
        }
    }
}
