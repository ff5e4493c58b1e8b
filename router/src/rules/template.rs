//! Paths and locations with parts that requests fill in. No request can choose the host that a location leads
//! to: it is fixed when the template is parsed, or the request's own.

use std::fmt::Write as _;

use super::facts::{Fact, Facts};

/// The longest template, in bytes.
const TEMPLATE_BYTES_MAX: usize = 2_048;

/// The names in braces, for messages.
pub(super) const SUBSTITUTIONS: [&str; 12] = [
    "path",
    "query",
    "rest",
    "host",
    "scheme",
    "country",
    "continent",
    "region",
    "device",
    "language",
    "rule",
    "variant",
];

/// What a template leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A path of the same host, for the worker alone.
    Path,
    /// What a client is told: a path of the same host, or an address.
    Location,
}

/// A text with parts to fill in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    parts: Box<[Part]>,
    /// Whether it begins with a path.
    is_path: bool,
    /// Whether it says anything of a query.
    has_query: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Path,
    /// With its question mark, or nothing.
    Query,
    /// The path without so many bytes at its start.
    Rest(usize),
    Host,
    Fact(Fact),
    Language,
}

/// What a template may speak of beside the request.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) rule: &'a str,
    pub(super) variant: &'a str,
    /// The length of the path's start that the rule asks for.
    pub(super) prefix: Option<usize>,
}

impl Template {
    /// # Errors
    /// Says what is wrong and what to write.
    pub(super) fn parse(text: &str, kind: Kind, context: Context<'_>) -> Result<Self, String> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(format!("this has more than {TEMPLATE_BYTES_MAX} bytes: shorten it"));
        }
        if let Some(found) = text.chars().find(|c| !c.is_ascii_graphic() || *c == '\\') {
            return Err(format!("{found:?} cannot stand in a URL: percent-encode it"));
        }
        let parts = parse_parts(text, context)?;
        let is_path = match parts.first() {
            Some(Part::Text(text)) => text.starts_with('/'),
            Some(Part::Path) => true,
            _ => false,
        };
        match kind {
            Kind::Path if !is_path => return Err("a path begins with \"/\" or {path}".to_owned()),
            Kind::Location if !is_path => check_authority(&parts)?,
            _ => {}
        }
        if is_path && text.starts_with("//") {
            return Err("a path does not begin with \"//\": that would name a host".to_owned());
        }
        if text.contains('#') && kind == Kind::Path {
            return Err("a path has no fragment: leave \"#\" and what follows out".to_owned());
        }
        let has_query = text.contains('?') || parts.contains(&Part::Query);
        Ok(Self { parts: parts.into(), is_path, has_query })
    }

    pub(super) fn looks_at_place(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Fact(fact) if fact.is_of_place()))
    }

    /// Fills it in. A path has one slash at its start, whatever the request holds.
    pub(super) fn fill(&self, facts: &Facts<'_>) -> String {
        let mut filled = String::with_capacity(64);
        for part in &self.parts {
            part.fill(facts, &mut filled);
        }
        if self.is_path {
            let path = filled.trim_start_matches(['/', '\\']);
            let start = filled.len() - path.len();
            if start != 1 || !filled.starts_with('/') {
                filled.replace_range(..start, "/");
            }
        }
        filled
    }

    /// Fills it in, and keeps the request's query where the template says nothing of one.
    pub(super) fn fill_path(&self, facts: &Facts<'_>) -> String {
        let mut filled = self.fill(facts);
        if !self.has_query {
            Part::Query.fill(facts, &mut filled);
        }
        filled
    }
}

fn parse_parts(text: &str, context: Context<'_>) -> Result<Vec<Part>, String> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while let Some((before, after)) = rest.split_once('{') {
        push_text(&mut parts, before)?;
        let Some((name, after)) = after.split_once('}') else {
            return Err("\"{\" is not closed: write %7B for a brace".to_owned());
        };
        match part(name, context)? {
            Part::Text(text) => push_text(&mut parts, &text)?,
            part => parts.push(part),
        }
        rest = after;
    }
    push_text(&mut parts, rest)?;
    Ok(parts)
}

fn push_text(parts: &mut Vec<Part>, text: &str) -> Result<(), String> {
    if text.contains('}') {
        return Err("\"}\" closes nothing: write %7D for a brace".to_owned());
    }
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(last)) => *last = format!("{last}{text}").into(),
        _ => parts.push(Part::Text(text.into())),
    }
    Ok(())
}

fn part(name: &str, context: Context<'_>) -> Result<Part, String> {
    Ok(match name {
        "path" => Part::Path,
        "query" => Part::Query,
        "rest" => Part::Rest(context.prefix.ok_or(
            "{rest} is what follows the path's start: the rule needs `when.path.prefix` for it",
        )?),
        "host" => Part::Host,
        "scheme" => Part::Fact(Fact::Scheme),
        "country" => Part::Fact(Fact::Country),
        "continent" => Part::Fact(Fact::Continent),
        "region" => Part::Fact(Fact::RegionCode),
        "device" => Part::Fact(Fact::Device),
        "language" => Part::Language,
        "rule" => Part::Text(context.rule.into()),
        "variant" => Part::Text(context.variant.into()),
        _ => {
            let known = SUBSTITUTIONS.map(|name| format!("{{{name}}}")).join(", ");
            return Err(format!("there is no {{{name}}}: there are {known}"));
        }
    })
}

