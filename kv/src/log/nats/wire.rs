//! Records as NATS carries them, and what its answers mean.

use std::time::Duration;

use async_nats::header::{
    HeaderMap, HeaderName, HeaderValue, NATS_EXPECTED_LAST_SEQUENCE,
    NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID, NATS_MESSAGE_TTL,
};
use async_nats::jetstream::message::StreamMessage;
use serde::Deserialize;

use crate::log::{Append, Expect, Headers, LogError, Record};

/// What the names of NATS's own headers begin with.
const OWN_HEADERS: &str = "Nats-";
/// A write that came before is still under way under the same id.
const DUPLICATE_UNDER_WAY: u64 = 10_158;
const WRONG_LAST_SEQUENCE: [u64; 2] = [10_071, 10_164];
const MESSAGE_TOO_LARGE: u64 = 10_054;
pub(super) const STREAM_NOT_FOUND: u64 = 10_059;
const SERVER_UNAVAILABLE: u16 = 503;

/// JetStream's answer to a publish.
#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default, rename = "seq")]
    sequence: u64,
    error: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    code: u16,
    #[serde(default, rename = "err_code")]
    number: u64,
    #[serde(default)]
    description: String,
}

/// What an answer to a publish means.
pub(super) enum Outcome {
    Written(u64),
    Refused(LogError),
    /// Not written by this attempt, which may be made again.
    TryAgain(String),
    /// An earlier attempt is still under way.
    UnderWay,
    /// The stream is not there.
    Gone,
}

/// The headers of an append, its id being `id`.
pub(super) fn headers(append: &Append, id: &str) -> Result<HeaderMap, LogError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &append.headers {
        let parsed = name.parse::<HeaderName>().ok().zip(value.parse::<HeaderValue>().ok());
        let Some((name, value)) = parsed.filter(|_| !name.starts_with(OWN_HEADERS)) else {
            return Err(LogError::Refused(format!("{name:?} is no header").into()));
        };
        headers.insert(name, value);
    }
    headers.insert(NATS_MESSAGE_ID, id);
    match append.expect {
        Expect::Any => {}
        Expect::LastInLog(sequence) => {
            headers.insert(NATS_EXPECTED_LAST_SEQUENCE, sequence.to_string());
        }
        Expect::LastOnSubject(sequence) => {
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, sequence.to_string());
        }
    }
    if let Some(ttl) = append.ttl {
        headers.insert(NATS_MESSAGE_TTL, format!("{}s", whole_seconds(ttl)));
    }
    Ok(headers)
}

/// Reads JetStream's answer to a publish.
pub(super) fn outcome(payload: &[u8], bytes: usize) -> Outcome {
    let answer: Answer = match serde_json::from_slice(payload) {
        Ok(answer) => answer,
        Err(error) => {
            let text = format!("unreadable answer: {error}");
            return Outcome::Refused(LogError::Failed(text.into()));
        }
    };
    let Some(refusal) = answer.error else { return Outcome::Written(answer.sequence) };
    match refusal.number {
        DUPLICATE_UNDER_WAY => Outcome::UnderWay,
        number if WRONG_LAST_SEQUENCE.contains(&number) => Outcome::Refused(LogError::Conflict),
        MESSAGE_TOO_LARGE => Outcome::Refused(LogError::TooLarge { bytes }),
        STREAM_NOT_FOUND => Outcome::Gone,
        _ if refusal.code == SERVER_UNAVAILABLE => Outcome::TryAgain(refusal.description),
        _ => Outcome::Refused(LogError::Refused(refusal.description.into())),
    }
}

/// A stored message as a record of the log whose subjects begin with `prefix`.
pub(super) fn record(message: StreamMessage, prefix: &str) -> Record {
    let nanos = message.time.unix_timestamp_nanos();
    Record {
        sequence: message.sequence,
        subject: relative(message.subject.as_str(), prefix),
        headers: own(&message.headers),
        payload: message.payload,
        time_ms: millis(nanos),
    }
}

/// The id with which a stored message was appended.
pub(super) fn id(message: &StreamMessage) -> Option<&str> {
    message.headers.get(NATS_MESSAGE_ID).map(HeaderValue::as_str)
}

/// A subject without the log's prefix.
pub(super) fn relative(subject: &str, prefix: &str) -> String {
    subject.strip_prefix(prefix).unwrap_or(subject).to_owned()
}

/// The headers that whoever appended gave.
pub(super) fn own(headers: &HeaderMap) -> Headers {
    let mut own: Headers = headers
        .iter()
        .filter(|(name, _)| !AsRef::<str>::as_ref(*name).starts_with(OWN_HEADERS))
        .filter_map(|(name, values)| Some((name.to_string(), values.last()?.to_string())))
        .collect();
    own.sort_unstable();
    own
}

/// Nanoseconds since the epoch as whole milliseconds.
pub(super) fn millis(nanos: i128) -> u64 {
    u64::try_from(nanos / 1_000_000).unwrap_or(0)
}

/// NATS counts a record's life in seconds, one at least.
fn whole_seconds(ttl: Duration) -> u64 {
    ttl.as_secs().max(1)
}
