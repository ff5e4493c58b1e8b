//! Route patterns as Workers define them: `[scheme://][*]host[/path][*]`.
//!
//! A pattern never holds a query, a port, or a wildcard anywhere but at the start of the host and
//! at the end of the path. Matching is on the whole URL with its query, so a pattern without a
//! trailing `*` never matches a URL that has one.

use std::fmt;
use std::str::FromStr;

/// The longest pattern accepted, in bytes.
pub const PATTERN_BYTES_MAX: usize = 4096;
/// The longest host name DNS knows, in bytes.
pub const HOST_BYTES_MAX: usize = 253;

/// The scheme of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The scheme as it stands in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// The host part of a pattern, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum HostPattern {
    /// This host only.
    Exact(Box<str>),
    /// Any host that ends in this: `.example.com`, `example.com`, or nothing at all.
    Suffix(Box<str>),
}

/// The path part of a pattern; case matters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PathPattern {
    /// This path, without a query.
    Exact(Box<str>),
    /// Any path and query that begins with this.
    Prefix(Box<str>),
}

/// A parsed route pattern. Two patterns that match the same URLs by the same text are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    pub(crate) scheme: Option<Scheme>,
    pub(crate) host: HostPattern,
    pub(crate) path: PathPattern,
}

/// Why a text is not a route pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// Nothing is there.
    #[error("the pattern is empty: write a host and a path, such as \"example.com/*\"")]
    Empty,
    /// Longer than [`PATTERN_BYTES_MAX`].
    #[error("the pattern is longer than {PATTERN_BYTES_MAX} bytes: shorten it")]
    TooLong,
    /// A scheme other than the two.
    #[error("the scheme {0:?} is not supported: use http, https or none")]
    Scheme(String),
    /// No host before the path.
    #[error("the pattern {0:?} has no host: begin it with one, or with \"*\" for every host")]
    NoHost(String),
    /// A character that no host has.
    #[error(
        "the host {host:?} holds {found:?}: use ascii letters, digits, \".\" and \"-\" (punycode for other scripts)"
    )]
    HostCharacter {
        /// The host as written.
        host: String,
        /// The offending character.
        found: char,
    },
    /// A host that DNS could not hold.
    #[error(
        "the host {0:?} is not a valid name: labels have 1 to 63 characters, the whole at most {HOST_BYTES_MAX}"
    )]
    HostShape(String),
    /// A port in the host.
    #[error("the host {0:?} names a port: a route covers every port, so leave it out")]
    Port(String),
    /// A wildcard elsewhere than at the start of the host.
    #[error("the host {0:?} has \"*\" after its start: a wildcard may only begin the host")]
    HostWildcard(String),
    /// A wildcard elsewhere than at the end of the path.
    #[error("the path {0:?} has \"*\" before its end: a wildcard may only end the path")]
    PathWildcard(String),
    /// A query or fragment.
    #[error(
        "the path {0:?} holds a query or fragment: a pattern cannot have one; end the path with \"*\" to match any query"
    )]
    Query(String),
    /// A character that must be percent-encoded.
    #[error("the path {path:?} holds {found:?}: percent-encode it as a browser would")]
    PathCharacter {
        /// The path as written.
        path: String,
        /// The offending character.
        found: char,
    },
}

impl Pattern {
    /// Parses a pattern. A missing path means `/`.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::TooLong);
        }
        let (scheme, rest) = split_scheme(text)?;
        let (host, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        if host.is_empty() {
            return Err(PatternError::NoHost(text.to_owned()));
        }
        Ok(Self { scheme, host: parse_host(host)?, path: parse_path(path)? })
    }

    /// The host without its wildcard, in lower case; empty for a pattern of every host. It is what
    /// a caller compares with the zones an account owns.
    pub fn host(&self) -> &str {
        match &self.host {
            HostPattern::Exact(host) => host,
            HostPattern::Suffix(suffix) => suffix.trim_start_matches('.'),
        }
    }

    /// Whether the pattern alone matches a URL. The host may be in any case and carry a port.
    pub fn matches(&self, scheme: Scheme, host: &str, path_and_query: &str) -> bool {
        let host = bare_host(host).to_ascii_lowercase();
        self.scheme.is_none_or(|wanted| wanted == scheme)
            && match &self.host {
                HostPattern::Exact(wanted) => **wanted == *host,
                HostPattern::Suffix(suffix) => host.ends_with(&**suffix),
            }
            && match &self.path {
                PathPattern::Exact(path) => **path == *path_and_query,
                PathPattern::Prefix(prefix) => path_and_query.starts_with(&**prefix),
            }
    }
}

/// The host of an authority without its port and without the dot that may end a full name.
pub fn bare_host(authority: &str) -> &str {
    let host = match authority.rsplit_once(':') {
        // A colon within the brackets of an IPv6 address begins no port.
        Some((host, port)) if !port.ends_with(']') => host,
        _ => authority,
    };
    host.strip_suffix('.').unwrap_or(host)
}

fn split_scheme(text: &str) -> Result<(Option<Scheme>, &str), PatternError> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Ok((None, text));
    };
    if scheme.eq_ignore_ascii_case("http") {
        Ok((Some(Scheme::Http), rest))
    } else if scheme.eq_ignore_ascii_case("https") {
        Ok((Some(Scheme::Https), rest))
    } else {
        Err(PatternError::Scheme(scheme.to_owned()))
    }
}

