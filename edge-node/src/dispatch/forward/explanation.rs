//! What a client is told of where its request was served, if it asks and may know.

use std::fmt::Write as _;
use std::sync::Arc;

use futures_util::future::Either;
use http::Response;
use http::header::{HeaderName, HeaderValue};

use super::super::body::AnswerBody;
use super::super::service::{Answering, now};
use super::neighbours::{Chosen, Neighbourhood};
use crate::observe::ForwardOutcome;
use atoll_router::regions::RegionPolicy;

/// By which a client asks, with the value 1: the same as for rules.
pub(in super::super) const EXPLAIN_REQUEST: &str = atoll_router::rules::EXPLAIN;

/// In which it is told.
const DECISION: HeaderName = HeaderName::from_static("atoll-decision");

/// Whether a client is told where its request was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Explain {
    Yes,
    No,
}

impl Explain {
    /// The response, with what `told` says if the client wants to know.
    pub(super) fn told(self, answering: Answering, told: impl FnOnce() -> String) -> Answering {
        if self == Self::No {
            return answering;
        }
        let told = told();
        match answering {
            Either::Left(response) => now(self.tell(response.into_inner(), told)),
            Either::Right(response) => {
                Either::Right(Box::pin(async move { self.tell(response.await, told) }))
            }
        }
    }

    pub(super) fn tell(
        self,
        mut response: Response<AnswerBody>,
        told: String,
    ) -> Response<AnswerBody> {
        if self == Self::Yes
            && let Ok(told) = HeaderValue::from_str(&told)
        {
            response.headers_mut().insert(DECISION, told);
        }
        response
    }
}

/// What became of a request so far.
pub(super) struct Account {
    policy: String,
    node: String,
    region: String,
    tried: Vec<Tried>,
}

struct Tried {
    node: Arc<str>,
    region: String,
    outcome: ForwardOutcome,
}

impl Account {
    pub(super) fn new(policy: &RegionPolicy, known: &Neighbourhood) -> Self {
        let (node, region) = (known.name.clone(), known.region.clone());
        Self { policy: policy.to_string(), node, region, tried: Vec::new() }
    }

    /// Notes an attempt.
    pub(super) fn tried(&mut self, chosen: &Chosen, outcome: ForwardOutcome) {
        let (node, region) = (chosen.node.name.clone(), chosen.region.clone());
        self.tried.push(Tried { node, region, outcome });
    }

    pub(super) fn attempts(&self) -> usize {
        self.tried.len()
    }

    pub(super) fn has_tried(&self, node: &str) -> bool {
        self.tried.iter().any(|tried| *tried.node == *node)
    }

    /// For a request that this node served.
    pub(super) fn here(&self) -> String {
        self.text(Some((&self.node, &self.region)), 0)
    }

    /// For one that the node of the last attempt served.
    pub(super) fn there(&self) -> String {
        self.text(self.tried.last().map(|last| (&*last.node, &*last.region)), 1)
    }

    /// For one that nobody answered.
    pub(super) fn nowhere(&self) -> String {
        self.text(None, 0)
    }

    /// A dictionary (RFC 9651). Names and policies have no character that would need more than quotes.
    fn text(&self, served: Option<(&str, &str)>, hops: u8) -> String {
        let Self { policy, node, region, tried } = self;
        let mut text = format!("policy=\"{policy}\", received=\"{node}\";region=\"{region}\"");
        if let Some((node, region)) = served {
            let _ = write!(text, ", served=\"{node}\";region=\"{region}\"");
        }
        let _ = write!(text, ", hops={hops}, attempts={}", tried.len());
        let failed = tried.iter().filter(|tried| tried.outcome != ForwardOutcome::Answered);
        let failed: Vec<String> =
            failed.map(|t| format!("\"{}\";outcome={}", t.node, t.outcome.as_str())).collect();
        if !failed.is_empty() {
            let _ = write!(text, ", failed=({})", failed.join(" "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_who_served_and_who_failed() {
        let policy = RegionPolicy { pin: Some("eu".into()), ..RegionPolicy::default() };
        let known =
            Neighbourhood { name: "u1".into(), region: "us".into(), ..Neighbourhood::default() };
        let mut account = Account::new(&policy, &known);
        let begin = "policy=\"pin eu\", received=\"u1\";region=\"us\"";
        assert_eq!(account.nowhere(), format!("{begin}, hops=0, attempts=0"));
        let here = format!("{begin}, served=\"u1\";region=\"us\", hops=0, attempts=0");
        assert_eq!(account.here(), here);
        for (node, outcome) in
            [("e1", ForwardOutcome::Unreachable), ("e2", ForwardOutcome::Answered)]
        {
            account.tried.push(Tried { node: node.into(), region: "eu".into(), outcome });
        }
        let there = format!(
            "{begin}, served=\"e2\";region=\"eu\", hops=1, attempts=2, failed=(\"e1\";outcome=unreachable)"
        );
        assert_eq!(account.there(), there);
    }
}
