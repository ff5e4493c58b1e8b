//! A subscription to a stream: a consumer that lives in the server's memory, asked for one batch
//! after another, made anew wherever it was when the server forgot it.
//!
//! The client's own ordered consumer is not used because it keeps to itself what a replica must
//! know: whether the leader, not just some server, agrees that nothing is missing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::{StatusCode, Subscriber};
use futures_util::{StreamExt, stream};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::connection::{Link, REQUEST_TIMEOUT};
use super::log::{Log, RETRY_PAUSE};
use super::wire;
use crate::log::{Deliveries, Delivery, Identity, LogError, LogState, Lost, Position, Record};

/// Records of one batch, at most.
const BATCH_RECORDS_MAX: usize = 2048;
/// Bytes of one batch, at most: what a subscription holds in memory.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long the server holds a request that it has no record for.
const BATCH_WAIT: Duration = Duration::from_secs(30);
/// How often the server says that it still holds a request.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Heartbeats that may fail to come before the consumer counts as gone.
const HEARTBEATS_MISSED_MAX: u32 = 3;
/// How long the server keeps a consumer that nobody asks.
const CONSUMER_IDLE_MAX: Duration = Duration::from_secs(30);
/// The longest pause between attempts to make a consumer.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Opens a subscription. Nothing is asked before it is polled.
pub(super) fn open(log: Arc<Log>, after: Position) -> Deliveries {
    stream::unfold(Some(Feed::new(log, after)), |feed| async move {
        let mut feed = feed?;
        let delivery = feed.next().await;
        let over = matches!(delivery, Delivery::Lost(_));
        Some((delivery, (!over).then_some(feed)))
    })
    .boxed()
}

struct Feed {
    log: Arc<Log>,
    identity: Option<Identity>,
    /// Everything up to this sequence was delivered or is gone from the log.
    position: u64,
    /// The record that was delivered last, and when the log took it.
    last_record: Option<(u64, u64)>,
    consumer: Option<Consumer>,
    /// What is to be said before anything else.
    ready: VecDeque<Delivery>,
    checks: Interval,
    link: watch::Receiver<Link>,
    /// What the leader said last, and when it was asked.
    goal: Option<(u64, std::time::Instant)>,
    /// Whether a record came since the last check.
    moved: bool,
    pause: Duration,
}

/// A consumer on the server, and the request that it holds.
struct Consumer {
    name: String,
    inbox: Subscriber,
    reply: String,
    /// The consumer's own count of deliveries.
    delivered: u64,
    /// Records that the server may still send for the request.
    outstanding: usize,
    /// The connection that it was made on.
    connects: u64,
    /// When something last came from the server.
    heard: Instant,
}

#[derive(Serialize)]
struct BatchRequest {
    batch: usize,
    max_bytes: usize,
    expires: u64,
    idle_heartbeat: u64,
}

/// What happened next, of what a feed waits for.
enum Happened {
    Message(Option<async_nats::Message>),
    Check,
    LinkChanged,
    Silence,
}

impl Feed {
    fn new(log: Arc<Log>, after: Position) -> Self {
        let mut checks = tokio::time::interval(log.options.check_interval);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        checks.reset();
        let link = log.connection.link();
        Self {
            log,
            identity: after.identity,
            position: after.sequence,
            last_record: None,
            consumer: None,
            ready: VecDeque::new(),
            checks,
            link,
            goal: None,
            moved: false,
            pause: RETRY_PAUSE,
        }
    }

    async fn next(&mut self) -> Delivery {
        loop {
            if let Some(delivery) = self.ready.pop_front() {
                return delivery;
            }
            let step = match self.consumer.take() {
                None => self.begin().await,
                Some(consumer) => self.go_on(consumer).await,
            };
            if let Err(lost) = step {
                return Delivery::Lost(lost);
            }
        }
    }

    /// Makes a consumer, or waits before the next attempt.
    async fn begin(&mut self) -> Result<(), Lost> {
        let connected = self.link.wait_for(|link| link.connected).await;
        let connects = connected.map_err(|_| closed("the connection ended"))?.connects;
        self.check().await?;
        self.compare_last_record().await?;
        match self.make_consumer(connects).await {
            Ok(consumer) => {
                self.pause = RETRY_PAUSE;
                self.consumer = Some(consumer);
                self.ready.push_back(Delivery::Resumed);
                self.tell_if_caught_up();
            }
            Err(why) => {
                tracing::debug!(stream = self.log.stream, %why, "cannot subscribe");
                tokio::time::sleep(self.pause).await;
                self.pause = (self.pause * 2).min(PAUSE_MAX);
            }
        }
        Ok(())
    }

