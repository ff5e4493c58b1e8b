//! A log as a JetStream stream: appends that are tried again within their bound, and reads that the
//! stream's leader answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{
    Config, DirectGetErrorKind, DiscardPolicy, Info, RawMessageErrorKind, RetentionPolicy,
    StorageType, Stream,
};
use async_nats::{HeaderMap, Request, RequestErrorKind};
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::connection::{NatsConnection, REQUEST_TIMEOUT};
use super::subscription;
use super::wire::{self, Outcome};
use crate::log::{
    Absent, Append, ChangeLog, Connectivity, Deliveries, Expect, Freshness, Identity, LogError,
    LogFuture, LogOptions, LogState, Position, Record, Retention,
};

/// The pause before an operation is tried again.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// What a record's subject and headers take of the server's largest payload, at most.
const HEADERS_BYTES_MAX: usize = 8 * 1024;
/// Bytes of a payload, at most, however much the server takes: larger ones hold up the others.
const PAYLOAD_BYTES_MAX: usize = 960 * 1024;
/// How a stream is described to whoever looks at the server.
const DESCRIPTION: &str = "Atoll's change log";

/// A log of a NATS connection. Clones share it.
#[derive(Clone)]
pub struct NatsLog(Arc<Log>);

pub(super) struct Log {
    pub(super) connection: NatsConnection,
    pub(super) stream: String,
    /// What all subjects of the log begin with, its last dot included.
    pub(super) prefix: String,
    pub(super) options: LogOptions,
    /// Whether the stream was seen: it is not made a second time, for an empty log in place of a
    /// lost one would empty every replica.
    seen: AtomicBool,
}

/// An append that is tried until it succeeds.
struct Attempts {
    append: Append,
    id: String,
    headers: HeaderMap,
    subject: String,
    /// Whether an attempt may have been written that was not acknowledged.
    ambiguous: AtomicBool,
}

/// What one attempt of an operation came to.
enum Attempt<T> {
    Done(T),
    /// Not done, and it may be tried again.
    Again(String),
    /// Not known whether it was done, and it may be tried again.
    Lost(String),
}

impl NatsLog {
    pub(super) fn new(connection: NatsConnection, name: &str, options: LogOptions) -> Self {
        let prefix = format!("{}.{name}.", connection.prefix());
        let stream = format!("{}_{}", connection.prefix(), name.replace('.', "_"));
        let seen = AtomicBool::new(false);
        Self(Arc::new(Log { connection, stream, prefix, options, seen }))
    }
}

impl Log {
    /// Asks the stream's leader, making the stream where it never was. One attempt.
    pub(super) async fn info(&self) -> Result<Info, LogError> {
        let context = self.connection.context();
        let error = match context.get_stream(&self.stream).await {
            Ok(stream) => {
                self.seen.store(true, Ordering::Relaxed);
                return Ok(stream.cached_info().clone());
            }
            Err(error) => error,
        };
        match error.kind() {
            GetStreamErrorKind::JetStream(cause)
                if cause.error_code().0 == wire::STREAM_NOT_FOUND =>
            {
                let seen = self.seen.load(Ordering::Relaxed);
                match self.options.absent {
                    Absent::Create if !seen => {}
                    Absent::Tell if !seen => {
                        return Err(LogError::Absent(self.stream.as_str().into()));
                    }
                    _ => {
                        let text = format!("the stream {} is gone, restore it", self.stream);
                        return Err(LogError::Unavailable(text.into()));
                    }
                }
                self.create().await
            }
            GetStreamErrorKind::JetStream(cause) if cause.code() != 503 => {
                Err(LogError::Refused(cause.to_string().into()))
            }
            _ => Err(LogError::Unavailable(error.to_string().into())),
        }
    }

    async fn create(&self) -> Result<Info, LogError> {
        let created = self.connection.context().create_stream(self.config()).await;
        match created {
            Ok(stream) => {
                tracing::debug!(stream = self.stream, "made a stream");
                self.seen.store(true, Ordering::Relaxed);
                Ok(stream.cached_info().clone())
            }
            Err(error) => match error.kind() {
                // Another node was faster, or there are too few servers yet: the next attempt sees.
                CreateStreamErrorKind::JetStream(cause) if cause.code() == 400 => {
                    Err(LogError::Refused(cause.to_string().into()))
                }
                _ => Err(LogError::Unavailable(error.to_string().into())),
            },
        }
    }

