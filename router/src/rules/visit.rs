//! What rules may look at: a request, where it came from, and when.

use http::{HeaderMap, HeaderValue, Method};
use memchr::memchr;

use crate::geo::Place;
use crate::pattern::Scheme;

/// A request as rules see it. Everything that an evaluation depends upon is in here.
#[derive(Clone, Copy)]
pub struct Visit<'a> {
    /// Plain or over TLS.
    pub scheme: Scheme,
    /// The host as the client named it, in any case, with or without a port.
    pub host: &'a str,
    /// The method.
    pub method: &'a Method,
    /// The path as it was sent, percent-encoding and all.
    pub path: &'a str,
    /// What follows the question mark, as it was sent.
    pub query: Option<&'a str>,
    /// The headers as they were sent.
    pub headers: &'a HeaderMap,
    /// Where it came from, as far as that is known: every condition over what is not is false.
    pub place: Option<&'a Place>,
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Makes an id for a client that has none: at most 64 letters and digits, unlike any other.
    pub fresh_unit: &'a dyn Fn() -> String,
    /// Whether whoever asks may force variants and have decisions explained without a token: true in
    /// development alone.
    pub trusted: bool,
}

/// The value of a cookie that a request sent, in ASCII; the first one of that name. Names have no equals sign.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let value = |part: &'a [u8]| {
        let rest = part.trim_ascii_start().strip_prefix(name.as_bytes())?;
        let value = rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
        value.is_ascii().then_some(value)
    };
    values(headers).find_map(|header| parts(header).find_map(value))
}

/// Every cookie of a request.
pub(super) fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    pairs(headers).filter_map(|(name, value)| Some((text(name)?, text(value)?)))
}

/// What is on both sides of every first equals sign.
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    values(headers).flat_map(parts).filter_map(|pair| {
        let equals = memchr(b'=', pair)?;
        Some((&pair[..equals], &pair[equals + 1..]))
    })
}

fn values(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(http::header::COOKIE).iter().map(HeaderValue::as_bytes)
}

/// What is between semicolons. Browsers send kilobytes of cookies.
fn parts(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = memchr(b';', text);
        rest = end.map(|end| &text[end + 1..]);
        Some(&text[..end.unwrap_or(text.len())])
    })
}

/// What is left of a part of a header without the space around it; nothing unless it is ASCII.
fn text(part: &[u8]) -> Option<&str> {
    let part = part.trim_ascii();
    part.is_ascii().then(|| std::str::from_utf8(part).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cookie_of_a_name_that_can_be_read_counts() {
        for (sent, expected) in [
            (&["a=1; b=2"][..], Some("2")),
            (&["a=b=2;b = 3 ;b=4"], Some("3")),
            (&["b; xb=1; b=", "b=2"], Some("")),
            (&["b=\u{e9}; b=2"], Some("2")),
            (&["a=1", "", ";;b=x=y"], Some("x=y")),
            (&["B=1; a=b"], None),
            (&["b c=1; =b=2; b\t= 3"], Some("3")),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for text in sent {
                let value = HeaderValue::from_bytes(text.as_bytes()).unwrap();
                headers.append(http::header::COOKIE, value);
            }
            assert_eq!(cookie(&headers, "b"), expected.map(str::as_bytes), "{sent:?}");
            let found = cookies(&headers).find(|(name, _)| *name == "b");
            assert_eq!(found.map(|(_, value)| value), expected, "{sent:?}");
        }
    }
}
