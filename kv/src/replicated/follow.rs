//! One shard's follower: it plans from where to follow the log, applies what the log delivers, and
//! resyncs where the log no longer fits what the replica holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;

use super::agree::{self, Agreement};
use super::{Inner, record};
use crate::error::KvError;
use crate::log::{Delivery, LogError, LogState, Lost, Position};
use crate::sqlite::{Resync, ShardState, Step};

/// The pause before a shard tries again.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest pause before a shard tries again.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Times that a log must say that it lost its tail.
const ROLLBACK_TELLS: usize = 3;

/// Why a follower begins again.
enum Again {
    /// Its subscription ended.
    Lost(Lost),
    /// It was cut off for so long that its place must be judged anew.
    Away,
    /// The log or the replica failed; after a pause it may not.
    Pause(String),
}

/// Follows a shard's log until the store is closed.
pub(super) async fn run(inner: Arc<Inner>, shard: u16) {
    let mut closed = inner.closed.subscribe();
    let follower = Follower { inner: &inner, shard };
    tokio::select! {
        () = follower.run() => {}
        // The sender is in `inner`.
        _ = closed.wait_for(|closed| *closed) => {}
    }
}

struct Follower<'a> {
    inner: &'a Inner,
    shard: u16,
}

impl Follower<'_> {
    async fn run(&self) {
        let mut agreement = self.inner.agreement.subscribe();
        let mut pause = PAUSE_MIN;
        let mut lost = None;
        loop {
            // The sender is in `inner`. A node that disagrees waits here.
            let _ = agreement.wait_for(|agreement| *agreement == Agreement::Same).await;
            let again = match self.prepare(lost.take()).await {
                Ok(state) => {
                    pause = PAUSE_MIN;
                    self.follow(state).await
                }
                Err(again) => again,
            };
            match again {
                Again::Lost(reason) if !matches!(reason, Lost::Closed(_)) => {
                    tracing::warn!(shard = self.shard, %reason, "a replica lost its log");
                    lost = Some(reason);
                }
                Again::Lost(reason) => self.rest(&mut pause, &reason.to_string()).await,
                Again::Away => {}
                Again::Pause(reason) => self.rest(&mut pause, &reason).await,
            }
        }
    }

    async fn rest(&self, pause: &mut Duration, reason: &str) {
        tracing::debug!(shard = self.shard, reason, "a replica waits for its log");
        self.inner.status.change(self.shard, |health| health.fault = Some(reason.into()));
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(PAUSE_MAX);
    }

    /// Finds out where to follow from, and begins a resync where the checkpoint is not enough.
    async fn prepare(&self, lost: Option<Lost>) -> Result<ShardState, Again> {
        // The replica's state is read first: what the log says is then no older.
        let local = self.inner.sqlite.shard(self.shard);
        let log = self.log_state().await?;
        let resync = match lost {
            Some(Lost::Gap { .. }) => Some(Resync::Same),
            Some(Lost::Rewritten { .. }) => Some(Resync::Other),
            _ => None,
        };
        let found = self.judge(&local, &log).await?;
        if let Some(resync) = resync.max(found) {
            self.begin(resync, log).await?;
        }
        let state = self.inner.sqlite.shard(self.shard);
        let resyncing = state.resync != Resync::None;
        self.inner.status.change(self.shard, |health| health.resyncing = resyncing);
        self.inner.begun.send_replace(());
        Ok(state)
    }

    /// Whether the log still fits what the replica holds.
    async fn judge(&self, local: &ShardState, log: &LogState) -> Result<Option<Resync>, Again> {
        if local.identity.as_ref() != Some(&log.identity) {
            // Whoever has values does not give them up for another cluster's log.
            if local.identity.is_some() {
                self.ensure_ours().await?;
            }
            return Ok(Some(Resync::Other));
        }
        if log.last < local.high && self.is_rolled_back(local).await? {
            return Ok(Some(Resync::Other));
        }
        if self.is_rewritten(local).await? {
            return Ok(Some(Resync::Other));
        }
        Ok(self.is_away_too_long(local).then_some(Resync::Same))
    }

    /// Asks again whose the logs are.
    async fn ensure_ours(&self) -> Result<(), Again> {
        match agree::check(self.inner).await {
            Ok(Agreement::Same) => Ok(()),
            Ok(Agreement::Other(why)) => Err(Again::Pause(why.to_string())),
            Ok(Agreement::Unknown) => Err(Again::Pause("whose the log is, is not known".into())),
            Err(error) => Err(Again::Pause(error.to_string())),
        }
    }

    /// Whether the log may have forgotten deletes that the replica has not heard of.
    fn is_away_too_long(&self, local: &ShardState) -> bool {
        let away_s = self.inner.sqlite.now_s().saturating_sub(local.caught_up_s);
        away_s > self.inner.options.absence_trusted().as_secs()
    }

    /// Asks again whether the log ends below what the replica has: a leader that was deposed and
    /// does not know it yet says so too, for some seconds.
    async fn is_rolled_back(&self, local: &ShardState) -> Result<bool, Again> {
        for _ in 1..ROLLBACK_TELLS {
            tokio::time::sleep(self.inner.options.rollback_pause).await;
            let log = self.log_state().await?;
            if local.identity.as_ref() != Some(&log.identity) || log.last >= local.high {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether another record lies at the checkpoint than was applied there: the log lost its tail
    /// and grew again. It shows as long as the record was not replaced since.
    async fn is_rewritten(&self, local: &ShardState) -> Result<bool, Again> {
        if local.sequence == 0 || local.time_ms == 0 {
            return Ok(false);
        }
        let read = self.inner.logs[usize::from(self.shard)].read(local.sequence).await;
        let found = read.map_err(|error| Again::Pause(error.to_string()))?;
        Ok(found.is_some_and(|record| record.time_ms != local.time_ms))
    }

    async fn log_state(&self) -> Result<LogState, Again> {
        let asked = self.inner.logs[usize::from(self.shard)].state().await;
        let state = asked.map_err(|error: LogError| Again::Pause(error.to_string()))?;
        self.inner.status.change(self.shard, |health| health.last = state.last);
        Ok(state)
    }

    async fn begin(&self, resync: Resync, log: LogState) -> Result<(), Again> {
        let (shard, log_now) = (self.shard, &log.identity);
        match self.inner.sqlite.shard(shard).identity {
            Some(_) => tracing::warn!(shard, ?resync, log = %log_now, "a replica's resync begins"),
            // It has nothing yet.
            None => tracing::debug!(shard, log = %log_now, "a replica begins"),
        }
        self.inner.counters.resyncs.add(1);
        let now_s = self.inner.sqlite.now_s();
        let step = Step::Begin { shard: self.shard, resync, identity: log.identity, now_s };
        self.apply(step).await
    }

    /// Applies what the log delivers until it can deliver no more.
    async fn follow(&self, state: ShardState) -> Again {
        let position = Position { identity: state.identity, sequence: state.sequence };
        let log = &self.inner.logs[usize::from(self.shard)];
        let mut deliveries =
            log.subscribe(position).ready_chunks(self.inner.options.apply_records_max);
        let mut resumed = false;
        while let Some(chunk) = deliveries.next().await {
            match self.take(chunk, &mut resumed).await {
                Ok(None) => {}
                Ok(Some(lost)) => return Again::Lost(lost),
                Err(again) => return again,
            }
        }
        Again::Pause("the subscription ended".into())
    }

    async fn take(&self, chunk: Vec<Delivery>, resumed: &mut bool) -> Result<Option<Lost>, Again> {
        // A process can be cut off for that long without ending.
        if self.is_away_too_long(&self.inner.sqlite.shard(self.shard)) {
            return Err(Again::Away);
        }
        let mut records = Vec::new();
        let (mut sequence, mut time_ms) = (0, 0);
        let (mut caught_up, mut lost) = (None, None);
        for delivery in chunk {
            match delivery {
                Delivery::Record(record) => {
                    (sequence, time_ms) = (sequence.max(record.sequence), record.time_ms);
                    records.push(record);
                }
                Delivery::CaughtUp { last, asked } => caught_up = Some((last, asked)),
                Delivery::Resumed if *resumed => self.inner.counters.reconnects.add(1),
                Delivery::Resumed => *resumed = true,
                Delivery::Lost(reason) => lost = Some(reason),
            }
        }
        self.inner.counters.records.add(records.len() as u64);
        let records = records.into_iter().filter_map(|record| self.decode(record)).collect();
        self.advance(records, sequence, time_ms, caught_up).await?;
        Ok(lost)
    }

    fn decode(&self, record: crate::log::Record) -> Option<crate::sqlite::ReplicaRecord> {
        let (sequence, subject) = (record.sequence, record.subject.clone());
        let decoded = record::decode(record);
        if decoded.is_none() {
            tracing::error!(sequence, subject, "a record is of a newer version, update this node");
            self.inner.counters.records_unknown.add(1);
        }
        decoded
    }

    async fn advance(
        &self,
        records: Vec<crate::sqlite::ReplicaRecord>,
        sequence: u64,
        time_ms: u64,
        caught_up: Option<(u64, Instant)>,
    ) -> Result<(), Again> {
        let state = self.inner.sqlite.shard(self.shard);
        let now_s = self.inner.sqlite.now_s();
        let reached = caught_up.map_or(sequence, |(last, _)| last.max(sequence));
        // The moment of a record belongs to the checkpoint only if that is the record's own place.
        let time_ms = if reached == sequence { time_ms } else { 0 };
        let sequence = reached;
        let kept_max_s = self.inner.options.caught_up_kept_max().as_secs();
        let kept_old = now_s.saturating_sub(state.caught_up_s) > kept_max_s;
        let kept_old = kept_old && caught_up.is_some() && state.resync == Resync::None;
        if !records.is_empty() || sequence > state.sequence || kept_old {
            // A process can be stopped between a question and here.
            let caught_up_s = caught_up.map(|(_, asked)| moment_s(now_s, asked));
            let shard = self.shard;
            self.apply(Step::Follow { shard, records, sequence, time_ms, caught_up_s }).await?;
        }
        let Some((last, asked)) = caught_up else { return Ok(()) };
        if state.resync != Resync::None {
            self.apply(Step::End { shard: self.shard }).await?;
            tracing::debug!(shard = self.shard, sequence = last, "a replica's resync is done");
        }
        self.inner.status.change(self.shard, |health| {
            health.caught_up = health.caught_up.max(asked);
            health.started = true;
            health.resyncing = false;
            health.fault = None;
            health.last = health.last.max(last);
        });
        Ok(())
    }

    async fn apply(&self, step: Step) -> Result<(), Again> {
        self.inner.sqlite.replicate(step).await.map_err(|error| match error {
            // Other work fills the queue: the same records come again after the pause.
            KvError::Overloaded => Again::Pause("the replica's queue is full".into()),
            error => Again::Pause(error.to_string()),
        })
    }
}

/// What the clock said, in seconds, when something was asked.
fn moment_s(now_s: u64, asked: Instant) -> u64 {
    let ago = asked.elapsed();
    now_s.saturating_sub(ago.as_secs() + u64::from(ago.subsec_nanos() > 0))
}
