//! The seam between those who share an ordered log and the engines that keep it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::sync::watch;

use super::error::LogError;

/// What every operation of a log returns: it borrows nothing and can be awaited anywhere.
pub type LogFuture<T> = BoxFuture<'static, Result<T, LogError>>;

/// What a subscription yields. It ends after `Lost`, and when the log is closed.
pub type Deliveries = BoxStream<'static, Delivery>;

/// Names and values beside a payload. Names are ASCII letters, digits and `-`, and do not begin
/// with `Nats-`; values are text without line breaks.
pub type Headers = Vec<(String, String)>;

/// One ordered log of records, shared by all that open it by the same name.
///
/// Appends are durable when acknowledged and get sequences that grow; a sequence is never used
/// twice while the log's identity stays. Every wait has a bound: an operation on an engine that
/// cannot be reached fails within `LogOptions::append_timeout`.
pub trait ChangeLog: Send + Sync + 'static {
    /// Who the log is and what it holds.
    fn state(&self) -> LogFuture<LogState>;

    /// Adds a record and returns its sequence. An append whose `id` the log saw within
    /// `LogOptions::duplicate_window` writes nothing and returns the first one's sequence; one that
    /// expects something, only while the first one's record is there and newest where it looks.
    ///
    /// # Errors
    /// `Conflict` if the expectation does not hold, `Unavailable` if it is sure that nothing was
    /// written, `OutcomeUnknown` if it is not, `TooLarge`, `Refused` or `Closed`.
    fn append(&self, append: Append) -> LogFuture<u64>;

    /// Delivers what the log holds after `after` in the order of sequences, then what is appended.
    ///
    /// It outlives reconnects: nothing is delivered twice or out of order, and nothing that the log
    /// still holds is left out. Where that cannot be kept the last delivery says so. Whoever does
    /// not take deliveries holds back the log's, not others'.
    fn subscribe(&self, after: Position) -> Deliveries;

    /// Removes all records whose subject matches and whose sequence is below `before`. In the
    /// filter, `*` stands for one token and a last `>` for one or more.
    fn purge(&self, filter: String, before: u64) -> LogFuture<()>;

    /// The record at a sequence, if the log still holds it.
    fn read(&self, sequence: u64) -> LogFuture<Option<Record>>;

    /// The newest record on a subject, if the log holds one.
    fn last_on(&self, subject: String, freshness: Freshness) -> LogFuture<Option<Record>>;

    /// The subjects that match a filter and hold a record, in no particular order. For upkeep: it can
    /// be a long list.
    fn subjects(&self, filter: String) -> LogFuture<Vec<String>>;

    /// The largest payload that an append may carry beside some hundred bytes of headers.
    fn payload_bytes_max(&self) -> usize;

    /// Whether the engine can be reached, as far as this process knows.
    fn connectivity(&self) -> watch::Receiver<Connectivity>;
}

/// What keeps logs, opened by name.
pub trait LogEngine: Send + Sync + 'static {
    /// A handle on the log `name`, which is made when it is first used. The name is one to sixty
    /// letters, digits, `-` and `.`.
    fn log(&self, name: &str, options: LogOptions) -> Arc<dyn ChangeLog>;
}

/// What a log keeps, and how long its operations may take. All who open one log agree on it.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Which records stay.
    pub retention: Retention,
    /// What to do where the engine has no such log.
    pub absent: Absent,
    /// How long an append or a read may take, retries included.
    pub append_timeout: Duration,
    /// How long the log remembers ids of appends. Far above `append_timeout`.
    pub duplicate_window: Duration,
    /// How often a subscription asks the log's leader whether it has everything.
    pub check_interval: Duration,
}

/// What to do where the engine has no log of the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// Make one. A log that this handle has seen is not made a second time.
    Create,
    /// Wait for somebody to bring it back: an empty one in its place would empty every replica.
    Wait,
    /// Fail with `Absent`: whoever asks decides. A log that this handle has seen is waited for.
    Tell,
}

/// Which records a log keeps, beside those whose time to live has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// Every record.
    Everything,
    /// The newest record of each subject.
    LastPerSubject,
}