    async fn make_consumer(&self, connects: u64) -> Result<Consumer, String> {
        let client = self.log.connection.client();
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.position + 1 },
            ack_policy: AckPolicy::None,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: CONSUMER_IDLE_MAX,
            ..pull::Config::default()
        };
        let stream = self.log.stream().await.map_err(|error| error.to_string())?;
        let made = stream.create_consumer(config).await.map_err(|error| error.to_string())?;
        let reply = client.new_inbox();
        let inbox = client.subscribe(reply.clone()).await.map_err(|error| error.to_string())?;
        let mut consumer = Consumer {
            name: made.cached_info().name.clone(),
            inbox,
            reply,
            delivered: 0,
            outstanding: 0,
            connects,
            heard: Instant::now(),
        };
        self.ask(&mut consumer).await?;
        Ok(consumer)
    }

    /// Asks for the next batch.
    async fn ask(&self, consumer: &mut Consumer) -> Result<(), String> {
        let api = match self.log.connection.domain() {
            Some(domain) => format!("$JS.{domain}.API"),
            None => "$JS.API".to_owned(),
        };
        let subject = format!("{api}.CONSUMER.MSG.NEXT.{}.{}", self.log.stream, consumer.name);
        let request = BatchRequest {
            batch: BATCH_RECORDS_MAX,
            max_bytes: BATCH_BYTES_MAX,
            expires: nanos(BATCH_WAIT),
            idle_heartbeat: nanos(HEARTBEAT),
        };
        let payload = serde_json::to_vec(&request).map_err(|error| error.to_string())?;
        let client = self.log.connection.client();
        let sent = client.publish_with_reply(subject, consumer.reply.clone(), payload.into());
        sent.await.map_err(|error| error.to_string())?;
        consumer.outstanding = BATCH_RECORDS_MAX;
        Ok(())
    }

    /// Takes what comes next. The consumer is kept only where it can go on.
    async fn go_on(&mut self, mut consumer: Consumer) -> Result<(), Lost> {
        let silence = consumer.heard + HEARTBEAT * HEARTBEATS_MISSED_MAX;
        let happened = tokio::select! {
            biased;
            message = consumer.inbox.next() => Happened::Message(message),
            _ = self.checks.tick() => Happened::Check,
            _ = self.link.changed() => Happened::LinkChanged,
            () = tokio::time::sleep_until(silence) => Happened::Silence,
        };
        match happened {
            Happened::Message(None) => return Err(closed("the connection ended")),
            Happened::Message(Some(message)) => {
                consumer.heard = Instant::now();
                if self.take(&mut consumer, message).await {
                    self.consumer = Some(consumer);
                }
            }
            Happened::Check => {
                let stalled = self.check().await?;
                self.tell_if_caught_up();
                if stalled {
                    tracing::info!(stream = self.log.stream, "a consumer stalled, making another");
                } else {
                    self.consumer = Some(consumer);
                }
            }
            Happened::LinkChanged => {
                let link = *self.link.borrow_and_update();
                // A server that was lost no longer holds the request.
                if link.connected && link.connects == consumer.connects {
                    self.consumer = Some(consumer);
                }
            }
            Happened::Silence => {}
        }
        Ok(())
    }

    /// Takes a message of the consumer; false if the consumer cannot go on.
    async fn take(&mut self, consumer: &mut Consumer, message: async_nats::Message) -> bool {
        let Some(status) = message.status else {
            return self.take_record(consumer, message).await;
        };
        match status {
            StatusCode::IDLE_HEARTBEAT => {
                let told = header_number(&message, "Nats-Last-Consumer");
                // A record that was dropped on the way shows here if no later one came.
                told.is_none_or(|told| told <= consumer.delivered)
            }
            // The request is over, for its time or its bytes.
            StatusCode::TIMEOUT => self.ask(consumer).await.is_ok(),
            StatusCode::REQUEST_TERMINATED
                if message.description.as_deref().is_some_and(|text| {
                    text.eq_ignore_ascii_case("message size exceeds maxbytes")
                        || text.eq_ignore_ascii_case("batch completed")
                }) =>
            {
                self.ask(consumer).await.is_ok()
            }
            status => {
                let description = message.description.as_deref().unwrap_or_default();
                tracing::debug!(stream = self.log.stream, %status, description, "consumer ended");
                tokio::time::sleep(RETRY_PAUSE).await;
                false
            }
        }
    }

    async fn take_record(&mut self, consumer: &mut Consumer, message: async_nats::Message) -> bool {
        let Some(place) = message.reply.as_ref().and_then(|reply| Place::parse(reply)) else {
            return true;
        };
        if place.delivered != consumer.delivered + 1 {
            // The client dropped some because they came faster than they were taken.
            return false;
        }
        consumer.delivered = place.delivered;
        consumer.outstanding = consumer.outstanding.saturating_sub(1);
        // What lies below was told to be gone: it was overwritten since.
        if place.sequence > self.position {
            self.position = place.sequence;
            self.last_record = Some((place.sequence, place.time_ms));
            self.moved = true;
            self.ready.push_back(Delivery::Record(Record {
                sequence: place.sequence,
                subject: wire::relative(message.subject.as_str(), &self.log.prefix),
                headers: message.headers.as_ref().map(wire::own).unwrap_or_default(),
                payload: message.payload,
                time_ms: place.time_ms,
            }));
            self.tell_if_caught_up();
        }
        consumer.outstanding > 0 || self.ask(consumer).await.is_ok()
    }

    /// Asks the leader who the log is and where it ends. True if the consumer should have brought
    /// records and did not.
    async fn check(&mut self) -> Result<bool, Lost> {
        let asked = std::time::Instant::now();
        let info = tokio::time::timeout(REQUEST_TIMEOUT, self.log.info()).await;
        let state = match info {
            Ok(Ok(info)) => self.log.state_of(&info),
            Ok(Err(LogError::Refused(why))) => return Err(closed(&why)),
            Ok(Err(_)) | Err(_) => return Ok(false),
        };
        self.compare(&state)?;
        self.goal = Some((state.last, asked));
        let moved = std::mem::take(&mut self.moved);
        if moved || self.position >= state.last {
            return Ok(false);
        }
        match self.log.next_after(self.position).await {
            Ok(Some(_)) => Ok(true),
            // What lies between was overwritten or has expired.
            Ok(None) => {
                self.position = state.last;
                Ok(false)
            }
            Err(_) => Ok(false),
        }
    }

    fn compare(&mut self, state: &LogState) -> Result<(), Lost> {
        match &self.identity {
            Some(identity) if *identity != state.identity => {
                return Err(Lost::IdentityChanged(state.identity.clone()));
            }
            Some(_) => {}
            None => self.identity = Some(state.identity.clone()),
        }
        if state.last < self.position {
            return Err(Lost::RolledBack { last: state.last });
        }
        Ok(())
    }

    /// Looks whether the log lost its tail and grew again while nobody looked. It shows as long as
    /// the last record that was delivered was not replaced since.
    async fn compare_last_record(&self) -> Result<(), Lost> {
        let Some((at, time_ms)) = self.last_record else { return Ok(()) };
        match self.log.record_at(at).await {
            Ok(Some(record)) if record.time_ms != time_ms => Err(Lost::Rewritten { at }),
            // What cannot be read now says nothing.
            _ => Ok(()),
        }
    }

    fn tell_if_caught_up(&mut self) {
        if let Some((last, asked)) = self.goal
            && self.position >= last
        {
            self.goal = None;
            self.ready.push_back(Delivery::CaughtUp { last: self.position, asked });
        }
    }
}

