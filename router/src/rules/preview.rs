//! Variants that a request asks for, and who may ask.
//!
//! `atoll-preview: rule=variant, other=variant` in a header, a cookie or the query, and `atoll-preview-token`
//! beside it. The document has the token's hash: who reads it cannot use it.

use std::borrow::Cow;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use http::HeaderMap;

use super::facts::pairs;
use super::visit::{Visit, cookie};

/// The header, cookie or query parameter that asks for variants.
pub const PREVIEW: &str = "atoll-preview";
/// The header, cookie or query parameter that says who asks.
pub const PREVIEW_TOKEN: &str = "atoll-preview-token";
/// The header that asks for the reasons of a decision, and that has them in the response.
pub const EXPLAIN: &str = "atoll-explain";

/// Variants that one request can ask for.
const WANTED_MAX: usize = 32;

/// What a request asks for.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked<'a> {
    wanted: Option<Cow<'a, str>>,
    /// Whether it may ask for everything that some rule allows, and for reasons.
    pub(super) trusted: bool,
    pub(super) explain: bool,
}

impl<'a> Asked<'a> {
    /// Nothing is looked up where nobody could be allowed anything: `open` says that some rule is open to all.
    #[inline]
    pub(super) fn of(visit: &Visit<'a>, token_sha256: Option<&[u8; 32]>, open: bool) -> Self {
        if !open && !visit.trusted && token_sha256.is_none() {
            return Self::default();
        }
        Self::read(visit, token_sha256)
    }

    fn read(visit: &Visit<'a>, token_sha256: Option<&[u8; 32]>) -> Self {
        let wanted = find(visit, PREVIEW);
        let explain = visit.headers.get(EXPLAIN).is_some_and(|value| value == "1");
        if wanted.is_none() && !explain {
            return Self::default();
        }
        let known = || {
            let token = find(visit, PREVIEW_TOKEN)?;
            let found = digest(&SHA256, token.as_bytes());
            verify_slices_are_equal(found.as_ref(), token_sha256?).ok()
        };
        let trusted = visit.trusted || known().is_some();
        Self { wanted, trusted, explain: explain && trusted }
    }

    /// Whether it asks for nothing.
    pub(super) fn is_none(&self) -> bool {
        self.wanted.is_none()
    }

    /// The variant of a rule that is asked for.
    pub(super) fn variant(&self, rule: &str) -> Option<&str> {
        let items = self.wanted.as_deref()?.split(',').take(WANTED_MAX);
        let mut pairs = items.filter_map(|item| item.split_once('='));
        pairs.find_map(|(name, variant)| (name.trim() == rule).then(|| variant.trim()))
    }
}

/// The query has its way over cookies, and they over headers: a link must work whatever was tried before.
fn find<'a>(visit: &Visit<'a>, name: &str) -> Option<Cow<'a, str>> {
    let headers: &'a HeaderMap = visit.headers;
    let query = visit.query.filter(|query| query.contains(name));
    let query = query.and_then(|query| pairs(Some(query)).find(|(found, _)| found == name));
    let cookie = || cookie(headers, name).and_then(|value| std::str::from_utf8(value).ok());
    let header = || headers.get(name).and_then(|value| value.to_str().ok());
    query.map(|(_, value)| value).or_else(|| cookie().or_else(header).map(Cow::Borrowed))
}
