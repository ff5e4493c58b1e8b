//! Finds a request's client behind proxies, by `X-Forwarded-For` or `Forwarded` (RFC 7239).
//!
//! Every proxy appends the address that it was called from. So the addresses are read from the right, for as
//! long as the one who wrote them is trusted: the first that is not trusted is the client, whatever it wrote
//! further left.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use http::header::{FORWARDED, HeaderMap, HeaderName};

use super::{FORWARDED_HOPS_MAX, ForwardedHeader, Proxies};
use crate::connection::Connection;
use crate::pattern::Scheme;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What trusted proxies say of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    address: SocketAddr,
    scheme: Option<Scheme>,
}

/// What one proxy says of whom it was called by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Hop {
    /// None when it is hidden, or cannot be read.
    address: Option<SocketAddr>,
    scheme: Option<Scheme>,
}

impl Proxies {
    /// The connection as proxies tell of it whose word counts, or as it is.
    pub(crate) fn seen(&self, headers: &HeaderMap, connection: &Rc<Connection>) -> Rc<Connection> {
        if !self.trusts(connection.peer.ip()) {
            return Rc::clone(connection);
        }
        let told = self.told(headers, connection.peer);
        Rc::new(Connection {
            peer: told.address,
            scheme: told.scheme.unwrap_or(connection.scheme),
            ..Connection::clone(connection)
        })
    }

    /// What is said of the client of a trusted peer.
    fn told(&self, headers: &HeaderMap, peer: SocketAddr) -> Told {
        match self.header {
            ForwardedHeader::XForwardedFor => {
                let hops = entries(headers, X_FORWARDED_FOR)
                    .map(|entry| Hop { address: address(entry), scheme: None });
                let (told, depth) = self.walk(peer, hops);
                Told { scheme: scheme_at(headers, depth), ..told }
            }
            ForwardedHeader::Forwarded => {
                let lines = headers.get_all(FORWARDED).iter().rev();
                let hops = lines.flat_map(|line| {
                    let hops = line.to_str().ok().and_then(elements);
                    // What cannot be read hides whatever was left of it.
                    hops.unwrap_or_else(|| vec![Hop::default()]).into_iter().rev()
                });
                self.walk(peer, hops).0
            }
        }
    }

    /// Goes from proxy to proxy, the nearest first, and says how many there were.
    fn walk(&self, peer: SocketAddr, hops: impl Iterator<Item = Hop>) -> (Told, usize) {
        let mut told = Told { address: peer, scheme: None };
        let mut depth = 0;
        for hop in hops.take(FORWARDED_HOPS_MAX) {
            let Some(address) = hop.address else { break };
            told = Told { address, scheme: hop.scheme };
            depth += 1;
            if !self.trusts(address.ip()) {
                break;
            }
        }
        (told, depth)
    }
}

/// The parts of a list, the last one first.
fn entries(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).iter().rev();
    let parts = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    // One that is no text must not hide the others.
    parts.map(|part| std::str::from_utf8(part).unwrap_or_default().trim())
}

/// The scheme that the client's own proxy saw: each may have appended one, or only the first has written it.
fn scheme_at(headers: &HeaderMap, depth: usize) -> Option<Scheme> {
    entries(headers, X_FORWARDED_PROTO).take(depth.max(1)).last().and_then(scheme)
}

fn scheme(text: &str) -> Option<Scheme> {
    let is = |name: &str| text.eq_ignore_ascii_case(name);
    if is("https") || is("wss") {
        Some(Scheme::Https)
    } else if is("http") || is("ws") {
        Some(Scheme::Http)
    } else {
        None
    }
}

/// An address with or without a port, and IPv6 with or without brackets. Names and what is hidden are none.
fn address(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0));
    let found = ip.or_else(|_| text.parse::<SocketAddr>()).ok()?;
    Some(SocketAddr::new(found.ip().to_canonical(), found.port()))
}

/// The elements of one line of `Forwarded`, or none when it is not well-formed.
fn elements(line: &str) -> Option<Vec<Hop>> {
    split(line, ',')?.into_iter().map(hop).collect()
}

fn hop(element: &str) -> Option<Hop> {
    let mut hop = Hop::default();
    for pair in split(element, ';')?.into_iter().map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let value = unquoted(value)?;
        if name.eq_ignore_ascii_case("for") {
            hop.address = address(&value);
        } else if name.eq_ignore_ascii_case("proto") {
            hop.scheme = scheme(&value);
        }
    }
    Some(hop)
}