    fn config(&self) -> Config {
        let per_subject = match self.options.retention {
            Retention::Everything => -1,
            Retention::LastPerSubject => 1,
        };
        Config {
            name: self.stream.clone(),
            description: Some(DESCRIPTION.into()),
            subjects: vec![format!("{}>", self.prefix)],
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            discard: DiscardPolicy::Old,
            max_messages: -1,
            max_bytes: -1,
            max_messages_per_subject: per_subject,
            num_replicas: self.connection.replicas(),
            duplicate_window: self.options.duplicate_window,
            allow_direct: true,
            allow_message_ttl: true,
            deny_delete: true,
            ..Config::default()
        }
    }

    /// Tries an operation until it is done, refused, or out of time.
    async fn within_bound<T, F>(&self, attempt: impl Fn(Instant) -> F) -> Result<T, LogError>
    where
        F: Future<Output = Result<Attempt<T>, LogError>>,
    {
        let deadline = Instant::now() + self.options.append_timeout;
        let mut ambiguous = false;
        let mut reason = None;
        while self.connection.connected_by(deadline).await {
            let until = deadline.min(Instant::now() + REQUEST_TIMEOUT);
            match self.prepared(until).await {
                Err(LogError::Unavailable(why)) => reason = Some(why.to_string()),
                Err(error) => return Err(error),
                Ok(()) => match attempt(until).await? {
                    Attempt::Done(done) => return Ok(done),
                    Attempt::Again(why) => reason = Some(why),
                    Attempt::Lost(why) => (ambiguous, reason) = (true, Some(why)),
                },
            }
            if Instant::now() + RETRY_PAUSE >= deadline {
                break;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        let reason = reason.unwrap_or_else(|| self.connection.unreachable()).into();
        Err(if ambiguous {
            LogError::OutcomeUnknown(reason)
        } else {
            LogError::Unavailable(reason)
        })
    }

    /// Makes sure that the stream was made.
    async fn prepared(&self, until: Instant) -> Result<(), LogError> {
        if self.seen.load(Ordering::Relaxed) {
            return Ok(());
        }
        match timeout_at(until, self.info()).await {
            Ok(info) => info.map(|_| ()),
            Err(_) => Err(LogError::Unavailable("no answer from JetStream".into())),
        }
    }

    async fn append(&self, append: Append) -> Result<u64, LogError> {
        let bytes = append.payload.len();
        if bytes > self.payload_bytes_max() {
            return Err(LogError::TooLarge { bytes });
        }
        let id = append.id.clone().unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
        let headers = wire::headers(&append, &id)?;
        let subject = format!("{}{}", self.prefix, append.subject);
        let attempts = Attempts { append, id, headers, subject, ambiguous: AtomicBool::new(false) };
        self.within_bound(|until| self.attempt(&attempts, until)).await
    }

    async fn attempt(&self, of: &Attempts, until: Instant) -> Result<Attempt<u64>, LogError> {
        match self.publish(of, until).await {
            Err(LogError::Conflict) => self.settle(of).await,
            Ok(Attempt::Lost(why)) => {
                of.ambiguous.store(true, Ordering::Relaxed);
                Ok(Attempt::Lost(why))
            }
            result => result,
        }
    }

    /// Finds out whether a conflict is with this very append, which an earlier attempt wrote: the
    /// server looks at expectations before it looks at ids.
    async fn settle(&self, of: &Attempts) -> Result<Attempt<u64>, LogError> {
        let ambiguous = of.ambiguous.load(Ordering::Relaxed);
        let stream = self.stream().await?;
        let request = match of.append.expect {
            Expect::Any => return Err(LogError::Conflict),
            Expect::LastInLog(last) => stream.raw_message_builder().sequence(last + 1),
            Expect::LastOnSubject(_) => {
                stream.raw_message_builder().last_by_subject(of.subject.clone())
            }
        };
        match request.send().await {
            Ok(found) if wire::id(&found) == Some(&*of.id) => Ok(Attempt::Done(found.sequence)),
            // At a given sequence lies another's record: this one was never written.
            Ok(_) if matches!(of.append.expect, Expect::LastInLog(_)) => Err(LogError::Conflict),
            Ok(_) if !ambiguous => Err(LogError::Conflict),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound && !ambiguous => {
                Err(LogError::Conflict)
            }
            Ok(_) => Ok(Attempt::Lost("an append came between".into())),
            Err(error) => Ok(Attempt::Lost(error.to_string())),
        }
    }

    async fn publish(&self, of: &Attempts, until: Instant) -> Result<Attempt<u64>, LogError> {
        let bytes = of.append.payload.len();
        let request = Request::new()
            .payload(of.append.payload.clone())
            .headers(of.headers.clone())
            .timeout(Some(until.saturating_duration_since(Instant::now())));
        // The outer bound is for a client whose queue to the server is full.
        let sent = self.connection.client().send_request(of.subject.clone(), request);
        let sent = timeout_at(until, sent).await;
        let Ok(sent) = sent else { return Ok(Attempt::Lost("no acknowledgement".into())) };
        match sent {
            Ok(message) => match wire::outcome(&message.payload, bytes) {
                Outcome::Written(sequence) => Ok(Attempt::Done(sequence)),
                Outcome::Refused(error) => Err(error),
                Outcome::TryAgain(why) => Ok(Attempt::Again(why)),
                Outcome::UnderWay => Ok(Attempt::Lost("an attempt is still under way".into())),
                Outcome::Gone => Ok(Attempt::Again(format!("the stream {} is gone", self.stream))),
            },
            Err(error) => match error.kind() {
                RequestErrorKind::NoResponders => Ok(Attempt::Again(format!(
                    "the stream {} has no leader or is gone",
                    self.stream
                ))),
                RequestErrorKind::TimedOut => Ok(Attempt::Lost("no acknowledgement".into())),
                RequestErrorKind::MaxPayloadExceeded => Err(LogError::TooLarge { bytes }),
                RequestErrorKind::InvalidSubject => {
                    Err(LogError::Refused("the subject is malformed".into()))
                }
                RequestErrorKind::Other => Ok(Attempt::Lost(error.to_string())),
            },
        }
    }

    async fn read_once(&self, sequence: u64) -> Result<Attempt<Option<Record>>, LogError> {
        let found = self.stream().await?.get_raw_message(sequence).await;
        self.found(found)
    }

    /// The record at a sequence. One attempt.
    pub(super) async fn record_at(&self, sequence: u64) -> Result<Option<Record>, LogError> {
        match self.read_once(sequence).await? {
            Attempt::Done(record) => Ok(record),
            Attempt::Again(why) | Attempt::Lost(why) => Err(LogError::Unavailable(why.into())),
        }
    }

    /// The first record after a sequence that the leader still holds. One attempt.
    pub(super) async fn next_after(&self, sequence: u64) -> Result<Option<Record>, LogError> {
        let stream = self.stream().await?;
        let request = stream
            .raw_message_builder()
            .sequence(sequence + 1)
            .next_by_subject(format!("{}>", self.prefix));
        match self.found(request.send().await)? {
            Attempt::Done(record) => Ok(record),
            Attempt::Again(why) | Attempt::Lost(why) => Err(LogError::Unavailable(why.into())),
        }
    }

    async fn last_once(
        &self,
        subject: &str,
        freshness: Freshness,
    ) -> Result<Attempt<Option<Record>>, LogError> {
        let subject = format!("{}{subject}", self.prefix);
        let stream = self.stream().await?;
        if freshness == Freshness::Latest {
            let request = stream.raw_message_builder().last_by_subject(subject);
            return self.found(request.send().await);
        }
        match stream.direct_get_last_for_subject(subject).await {
            Ok(message) => Ok(Attempt::Done(Some(wire::record(message, &self.prefix)))),
            Err(error) => match error.kind() {
                DirectGetErrorKind::NotFound => Ok(Attempt::Done(None)),
                _ => Ok(Attempt::Again(error.to_string())),
            },
        }
    }

    fn found(
        &self,
        found: Result<
            async_nats::jetstream::message::StreamMessage,
            async_nats::jetstream::stream::RawMessageError,
        >,
    ) -> Result<Attempt<Option<Record>>, LogError> {
        match found {
            Ok(message) => Ok(Attempt::Done(Some(wire::record(message, &self.prefix)))),
            Err(error) => match error.kind() {
                RawMessageErrorKind::NoMessageFound => Ok(Attempt::Done(None)),
                RawMessageErrorKind::JetStream(cause) if cause.code() == 404 => {
                    Ok(Attempt::Done(None))
                }
                _ => Ok(Attempt::Again(error.to_string())),
            },
        }
    }

    async fn subjects_once(&self, filter: &str) -> Result<Attempt<Vec<String>>, LogError> {
        let filter = format!("{}{filter}", self.prefix);
        let mut pages = match self.stream().await?.info_with_subjects(filter).await {
            Ok(pages) => pages,
            Err(error) => return Ok(Attempt::Again(error.to_string())),
        };
        let mut subjects = Vec::new();
        while let Some(found) = pages.next().await {
            match found {
                Ok((subject, _)) => subjects.push(wire::relative(&subject, &self.prefix)),
                Err(error) => return Ok(Attempt::Again(error.to_string())),
            }
        }
        Ok(Attempt::Done(subjects))
    }

    async fn purge_once(&self, filter: &str, before: u64) -> Result<Attempt<()>, LogError> {
        let filter = format!("{}{filter}", self.prefix);
        let stream = self.stream().await?;
        let purge = stream.purge().filter(filter);
        let purged = match before {
            u64::MAX => purge.await,
            before => purge.sequence(before).await,
        };
        match purged {
            Ok(_) => Ok(Attempt::Done(())),
            Err(error) => Ok(Attempt::Lost(error.to_string())),
        }
    }

    pub(super) async fn stream(&self) -> Result<Stream<()>, LogError> {
        let handle = self.connection.context().get_stream_no_info(&self.stream).await;
        handle.map_err(|error| LogError::Refused(error.to_string().into()))
    }

    fn payload_bytes_max(&self) -> usize {
        let server = self.connection.client().max_payload();
        // A client that was never connected does not know yet.
        if server == 0 { PAYLOAD_BYTES_MAX } else { server.saturating_sub(HEADERS_BYTES_MAX) }
            .min(PAYLOAD_BYTES_MAX)
    }

    /// What a stream's description says of the log.
    pub(super) fn state_of(&self, info: &Info) -> LogState {
        let created = info.created.unix_timestamp_nanos();
        LogState {
            identity: Identity(format!("{}@{created}", self.stream).into()),
            // An unused stream says 0.
            first: info.state.first_sequence.max(1),
            last: info.state.last_sequence,
        }
    }
}

impl ChangeLog for NatsLog {
    fn state(&self) -> LogFuture<LogState> {
        let log = self.0.clone();
        Box::pin(async move {
            let info = log
                .within_bound(|_| async {
                    match log.info().await {
                        Ok(info) => Ok(Attempt::Done(info)),
                        Err(LogError::Unavailable(why)) => Ok(Attempt::Again(why.to_string())),
                        Err(error) => Err(error),
                    }
                })
                .await?;
            Ok(log.state_of(&info))
        })
    }

    fn append(&self, append: Append) -> LogFuture<u64> {
        let log = self.0.clone();
        Box::pin(async move { log.append(append).await })
    }

    fn subscribe(&self, after: Position) -> Deliveries {
        subscription::open(self.0.clone(), after)
    }

    fn purge(&self, filter: String, before: u64) -> LogFuture<()> {
        let log = self.0.clone();
        Box::pin(async move { log.within_bound(|_| log.purge_once(&filter, before)).await })
    }

    fn read(&self, sequence: u64) -> LogFuture<Option<Record>> {
        let log = self.0.clone();
        Box::pin(async move { log.within_bound(|_| log.read_once(sequence)).await })
    }

    fn last_on(&self, subject: String, freshness: Freshness) -> LogFuture<Option<Record>> {
        let log = self.0.clone();
        Box::pin(async move { log.within_bound(|_| log.last_once(&subject, freshness)).await })
    }

    fn subjects(&self, filter: String) -> LogFuture<Vec<String>> {
        let log = self.0.clone();
        Box::pin(async move { log.within_bound(|_| log.subjects_once(&filter)).await })
    }

    fn payload_bytes_max(&self) -> usize {
        self.0.payload_bytes_max()
    }

    fn connectivity(&self) -> watch::Receiver<Connectivity> {
        self.0.connection.connectivity()
    }
}
