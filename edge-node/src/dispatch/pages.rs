//! The one place where failures become statuses and pages: the guest's fault, a limit, or ours.

use std::time::Duration;

use atoll_isolate::{Outcome, ResponseBody};
use atoll_router::{ErrorPage, Refusal};
use http::header::{HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};

use super::body::AnswerBody;

/// Why a request got no response from a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    NoRoute,
    BadHost,
    Refused(Refusal),
    BodyTooLarge,
    /// There is room again after so long.
    RateLimited(Duration),
    NotStarted,
    Quarantined,
    Ended(Outcome),
}

impl Problem {
    /// How an invocation ended that came to this.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Ended(outcome) => outcome,
            Self::RateLimited(_) => Outcome::RateLimited,
            Self::Quarantined => Outcome::Overloaded,
            Self::NotStarted => Outcome::Exception,
            Self::NoRoute | Self::BadHost | Self::Refused(_) | Self::BodyTooLarge => {
                Outcome::Internal
            }
        }
    }
}

struct Text {
    status: StatusCode,
    code: u16,
    title: &'static str,
    message: &'static str,
    advice: &'static str,
}

const OWNER: &str =
    "If this is your worker, look at its log: `atoll tail`, or search the node's log for the id.";
const LATER: &str = "Try again in a moment.";

const fn text(
    status: StatusCode,
    code: u16,
    title: &'static str,
    message: &'static str,
    advice: &'static str,
) -> Text {
    Text { status, code, title, message, advice }
}

fn words(problem: Problem) -> Text {
    use StatusCode as S;
    match problem {
        Problem::NoRoute => text(
            S::NOT_FOUND,
            1042,
            "No worker here",
            "No route leads from this address to a worker.",
            "Check the host name and the path. `atoll deploy` prints a worker's addresses.",
        ),
        Problem::BadHost => text(
            S::BAD_REQUEST,
            1003,
            "No host",
            "The request names no host, so there is nothing to route it by.",
            "Send a Host header.",
        ),
        Problem::Refused(Refusal::UrlTooLong) => text(
            S::URI_TOO_LONG,
            414,
            "URL too long",
            "The URL is longer than this node accepts.",
            "Send what does not fit in the request's body.",
        ),
        Problem::Refused(Refusal::HeadersTooLarge) => text(
            S::REQUEST_HEADER_FIELDS_TOO_LARGE,
            431,
            "Headers too large",
            "The request has more headers, or larger ones, than this node accepts.",
            "Clear this site's cookies, or send fewer headers.",
        ),
        Problem::BodyTooLarge => text(
            S::PAYLOAD_TOO_LARGE,
            413,
            "Body too large",
            "The request's body is larger than this node accepts.",
            "Send it in parts. The node's limit is limits.request_body_bytes_max.",
        ),
        Problem::Ended(Outcome::Overloaded) => text(
            S::SERVICE_UNAVAILABLE,
            1200,
            "Too busy",
            "This worker has more requests under way or waiting than it may, or the node has no memory left for it.",
            LATER,
        ),
        Problem::RateLimited(_) | Problem::Ended(Outcome::RateLimited) => text(
            S::TOO_MANY_REQUESTS,
            1015,
            "You are being rate limited",
            "This worker gets more requests in a second than it may.",
            LATER,
        ),
        Problem::NotStarted => text(
            S::INTERNAL_SERVER_ERROR,
            1101,
            "Worker did not start",
            "The worker's script threw or went over a limit while it started.",
            OWNER,
        ),
        Problem::Quarantined => text(
            S::SERVICE_UNAVAILABLE,
            1102,
            "Worker rests",
            "The worker ended the process that ran it, so this node lets it rest for a while.",
            OWNER,
        ),
        Problem::Ended(Outcome::ExceededCpu) => text(
            S::SERVICE_UNAVAILABLE,
            1102,
            "Worker exceeded its CPU limit",
            "The worker used more CPU time for this request than it may.",
            OWNER,
        ),
        Problem::Ended(Outcome::ExceededMemory) => text(
            S::SERVICE_UNAVAILABLE,
            1102,
            "Worker exceeded its memory limit",
            "The worker used more memory than it may.",
            OWNER,
        ),
        Problem::Ended(Outcome::ExceededWall) => text(
            S::GATEWAY_TIMEOUT,
            1102,
            "Worker gave no response",
            "The worker's promise did not settle in time, or never can.",
            OWNER,
        ),
        Problem::Ended(Outcome::Canceled) => text(
            S::BAD_REQUEST,
            499,
            "Canceled",
            "The request ended before the worker had answered.",
            LATER,
        ),
        Problem::Ended(Outcome::Exception) => text(
            S::INTERNAL_SERVER_ERROR,
            1101,
            "Worker threw an exception",
            "The worker failed while it handled this request.",
            OWNER,
        ),
        Problem::Ended(Outcome::Ok | Outcome::Internal) => text(
            S::INTERNAL_SERVER_ERROR,
            500,
            "The node failed",
            "Something went wrong in the node itself.",
            "The operator finds the reason in the node's log under the id.",
        ),
    }
}

/// The status of the page that an outcome without a response leads to.
pub(super) fn status_of(outcome: Outcome) -> Option<u16> {
    (outcome != Outcome::Ok).then(|| words(Problem::Ended(outcome)).status.as_u16())
}

/// Renders a problem for a client that sent these headers.
pub(super) fn page(problem: Problem, request: &HeaderMap, id: &str) -> Response<AnswerBody> {
    let Text { status, code, title, message, advice } = words(problem);
    let page = ErrorPage { status, code, title, message, advice, id };
    let mut response = page.respond(request).map(|bytes| ResponseBody::Full(Some(bytes)));
    if let Problem::RateLimited(wait) = problem {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    response.map(AnswerBody::Here)
}