/// The parts between separators that stand in no quoted string, or none when such a string has no end.
fn split(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut parts, mut start) = (vec![], 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if character == separator && !quoted => {
                parts.push(&text[start..at]);
                start = at + character.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    (!quoted).then_some(parts)
}

/// A token as it is, or what a quoted string says.
fn unquoted(value: &str) -> Option<String> {
    let Some(rest) = value.strip_prefix('"') else {
        return (!value.contains('"')).then(|| value.to_owned());
    };
    let mut said = String::new();
    let mut characters = rest.strip_suffix('"')?.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return None,
            '\\' => said.push(characters.next()?),
            other => said.push(other),
        }
    }
    Some(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proxies in 10.0.0.0/8 and fd00::/8.
    fn proxies(header: ForwardedHeader) -> Proxies {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap());
        Proxies { trusted: trusted.into(), header, ..Proxies::default() }
    }

    fn seen(header: ForwardedHeader, peer: &str, lines: &[(&str, &str)]) -> (String, Scheme) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
        }
        let peer = SocketAddr::new(peer.parse().unwrap(), 1);
        let local = "127.0.0.1:80".parse().unwrap();
        let connection = Rc::new(Connection { peer, local, scheme: Scheme::Http, tls: None });
        let seen = proxies(header).seen(&headers, &connection);
        (seen.peer.ip().to_string(), seen.scheme)
    }

    #[test]
    fn the_rightmost_address_that_is_not_trusted_is_the_client() {
        let check = |peer: &str, lines: &[&str], expected: &str| {
            let lines: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
            let (client, _) = seen(ForwardedHeader::XForwardedFor, peer, &lines);
            assert_eq!(client, expected, "{peer} says {lines:?}");
        };
        // A stranger's word does not count.
        check("192.0.2.1", &["198.51.100.7"], "192.0.2.1");
        check("192.0.2.1", &[], "192.0.2.1");
        check("10.0.0.1", &[], "10.0.0.1");
        check("10.0.0.1", &["198.51.100.7"], "198.51.100.7");
        // What the client claims stands left of what its proxy saw.
        check("10.0.0.1", &["1.1.1.1, 198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["1.1.1.1", "198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["198.51.100.7,10.0.0.2"], "198.51.100.7");
        check("10.0.0.1", &["198.51.100.7, 10.0.0.3", "10.0.0.2"], "198.51.100.7");
        check("10.0.0.1", &["10.9.9.9, 198.51.100.7, 10.0.0.2"], "198.51.100.7");
        // Inside the network everybody is trusted: it is the first of them.
        check("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3");
        check("::ffff:10.0.0.1", &["198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["::ffff:198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["2001:db8::7"], "2001:db8::7");
        check("fd00::1", &["[2001:db8::7]"], "2001:db8::7");
        check("10.0.0.1", &["[2001:db8::7]:443"], "2001:db8::7");
        check("10.0.0.1", &["198.51.100.7:4711"], "198.51.100.7");
        // Whatever cannot be read ends the walk at the proxy that says it.
        for hidden in
            ["unknown", "_secret", "", ",", "300.1.1.1", "1.2.3", "é", "a b", "1.2.3.4:99999"]
        {
            check("10.0.0.1", &[hidden], "10.0.0.1");
            check("10.0.0.1", &[&format!("198.51.100.7, {hidden}, 10.0.0.2")], "10.0.0.2");
        }
        let long = "10.0.0.2,".repeat(10_000) + "10.0.0.3";
        check("10.0.0.1", &[&long], "10.0.0.2");
    }

    #[test]
    fn forwarded_is_read_by_its_grammar() {
        let check = |lines: &[&str], expected: &str, scheme: Scheme| {
            let lines: Vec<_> = lines.iter().map(|line| ("forwarded", *line)).collect();
            let told = seen(ForwardedHeader::Forwarded, "10.0.0.1", &lines);
            assert_eq!(told, (expected.to_owned(), scheme), "{lines:?}");
        };
        let (http, https) = (Scheme::Http, Scheme::Https);
        check(&["for=198.51.100.7"], "198.51.100.7", http);
        check(&["For=198.51.100.7;Proto=HTTPS;by=10.0.0.1"], "198.51.100.7", https);
        check(&["proto=https ; for=\"198.51.100.7:80\" ; host=a"], "198.51.100.7", https);
        check(&[r#"for="[2001:db8::7]:4711""#], "2001:db8::7", http);
        check(&[r#"for="\1\98.51.100.7""#], "198.51.100.7", http);
        check(&["for=1.1.1.1;proto=https, for=198.51.100.7"], "198.51.100.7", http);
        check(&["for=1.1.1.1", "for=198.51.100.7, for=10.0.0.2"], "198.51.100.7", http);
        check(&["for=198.51.100.7;proto=https,for=10.0.0.2;proto=http"], "198.51.100.7", https);
        check(&["for=_hidden;proto=https"], "10.0.0.1", http);
        check(&["for=unknown, for=10.0.0.2"], "10.0.0.2", http);
        // A client cannot open a quote that swallows what its proxy appends.
        check(&[r#"for=1.1.1.1;x=", for=198.51.100.7"#], "10.0.0.1", http);
        check(&[r#"for=1.1.1.1;x=", for="[2001:db8::7]""#], "10.0.0.1", http);
        check(&[r#"for=1.1.1.1;x=""#, "for=198.51.100.7"], "198.51.100.7", http);
        for malformed in
            ["for", "for=1.1.1.1 x", "for=\"1.1.1.1\"x", "x;for=1.1.1.1", "for=1\".1.1.1"]
        {
            check(&[malformed], "10.0.0.1", http);
        }
        check(&[""], "10.0.0.1", http);
        check(&["for=198.51.100.7;;proto=https"], "198.51.100.7", https);
    }

    #[test]
    fn one_kind_of_header_is_believed() {
        let lines = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=2.2.2.2;proto=http"),
        ];
        let by_x = seen(ForwardedHeader::XForwardedFor, "10.0.0.1", &lines);
        assert_eq!(by_x, ("1.1.1.1".to_owned(), Scheme::Https));
        let by_rfc = seen(ForwardedHeader::Forwarded, "10.0.0.1", &lines);
        assert_eq!(by_rfc, ("2.2.2.2".to_owned(), Scheme::Http));
        let stranger = seen(ForwardedHeader::XForwardedFor, "192.0.2.1", &lines);
        assert_eq!(stranger, ("192.0.2.1".to_owned(), Scheme::Http));
    }

    #[test]
    fn the_scheme_is_that_of_the_clients_own_proxy() {
        let check = |addresses: &str, schemes: &[&str], expected: Scheme| {
            let mut lines = vec![("x-forwarded-for", addresses)];
            lines.extend(schemes.iter().map(|scheme| ("x-forwarded-proto", *scheme)));
            let (_, scheme) = seen(ForwardedHeader::XForwardedFor, "10.0.0.1", &lines);
            assert_eq!(scheme, expected, "{lines:?}");
        };
        check("198.51.100.7", &["https"], Scheme::Https);
        check("198.51.100.7", &["HTTPS"], Scheme::Https);
        check("198.51.100.7", &["http"], Scheme::Http);
        check("198.51.100.7", &["ftp"], Scheme::Http);
        check("198.51.100.7", &[], Scheme::Http);
        check("198.51.100.7, 10.0.0.2", &["https"], Scheme::Https);
        check("198.51.100.7, 10.0.0.2", &["https, http"], Scheme::Https);
        check("198.51.100.7, 10.0.0.2", &["https", "http"], Scheme::Https);
        // The client's own claim stands left of it.
        check("1.1.1.1, 198.51.100.7", &["https, http"], Scheme::Http);
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_said_ends_the_thread(said in ".{0,80}") {
            if http::HeaderValue::from_bytes(said.as_bytes()).is_ok() {
                for header in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
                    let lines = [("x-forwarded-for", &*said), ("forwarded", &*said)];
                    seen(header, "10.0.0.1", &lines);
                }
            }
        }

        /// Whatever the client writes itself, its proxy's word of it wins, or nothing is believed at all.
        #[test]
        fn a_client_cannot_choose_its_address(claim in "[ -~]{0,40}", quoted: bool) {
            let told = if quoted { r#"for="198.51.100.7""# } else { "for=198.51.100.7" };
            let said = format!("{claim}, {told}");
            let (client, _) = seen(ForwardedHeader::Forwarded, "10.0.0.1", &[("forwarded", &said)]);
            proptest::prop_assert!(["198.51.100.7", "10.0.0.1"].contains(&&*client), "{said} gives {client}");
        }
    }
}