/// Where a delivered message stands, as its reply subject says (ADR-15).
struct Place {
    sequence: u64,
    delivered: u64,
    time_ms: u64,
}

impl Place {
    fn parse(reply: &str) -> Option<Self> {
        let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        // Servers with a domain put it and the account's hash before the stream.
        let rest = match tokens.len() {
            7 => &tokens[..],
            9.. => &tokens[2..],
            _ => return None,
        };
        Some(Self {
            sequence: rest[3].parse().ok()?,
            delivered: rest[4].parse().ok()?,
            time_ms: wire::millis(rest[5].parse().ok()?),
        })
    }
}

fn header_number(message: &async_nats::Message, name: &str) -> Option<u64> {
    message.headers.as_ref()?.get(name)?.as_str().parse().ok()
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn closed(reason: &str) -> Lost {
    Lost::Closed(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_from_both_forms_of_reply() {
        let check = |reply: &str, expected: Option<(u64, u64, u64)>| {
            let found = Place::parse(reply);
            let found = found.map(|place| (place.sequence, place.delivered, place.time_ms));
            assert_eq!(found, expected, "{reply}");
        };
        let expected = Some((42, 7, 1_700_000_000_123));
        check("$JS.ACK.stream.consumer.1.42.7.1700000000123456789.0", expected);
        check("$JS.ACK.hub.hash.stream.consumer.1.42.7.1700000000123456789.0", expected);
        check("$JS.ACK.hub.hash.stream.consumer.1.42.7.1700000000123456789.0.random", expected);
        check("$JS.ACK.stream.consumer", None);
        check("_INBOX.a.b", None);
    }
}
