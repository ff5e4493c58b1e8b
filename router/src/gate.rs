//! What every request passes before the service sees it, whatever its protocol.

use std::sync::Arc;

use http::header::{ALT_SVC, HOST, HeaderValue};
use http::{Request, Response};

use crate::connection::Connection;
use crate::options::{HEADERS_MAX, ServeOptions};
use crate::pattern::bare_host;
use crate::tls::{ClientMode, PolicyId, Tls};

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
        }
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
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next();
        let differ = |authority: &str| {
            host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()))
        };
        if hosts.next().is_some() || authority.is_some_and(differ) {
            return Some(Refusal::HostsDiffer);
        }
        let host = authority.or_else(|| host?.to_str().ok())?;
        self.certificate_refusal(host, connection)
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
