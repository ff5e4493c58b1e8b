//! One request over HTTP/3 and its response.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, select};
use h3::error::Code;
use h3::server::{RequestResolver, RequestStream};
use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::Server;
use super::body::Http3Body;
use super::connection::Client;
use super::transport::{NewStreams, SendStream, Transport};
use crate::connection::{Activity, InFlight};
use crate::gate::Refusal;
use crate::request_body::RequestBody;
use crate::serve::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Tells the service that the request may have been sent by someone who has only seen it (RFC 8470).
const EARLY_DATA: HeaderName = HeaderName::from_static("early-data");

/// Headers of a connection, which HTTP/3 does not have (RFC 9114 section 4.2).
const OF_CONNECTIONS: [HeaderName; 5] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Serves one request. An error is the client's, and nobody waits for an answer any more.
pub(super) async fn exchange<S: Service>(
    resolver: RequestResolver<Transport, Bytes>,
    streams: &NewStreams,
    stream_bytes_max: usize,
    client: &Client,
    server: &Server<S>,
    activity: &Arc<Activity>,
) -> Result<(), BoxError> {
    let in_flight = InFlight::begin(activity);
    let resolving = timeout(server.options.header_read_timeout, resolver.resolve_request());
    let (request, stream) = resolving.await.map_err(|_| "the client sent no head in time")??;
    let facts = streams.take(stream.id()).ok_or("the stream is not known")?;
    let (mut send, receive) = stream.split();
    if is_malformed(request.headers()) {
        send.stop_stream(Code::H3_MESSAGE_ERROR);
        return Err("the request has headers that http/3 does not know".into());
    }
    let mut body = Http3Body::new(receive, request.headers(), facts.allowance, stream_bytes_max);
    let looked = std::future::poll_fn(|cx| std::task::Poll::Ready(body.look_ahead(cx))).await;
    looked.inspect_err(|_| send.stop_stream(Code::H3_MESSAGE_ERROR))?;
    let mut request = request.map(|()| RequestBody::Http3(Box::new(body)));
    let is_head = request.method() == Method::HEAD;
    let refusal = early_refusal(&mut request, facts.early);
    let connection = client.seen();
    let answering = match refusal.or_else(|| server.gate.refusal(&request, &connection)) {
        None => {
            let connection = server.gate.prepare(&mut request, &connection);
            Either::Left(server.service.call(request, &connection))
        }
        Some(refusal) => {
            let response = server.service.refuse(&request, refusal, &connection);
            Either::Right(std::future::ready(response))
        }
    };
    let mut abandoned = facts.abandoned;
    let answering = std::pin::pin!(answering);
    let response = match select(answering, &mut abandoned).await {
        Either::Left((response, _)) => response,
        Either::Right(_) => return Err("the client wants no response".into()),
    };
    let sent = respond(response, &mut send, is_head, abandoned, server).await;
    drop(in_flight);
    sent
}

/// A request that may be a copy of another is served only if that changes nothing.
fn early_refusal(request: &mut Request<RequestBody>, early: bool) -> Option<Refusal> {
    if !early {
        return None;
    }
    if !request.method().is_safe() {
        return Some(Refusal::TooEarly);
    }
    request.headers_mut().insert(EARLY_DATA, HeaderValue::from_static("1"));
    None
}

fn is_malformed(headers: &HeaderMap) -> bool {
    let te = headers.get(TE).is_some_and(|te| te.as_bytes() != b"trailers");
    te || OF_CONNECTIONS.iter().any(|name| headers.contains_key(name))
}

type Sending = RequestStream<SendStream, Bytes>;

async fn respond<S: Service>(
    response: Response<S::Body>,
    send: &mut Sending,
    is_head: bool,
    mut abandoned: BoxFuture<'static, ()>,
    server: &Server<S>,
) -> Result<(), BoxError> {
    let stall = server.options.write_stall_timeout;
    let (head, mut body) = response.into_parts();
    let mut head = Response::from_parts(head, ());
    let size = body.size_hint().exact();
    complete(&mut head, size);
    server.gate.finish(&mut head);
    timeout(stall, send.send_response(head)).await.map_err(|_| STALLED)??;
    while !is_head && !body.is_end_stream() {
        let frame = {
            let next = std::pin::pin!(body.frame());
            match select(next, &mut abandoned).await {
                Either::Left((frame, _)) => frame,
                Either::Right(_) => return Err("the client wants no more of the response".into()),
            }
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| {
            send.stop_stream(Code::H3_INTERNAL_ERROR);
            error.into()
        })?;
        match frame.into_data() {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => timeout(stall, send.send_data(bytes)).await.map_err(|_| STALLED)??,
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    timeout(stall, send.send_trailers(trailers)).await.map_err(|_| STALLED)??;
                }
            }
        }
    }
    send.finish().await?;
    // A connection that closes sends nothing more: the request is over when the client has it all.
    timeout(stall, abandoned).await.map_err(|_| STALLED)?;
    Ok(())
}

const STALLED: &str = "the client takes nothing of the response";

/// Adds what every response has, and removes what none has over HTTP/3.
fn complete(head: &mut Response<()>, size: Option<u64>) {
    let status = head.status();
    let headers = head.headers_mut();
    for name in &OF_CONNECTIONS {
        headers.remove(name);
    }
    let has_body = !status.is_informational()
        && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if let Some(size) = size.filter(|_| has_body) {
        headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(size));
    }
    headers.entry(DATE).or_insert_with(date);
}

thread_local! {
    /// The second that the text is of, and the text.
    static NOW: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// The time as a response has it, written once a second.
fn date() -> HeaderValue {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    NOW.with_borrow_mut(|(last, text)| {
        if *last != second {
            *last = second;
            *text = HeaderValue::from_str(&httpdate::fmt_http_date(now))
                .expect("a date has no character that a header value may not have");
        }
        text.clone()
    })
}