fn parse_host(host: &str) -> Result<HostPattern, PatternError> {
    let (wildcard, name) = match host.strip_prefix('*') {
        Some(suffix) => (true, suffix),
        None => (false, host),
    };
    if name.contains('*') {
        return Err(PatternError::HostWildcard(host.to_owned()));
    }
    let bracketed = !wildcard && name.starts_with('[') && name.ends_with(']');
    if !bracketed {
        check_name(host, name, wildcard)?;
    }
    let name = name.to_ascii_lowercase().into_boxed_str();
    Ok(if wildcard { HostPattern::Suffix(name) } else { HostPattern::Exact(name) })
}

fn check_name(host: &str, name: &str, wildcard: bool) -> Result<(), PatternError> {
    for found in name.chars() {
        match found {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => {}
            ':' => return Err(PatternError::Port(host.to_owned())),
            _ => return Err(PatternError::HostCharacter { host: host.to_owned(), found }),
        }
    }
    if wildcard && name.is_empty() {
        return Ok(());
    }
    let labels = if wildcard { name.strip_prefix('.').unwrap_or(name) } else { name };
    let well_formed = labels.split('.').all(|label| (1..=63).contains(&label.len()));
    if well_formed && name.len() <= HOST_BYTES_MAX {
        Ok(())
    } else {
        Err(PatternError::HostShape(host.to_owned()))
    }
}

fn parse_path(path: &str) -> Result<PathPattern, PatternError> {
    if path.contains(['?', '#']) {
        return Err(PatternError::Query(path.to_owned()));
    }
    if let Some(found) = path.chars().find(|c| !c.is_ascii_graphic()) {
        return Err(PatternError::PathCharacter { path: path.to_owned(), found });
    }
    let (wildcard, prefix) = match path.strip_suffix('*') {
        Some(prefix) => (true, prefix),
        None => (false, path),
    };
    if prefix.contains('*') {
        return Err(PatternError::PathWildcard(path.to_owned()));
    }
    Ok(if wildcard { PathPattern::Prefix(prefix.into()) } else { PathPattern::Exact(path.into()) })
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(scheme) = self.scheme {
            write!(f, "{}://", scheme.as_str())?;
        }
        match &self.host {
            HostPattern::Exact(host) => f.write_str(host)?,
            HostPattern::Suffix(suffix) => write!(f, "*{suffix}")?,
        }
        match &self.path {
            PathPattern::Exact(path) => f.write_str(path),
            PathPattern::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        for (text, printed) in [
            ("example.com", "example.com/"),
            ("Example.COM/Path", "example.com/Path"),
            ("*example.com/*", "*example.com/*"),
            ("*.example.com/images*", "*.example.com/images*"),
            ("HTTPS://a.b/*", "https://a.b/*"),
            ("http://a.b/x", "http://a.b/x"),
            ("*/*", "*/*"),
            ("*", "*/"),
            ("[::1]/*", "[::1]/*"),
            ("127.0.0.1/a%20b*", "127.0.0.1/a%20b*"),
        ] {
            assert_eq!(Pattern::parse(text).unwrap().to_string(), printed, "{text}");
        }
    }

    #[test]
    fn refuses_with_a_reason() {
        for (text, words) in [
            ("", "empty"),
            ("  ", "empty"),
            ("ftp://a.b/*", "scheme"),
            ("/path", "no host"),
            ("a.*.com/*", "begin the host"),
            ("a.com*/x", "begin the host"),
            ("**.com/", "begin the host"),
            ("a.com/*/x", "end the path"),
            ("a.com/x**", "end the path"),
            ("a.com/x?y=1", "query"),
            ("a.com?y=1", "query"),
            ("a.com/x#y", "query"),
            ("a.com:8080/*", "port"),
            ("a..com/", "valid name"),
            (".a.com/", "valid name"),
            ("a com/", "holds ' '"),
            ("ä.com/", "punycode"),
            ("a.com/ä", "percent-encode"),
            ("a.com/a b", "percent-encode"),
        ] {
            let error = Pattern::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        let long = format!("a.com/{}", "x".repeat(PATTERN_BYTES_MAX));
        assert_eq!(Pattern::parse(&long), Err(PatternError::TooLong));
        let host = format!("{}.com/", "x".repeat(64));
        assert!(matches!(Pattern::parse(&host), Err(PatternError::HostShape(_))));
    }

    #[test]
    fn matches_the_whole_url() {
        use Scheme::{Http, Https};
        let check = |pattern: &str, scheme, host: &str, path: &str, expected: bool| {
            let pattern = Pattern::parse(pattern).unwrap();
            assert_eq!(pattern.matches(scheme, host, path), expected, "{pattern} {host}{path}");
        };
        check("example.com/hello", Http, "example.com", "/hello", true);
        check("example.com/hello", Http, "example.com", "/hello?x=1", false);
        check("example.com/hello*", Http, "example.com", "/hello?x=1", true);
        check("example.com/Hello", Http, "EXAMPLE.com:8080", "/Hello", true);
        check("example.com/Hello", Http, "example.com", "/hello", false);
        check("*example.com/*", Http, "myexample.com", "/", true);
        check("*example.com/*", Http, "example.com", "/", true);
        check("*.example.com/*", Http, "example.com", "/", false);
        check("*.example.com/*", Https, "a.b.example.com.", "/", true);
        check("https://a.b/*", Http, "a.b", "/", false);
        check("https://a.b/*", Https, "a.b", "/", true);
        check("[::1]/*", Http, "[::1]:80", "/", true);
        check("[::1]/*", Http, "[::1]", "/", true);
        check("a.b/x/*", Http, "a.b", "/x", false);
    }
}
