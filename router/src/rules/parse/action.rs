//! What variants do.

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::super::action::{Action, HeaderChange, PathAction, Picked};
use super::super::error::Step;
use super::super::preview::PREVIEW_TOKEN;
use super::super::template::{Context, Kind, Template};
use super::Builder;
use super::reader::{Member, Reader, Walk};

/// Headers that one variant changes, in each direction.
const HEADERS_MAX: usize = 32;
/// What a variant's value or variables take as JSON, in bytes.
const VALUE_BYTES_MAX: usize = 16 << 10;
/// The longest name of a worker or version, in bytes.
const PICKED_BYTES_MAX: usize = 64;

pub(super) const ACTION_KEYS: [&str; 8] = [
    "value",
    "variables",
    "version",
    "worker",
    "rewrite",
    "redirect",
    "request_headers",
    "response_headers",
];

/// Headers that say how a message is framed, or that the node writes itself.
const UNCHANGEABLE: [&str; 12] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "cf-ray",
    "cf-connecting-ip",
    PREVIEW_TOKEN,
];

impl Builder {
    pub(super) fn action(
        &mut self,
        members: &[Member<'_>],
        rule: &str,
        variant: &str,
        prefix: Option<usize>,
    ) -> (Option<Value>, Action) {
        let context = Context { rule, variant, prefix };
        let reader = &mut self.reader;
        reader.exclusive(members, ["version", "worker"]);
        reader.exclusive(members, ["rewrite", "redirect"]);
        let value = reader.member(members, "value", Reader::small);
        let variables = reader.member(members, "variables", Reader::variables).unwrap_or_default();
        let version = reader.member(members, "version", Reader::picked).map(Picked::Version);
        let worker = reader.member(members, "worker", Reader::picked).map(Picked::Worker);
        let rewrite = reader.member(members, "rewrite", |reader, value| {
            reader.template(value, Kind::Path, context).map(PathAction::Rewrite)
        });
        let redirect =
            reader.member(members, "redirect", |reader, value| reader.redirect(value, context));
        let mut headers = |key| reader.member(members, key, Reader::headers).unwrap_or_default();
        let (request_headers, response_headers) =
            (headers("request_headers"), headers("response_headers"));
        let (target, path) = (version.or(worker), rewrite.or(redirect));
        (value, Action { target, path, request_headers, response_headers, variables })
    }
}

impl Reader {
    /// Of two actions a variant has one.
    fn exclusive(&mut self, members: &[Member<'_>], keys: [&str; 2]) {
        if keys.iter().all(|key| members.iter().any(|(found, _)| found == key)) {
            self.report(format!("a variant has `{}` or `{}`, not both", keys[0], keys[1]));
        }
    }

    fn small(&mut self, value: &Value) -> Option<Value> {
        if value.to_string().len() > VALUE_BYTES_MAX {
            self.report(format!("this has more than {VALUE_BYTES_MAX} bytes as JSON"));
            return None;
        }
        Some(value.clone())
    }

    fn variables(&mut self, value: &Value) -> Option<Map<String, Value>> {
        self.any_object(value);
        let value = self.small(value)?;
        value.as_object().cloned()
    }

    pub(super) fn picked(&mut self, value: &Value) -> Option<Box<str>> {
        let text = self.text(value)?;
        if text.is_empty() || text.len() > PICKED_BYTES_MAX {
            self.report(format!("expected 1 to {PICKED_BYTES_MAX} characters"));
            return None;
        }
        Some(text.into())
    }

    fn template(&mut self, value: &Value, kind: Kind, context: Context<'_>) -> Option<Template> {
        let text = self.text(value)?;
        Template::parse(&text, kind, context).map_err(|problem| self.report(problem)).ok()
    }

    /// A location, or `{ location = "…", status = 307 }`.
    fn redirect(&mut self, value: &Value, context: Context<'_>) -> Option<PathAction> {
        if value.is_string() {
            let location = self.template(value, Kind::Location, context)?;
            return Some(PathAction::Redirect(StatusCode::FOUND, location));
        }
        let members = self.object(value, &["location", "status"]);
        if !members.iter().any(|(key, _)| *key == "location") {
            self.report("`location` is missing");
        }
        let location = self.member(&members, "location", |reader, value| {
            reader.template(value, Kind::Location, context)
        });
        let status = self.member(&members, "status", |reader, value| {
            let status =
                value.as_u64().filter(|status| matches!(status, 301 | 302 | 303 | 307 | 308));
            if status.is_none() {
                reader.expected("301, 302, 303, 307 or 308", value);
            }
            StatusCode::from_u16(u16::try_from(status?).ok()?).ok()
        });
        Some(PathAction::Redirect(status.unwrap_or(StatusCode::FOUND), location?))
    }

    /// `{ name = "value", other = false }`: false removes a header.
    fn headers(&mut self, value: &Value) -> Option<Box<[HeaderChange]>> {
        let members = self.any_object(value);
        if members.len() > HEADERS_MAX {
            self.report(format!("a variant changes at most {HEADERS_MAX} headers"));
            return None;
        }
        let changes = members.iter().filter_map(|(name, value)| {
            self.within(Step::Key((*name).to_owned()), |reader| reader.header(name, value))
        });
        Some(changes.collect())
    }

    fn header(&mut self, name: &str, value: &Value) -> Option<HeaderChange> {
        let name = self.checked_header_name(name)?;
        if UNCHANGEABLE.contains(&name.as_str()) {
            self.report("this header is the node's own: rules cannot change it");
            return None;
        }
        let value = match value {
            Value::Bool(false) => None,
            Value::String(text) => match HeaderValue::from_str(text) {
                Ok(value) => Some(value),
                Err(_) => {
                    self.report(format!("{text:?} cannot be a header's value"));
                    return None;
                }
            },
            other => {
                self.expected("a string, or false to remove the header", other);
                return None;
            }
        };
        Some(HeaderChange { name, value })
    }

    pub(super) fn header_name(&mut self, value: &Value) -> Option<HeaderName> {
        let text = self.text(value)?;
        self.checked_header_name(&text)
    }

    pub(super) fn checked_header_name(&mut self, text: &str) -> Option<HeaderName> {
        let name = HeaderName::from_bytes(text.as_bytes()).ok();
        if name.is_none() {
            self.report(format!("{text:?} is no header's name"));
        }
        name
    }

    pub(super) fn cookie_name(&mut self, value: &Value) -> Option<String> {
        let text = self.text(value)?;
        self.checked_cookie_name(&text).then_some(text)
    }

    /// A token, as RFC 6265 has it.
    pub(super) fn checked_cookie_name(&mut self, text: &str) -> bool {
        let fits = HeaderName::from_bytes(text.as_bytes()).is_ok();
        if !fits {
            self.report(format!("{text:?} is no cookie's name"));
        }
        fits
    }
}

impl Action {
    pub(super) fn is_permanent_redirect(&self) -> bool {
        let permanent = [StatusCode::MOVED_PERMANENTLY, StatusCode::PERMANENT_REDIRECT];
        matches!(&self.path, Some(PathAction::Redirect(status, _)) if permanent.contains(status))
    }
}
