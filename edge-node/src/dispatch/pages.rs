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
    /// A chain of fetches came through here too often.
    Loop,
    /// A worker answered with a WebSocket, and the request asks for none as the protocol has it.
    NoHandshake,
    /// There is room again after so long.
    RateLimited(Duration),
    /// No node that may serve it can be reached, and none has begun with it.
    RegionUnavailable,
    /// The node that it was sent to did not answer.
    NodeLost,
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
            Self::RegionUnavailable => Outcome::Overloaded,
            Self::NoRoute
            | Self::BadHost
            | Self::Refused(_)
            | Self::BodyTooLarge
            | Self::Loop
            | Self::NoHandshake
            | Self::NodeLost => Outcome::Internal,
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
        Problem::Loop => text(
            S::LOOP_DETECTED,
            1019,
            "Worker loop",
            "Workers fetch one another in a circle: this request came through this node again and again.",
            "A worker that fetches its own address calls itself. Fetch another address.",
        ),
        Problem::NoHandshake => text(
            S::UPGRADE_REQUIRED,
            426,
            "WebSocket only",
            "The worker answers here with a WebSocket, and the request is no handshake for one (RFC 6455, version 13).",
            "Connect with a WebSocket client. A proxy in between must pass the headers Upgrade and Connection on.",
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
        Problem::Refused(Refusal::HostsDiffer) => text(
            S::BAD_REQUEST,
            1003,
            "Several hosts",
            "The request names more than one host, so it cannot be told where it belongs.",
            "Send one Host header, the same as the address that is asked for.",
        ),
        Problem::Refused(Refusal::BadHost) => text(
            S::BAD_REQUEST,
            1003,
            "No host",
            "The request names no host, or one that is neither a name nor an address.",
            "Send one Host header with a host name, and a port if need be.",
        ),
        Problem::Refused(Refusal::BadTarget) => text(
            S::BAD_REQUEST,
            400,
            "No path",
            "What the request asks for is no path, and no http or https URL.",
            "Ask for a path that begins with a slash.",
        ),
        Problem::Refused(Refusal::BadMethod) => text(
            S::METHOD_NOT_ALLOWED,
            405,
            "Method not allowed",
            "CONNECT, TRACE and TRACK reach no worker: this node is no proxy, and echoes nothing.",
            "Use another method.",
        ),
        Problem::Refused(Refusal::BadCoding) => text(
            S::NOT_IMPLEMENTED,
            501,
            "Transfer coding not supported",
            "The request's body is in a transfer coding other than chunked.",
            "Send the body chunked, or with its length.",
        ),
        Problem::Refused(Refusal::Misdirected) => text(
            S::MISDIRECTED_REQUEST,
            421,
            "Wrong connection",
            "This host asks its clients for certificates in another way than the host that this connection was made for.",
            "Open a connection for this host.",
        ),
        Problem::Refused(Refusal::NoClientCertificate) => text(
            S::FORBIDDEN,
            403,
            "Client certificate needed",
            "This host serves only clients with a certificate, and this connection is not encrypted.",
            "Use https, with a client certificate.",
        ),
        Problem::Refused(Refusal::TooEarly) => text(
            S::TOO_EARLY,
            425,
            "Too early",
            "The request came before the connection was made for sure, and it may change something.",
            "Send it again: browsers do so by themselves.",
        ),
        Problem::BodyTooLarge => text(
            S::PAYLOAD_TOO_LARGE,
            413,
            "Body too large",
            "The request's body is larger than this node accepts.",
            "Send it in parts. The node's limit is limits.request_body_bytes_max.",
        ),
        Problem::RegionUnavailable => text(
            S::SERVICE_UNAVAILABLE,
            1201,
            "Region unavailable",
            "This worker runs in certain regions only, and no node there can serve it now. Nothing was done.",
            "Try again in a moment. If this is your worker: `atoll regions show` and `atoll nodes` tell where it may run and who is there.",
        ),
        Problem::NodeLost => text(
            S::BAD_GATEWAY,
            1202,
            "No answer from where the worker runs",
            "The request was passed on to the node or process that runs the worker, which did not answer. Whether the worker acted upon it is unknown, so it was not sent again.",
            "Look whether it has taken effect before you repeat it.",
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
    if problem == Problem::RegionUnavailable {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(1));
    }
    response.map(AnswerBody::Here)
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, CONTENT_TYPE};

    use super::*;

    const PROBLEMS: &[(Problem, u16, u16)] = &[
        (Problem::NoRoute, 404, 1042),
        (Problem::BadHost, 400, 1003),
        (Problem::Refused(Refusal::UrlTooLong), 414, 414),
        (Problem::Refused(Refusal::HeadersTooLarge), 431, 431),
        (Problem::Refused(Refusal::HostsDiffer), 400, 1003),
        (Problem::Refused(Refusal::Misdirected), 421, 421),
        (Problem::Refused(Refusal::NoClientCertificate), 403, 403),
        (Problem::Refused(Refusal::TooEarly), 425, 425),
        (Problem::BodyTooLarge, 413, 413),
        (Problem::Loop, 508, 1019),
        (Problem::RateLimited(Duration::from_millis(1_500)), 429, 1015),
        (Problem::RegionUnavailable, 503, 1201),
        (Problem::NodeLost, 502, 1202),
        (Problem::NotStarted, 500, 1101),
        (Problem::Quarantined, 503, 1102),
        (Problem::Ended(Outcome::Exception), 500, 1101),
        (Problem::Ended(Outcome::ExceededCpu), 503, 1102),
        (Problem::Ended(Outcome::ExceededMemory), 503, 1102),
        (Problem::Ended(Outcome::ExceededWall), 504, 1102),
        (Problem::Ended(Outcome::Canceled), 400, 499),
        (Problem::Ended(Outcome::Overloaded), 503, 1200),
        (Problem::Ended(Outcome::RateLimited), 429, 1015),
        (Problem::Ended(Outcome::Internal), 500, 500),
    ];

    /// A page's status, content type and text for a client that accepts this.
    fn rendered(problem: Problem, accept: &'static str, id: &str) -> (u16, String, String) {
        let headers = [(ACCEPT, HeaderValue::from_static(accept))].into_iter().collect();
        let response = page(problem, &headers, id);
        let status = response.status().as_u16();
        let kind = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
        let AnswerBody::Here(ResponseBody::Full(Some(bytes))) = response.into_body() else {
            panic!("a page is whole");
        };
        (status, kind, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn every_page_has_its_code_and_title_in_every_form() {
        for (problem, status, code) in PROBLEMS {
            let Text { title, message, advice, .. } = words(*problem);
            let (got, kind, text) = rendered(*problem, "text/plain", "ray-id");
            assert_eq!((got, kind.starts_with("text/plain")), (*status, true), "{problem:?}");
            for part in [&code.to_string(), title, message, advice, "ray-id"] {
                assert!(text.contains(part), "{problem:?}: {part:?} is missing in {text}");
            }
            let (got, kind, json) = rendered(*problem, "application/json", "ray-id");
            assert_eq!((got, kind.starts_with("application/json")), (*status, true), "{problem:?}");
            let json: serde_json::Value = serde_json::from_str(&json).unwrap();
            let json = json.to_string();
            for part in [&code.to_string(), title, "ray-id"] {
                assert!(json.contains(part), "{problem:?}: {part:?} is missing in {json}");
            }
            let (got, kind, html) = rendered(*problem, "text/html", "<script>&");
            assert_eq!((got, kind.starts_with("text/html")), (*status, true), "{problem:?}");
            assert!(
                html.contains(&code.to_string()) && html.contains(title),
                "{problem:?}: {html}"
            );
            assert!(!html.contains("<script>&"), "{problem:?}: the id is not escaped in {html}");
        }
    }

    #[test]
    fn who_is_rate_limited_is_told_for_how_long() {
        let check = |wait_ms, expected: &str| {
            let problem = Problem::RateLimited(Duration::from_millis(wait_ms));
            let response = page(problem, &HeaderMap::new(), "id");
            assert_eq!(response.headers()[RETRY_AFTER], expected, "{wait_ms}");
        };
        check(0, "1");
        check(1_000, "1");
        check(1_001, "2");
    }
}
