//! How deep in a chain of calls an invocation is, so that a worker that calls itself comes to an end. Chains
//! of fetches are counted in the header CDN-Loop (RFC 8586), which only nodes write.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

/// How long a chain of service bindings may be.
pub(super) const SERVICES_MAX: u8 = 16;

/// How often one chain of fetches may come through nodes.
pub(super) const FETCHES_MAX: u8 = 8;

const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// What nodes are called in the header.
const ID: &str = "atoll";

/// How many calls led to an invocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Depth {
    /// By service bindings.
    pub(super) services: u8,
    /// By fetches that came back to a node.
    pub(super) fetches: u8,
}

impl Depth {
    /// What a client's request says.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let entries = headers.get_all(CDN_LOOP).iter().filter_map(|value| value.to_str().ok());
        let passes = entries.flat_map(|value| value.split(',')).filter_map(passes);
        Self { services: 0, fetches: passes.fold(0, u8::saturating_add) }
    }

    /// Whether there is a loop of fetches.
    pub(super) fn is_loop(self) -> bool {
        self.fetches > FETCHES_MAX
    }

    /// Says in an outgoing request how deep the chain is. What other networks wrote there stays.
    pub(super) fn stamp(self, headers: &mut HeaderMap) {
        let others = |value: &HeaderValue| {
            let entries = value.to_str().ok()?.split(',').map(str::trim);
            let others: Vec<&str> =
                entries.filter(|entry| !entry.is_empty() && passes(entry).is_none()).collect();
            (!others.is_empty()).then(|| others.join(", "))
        };
        let mut entries: Vec<String> =
            headers.get_all(CDN_LOOP).iter().filter_map(others).collect();
        entries.push(format!("{ID}; n={}", self.fetches.saturating_add(1)));
        let value = HeaderValue::from_str(&entries.join(", "));
        headers.insert(CDN_LOOP, value.expect("it is made of header text"));
    }
}

/// Says in a request that no invocation sends that a node does.
pub(crate) fn stamp_as_node(headers: &mut HeaderMap) {
    Depth::default().stamp(headers);
}

/// How often the chain came through nodes, if an entry of the header is theirs.
fn passes(entry: &str) -> Option<u8> {
    let mut parts = entry.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(ID) {
        return None;
    }
    let count = parts.find_map(|part| part.strip_prefix("n="));
    // An entry that does not say is one pass; one that cannot be read is a forgery.
    Some(count.map_or(1, |count| count.parse().unwrap_or(u8::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let pair = |value: &&str| (CDN_LOOP, HeaderValue::from_str(value).unwrap());
        values.iter().map(pair).collect()
    }

    #[test]
    fn passes_through_nodes_are_counted() {
        let check = |values: &[&str], fetches, is_loop| {
            let depth = Depth::of(&headers(values));
            assert_eq!((depth.fetches, depth.is_loop()), (fetches, is_loop), "{values:?}");
        };
        check(&[], 0, false);
        check(&["cloudflare; loops=4, fastly"], 0, false);
        check(&["atoll"], 1, false);
        check(&["atoll; n=8"], 8, false);
        check(&["cloudflare, Atoll;n=9"], 9, true);
        check(&["atoll; n=5, atoll; n=2", "atoll"], 8, false);
        check(&["atoll; n=200, atoll; n=200"], 255, true);
        check(&["atoll; n=many"], 255, true);
        check(&["atolls; n=9"], 0, false);
    }

    #[test]
    fn outgoing_requests_say_one_more_whatever_a_worker_wrote() {
        let check = |values: &[&str], fetches, expected: &str| {
            let mut headers = headers(values);
            Depth { services: 3, fetches }.stamp(&mut headers);
            let said: Vec<&HeaderValue> = headers.get_all(CDN_LOOP).iter().collect();
            assert_eq!(said, [expected], "{values:?}");
        };
        check(&[], 0, "atoll; n=1");
        check(&["atoll; n=0"], 7, "atoll; n=8");
        check(
            &["fastly, atoll; n=0", "", "cloudflare; a=1"],
            1,
            "fastly, cloudflare; a=1, atoll; n=2",
        );
        check(&[], u8::MAX, "atoll; n=255");
    }
}