/// A record to add.
#[derive(Debug, Clone)]
pub struct Append {
    /// Where: tokens of letters, digits, `-`, `_` and `=`, parted by `.`.
    pub subject: String,
    /// What.
    pub payload: Bytes,
    /// What beside it.
    pub headers: Headers,
    /// How long the log keeps the record, at least; whole seconds, one at least. None is for ever.
    pub ttl: Option<Duration>,
    /// What must hold for it to be added.
    pub expect: Expect,
    /// What makes a retry the same append. One is made up where none is given, which covers the
    /// log's own retries.
    pub id: Option<String>,
}

/// The condition of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// None.
    Any,
    /// The log's last sequence is this one; 0 if nothing was ever appended.
    LastInLog(u64),
    /// The newest record on the append's subject has this sequence; 0 if there is none.
    LastOnSubject(u64),
}

/// A record that the log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the log, from 1.
    pub sequence: u64,
    /// Where it was appended.
    pub subject: String,
    /// What beside the payload, in the order of names.
    pub headers: Headers,
    /// What.
    pub payload: Bytes,
    /// When the log took it, in milliseconds since the Unix epoch by the engine's clock.
    pub time_ms: u64,
}

/// What tells one log from another that took its name, such as one made anew after a loss.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity(pub Arc<str>);

/// What a log is and holds at one moment, by the word of its leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogState {
    /// Who it is.
    pub identity: Identity,
    /// The sequence of the oldest record that is still there; `last + 1` if none is.
    pub first: u64,
    /// The sequence of the last append; 0 before the first.
    pub last: u64,
}

/// Where in which log a subscription begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    /// The log that is meant; none takes any.
    pub identity: Option<Identity>,
    /// The sequence after which to begin; 0 begins with the oldest record.
    pub sequence: u64,
}

/// What a subscription tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The next record.
    Record(Record),
    /// Everything up to `last` was delivered, and `last` was the log's last sequence at the moment
    /// `asked`, by the word of its leader. Told again and again while that is so.
    CaughtUp {
        /// The log's last sequence, or a later one that was delivered.
        last: u64,
        /// When the leader was asked.
        asked: Instant,
    },
    /// The connection was lost and is back; nothing was missed.
    Resumed,
    /// The subscription has ended because it cannot go on from where it was.
    Lost(Lost),
}

/// Why a subscription cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lost {
    /// The name now belongs to another log.
    IdentityChanged(Identity),
    /// The log ends before the position: it lost its tail.
    RolledBack {
        /// Where it ends.
        last: u64,
    },
    /// At the position now lies another record: the log lost its tail and grew again.
    Rewritten {
        /// The position.
        at: u64,
    },
    /// Records after this sequence may have been left out.
    Gap {
        /// The last sequence that is sure.
        after: u64,
    },
    /// The log was closed, or the engine refuses to serve it.
    Closed(String),
}

/// Which copy of the log may answer a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// The leader's, which knows every acknowledged append.
    Latest,
    /// Any, which may lack the newest appends.
    Any,
}

/// Whether an engine can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connectivity {
    /// It can.
    Connected,
    /// It cannot, since this moment.
    Disconnected {
        /// When it was lost, or when this process began to look for it.
        since: Instant,
    },
}

impl Append {
    /// An append of a payload without headers, conditions or an end.
    pub fn new(subject: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            subject: subject.into(),
            payload: payload.into(),
            headers: Headers::new(),
            ttl: None,
            expect: Expect::Any,
            id: None,
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Sets the condition.
    #[must_use]
    pub fn expect(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    /// Sets the time to live.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets the id of retries.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }
}

impl Record {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            retention: Retention::Everything,
            absent: Absent::Create,
            append_timeout: Duration::from_secs(5),
            duplicate_window: Duration::from_secs(60),
            check_interval: Duration::from_secs(5),
        }
    }
}

impl Position {
    /// The beginning of whatever log has the name.
    pub fn start() -> Self {
        Self::default()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IdentityChanged(identity) => write!(f, "the log is now {identity}"),
            Self::RolledBack { last } => write!(f, "the log was rolled back to {last}"),
            Self::Rewritten { at } => write!(f, "the log has another record at {at} than before"),
            Self::Gap { after } => write!(f, "records after {after} may be missing"),
            Self::Closed(reason) => write!(f, "the log is closed: {reason}"),
        }
    }
}