/// `http` or `https`, then a host that is written out or the request's own, and then its end or a path.
fn check_authority(parts: &[Part]) -> Result<(), String> {
    let wrong = || {
        Err("a location is a path, or https:// with a host that is written out or {host}; \
             after the host comes its end, \"/\", \"?\", {path} or {query}"
            .to_owned())
    };
    let Some(Part::Text(text)) = parts.first() else { return wrong() };
    let Some(rest) = text.strip_prefix("https://").or(text.strip_prefix("http://")) else {
        return wrong();
    };
    let (host, after) = match rest.find(['/', '?', '#']) {
        Some(end) => (&rest[..end], &rest[end..]),
        None => (rest, ""),
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    if !host.chars().all(allowed) || (rest.starts_with(['/', '?', '#'])) {
        return wrong();
    }
    let mut others = parts[1..].iter();
    if rest.is_empty() && others.next() != Some(&Part::Host) {
        return wrong();
    }
    match others.next() {
        _ if !after.is_empty() => Ok(()),
        None | Some(Part::Path | Part::Query) => Ok(()),
        Some(Part::Text(text)) if text.starts_with(['/', '?', '#']) => Ok(()),
        Some(_) => wrong(),
    }
}

impl Part {
    fn fill(&self, facts: &Facts<'_>, filled: &mut String) {
        match self {
            Self::Text(text) => filled.push_str(text),
            Self::Path => filled.push_str(path(facts)),
            Self::Rest(length) => filled.push_str(path(facts).get(*length..).unwrap_or("")),
            Self::Query => {
                if let Some(query) = facts.visit.query.filter(|query| !query.is_empty()) {
                    filled.push('?');
                    filled.push_str(query);
                }
            }
            Self::Host => {
                let allowed = |c: &char| {
                    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']')
                };
                filled.extend(facts.visit.host.chars().filter(allowed));
            }
            Self::Fact(fact) => encode(facts.text(*fact).unwrap_or(""), filled),
            Self::Language => encode(facts.language().unwrap_or(""), filled),
        }
    }
}

/// `OPTIONS *` has no path that begins with a slash.
fn path<'a>(facts: &Facts<'a>) -> &'a str {
    let path = facts.visit.path;
    if path.starts_with('/') { path } else { "/" }
}

/// Percent-encodes all but unreserved characters (RFC 3986, section 2.3).
fn encode(text: &str, filled: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                filled.push(byte as char);
            }
            _ => {
                let _ = write!(filled, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::super::facts::Names;
    use super::super::visit::Visit;
    use super::*;
    use crate::geo::Place;
    use crate::pattern::Scheme;

    const CONTEXT: Context<'_> = Context { rule: "shop", variant: "b", prefix: Some(5) };

    fn filled(text: &str, path: &str, query: Option<&str>) -> String {
        let (headers, names) = (HeaderMap::new(), Names::default());
        let place = Place { country: Some("A/T".into()), ..Place::default() };
        let visit = Visit {
            scheme: Scheme::Http,
            host: "shop.example:8080",
            method: &Method::GET,
            path,
            query,
            headers: &headers,
            place: Some(&place),
            now_ms: 0,
            fresh_unit: &String::new,
            trusted: false,
        };
        let facts = Facts::new(&visit, &names);
        Template::parse(text, Kind::Location, CONTEXT).unwrap().fill(&facts)
    }

    #[test]
    fn templates_are_filled_by_requests() {
        for (template, path, query, expected) in [
            ("/b{path}{query}", "/shop/x", Some("q=1"), "/b/shop/x?q=1"),
            ("/new{rest}", "/shop/x", None, "/new/x"),
            ("/{variant}/{rule}", "/", None, "/b/shop"),
            ("https://{host}{path}", "/shop", None, "https://shop.example:8080/shop"),
            ("https://eu.example/{country}{query}", "/", None, "https://eu.example/A%2FT"),
        ] {
            assert_eq!(filled(template, path, query), expected, "{template}");
        }
    }

    /// A location that begins with two slashes names a host, and browsers take backslashes for slashes.
    #[test]
    fn no_request_chooses_the_host() {
        for (template, path) in [
            ("/{rest}", "/shop//evil.example"),
            ("/{rest}", "/shop/evil.example"),
            ("/{rest}", "/shop\\evil.example"),
            ("{path}", "//evil.example"),
            ("{path}", "/\\evil.example"),
        ] {
            assert_eq!(filled(template, path, None), "/evil.example", "{template} {path}");
        }
        assert_eq!(filled("{path}", "*", None), "/");
    }

    #[test]
    fn what_could_choose_the_host_is_refused() {
        for template in [
            "//evil.example",
            "https://example.com{rest}",
            "https://{country}.example",
            "https://{host}.evil.example",
            "https://a@b",
            "https:///x",
            "{host}/x",
            "javascript:alert(1)",
            "x",
            "",
            "/{nothing}",
            "/{path",
            "/path}",
            "/a b",
            "/\\a",
        ] {
            assert!(Template::parse(template, Kind::Location, CONTEXT).is_err(), "{template}");
        }
        for template in
            ["https://{host}{path}", "https://{host}", "http://a.b:80/{rest}", "https://a.b{query}"]
        {
            assert_eq!(
                Template::parse(template, Kind::Location, CONTEXT).err(),
                None,
                "{template}"
            );
        }
        assert!(Template::parse("https://a.b/", Kind::Path, CONTEXT).is_err());
        assert!(
            Template::parse("/{rest}", Kind::Path, Context { prefix: None, ..CONTEXT }).is_err()
        );
    }
}
