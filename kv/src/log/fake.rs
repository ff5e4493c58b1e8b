//! Logs in memory that fail on request, for tests. They forget everything with the process.
//!
//! The faults are those that an engine can show: it cannot be reached, it takes an append and loses
//! the acknowledgement, it answers late, it delivers late or twice, it loses its tail, it is
//! replaced. It never changes the order of deliveries: the contract rules that out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio::sync::watch;

use super::change::{
    Append, ChangeLog, Connectivity, Deliveries, Delivery, Expect, Freshness, Identity, LogEngine,
    LogFuture, LogOptions, LogState, Lost, Position, Record, Retention,
};
use super::error::LogError;
use super::subject::matches;
use crate::clock::{Clock, SystemClock};

/// Bytes of a payload, at most.
const PAYLOAD_BYTES_MAX: usize = 960 * 1024;

/// Logs in memory. Clones share them.
#[derive(Clone)]
pub struct FakeLogs {
    logs: Arc<Mutex<HashMap<String, Arc<Core>>>>,
    clock: Arc<dyn Clock>,
}

/// One log in memory, with its faults. Clones share it.
#[derive(Clone)]
pub struct FakeLog {
    core: Arc<Core>,
    options: LogOptions,
}

struct Core {
    name: String,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Counts changes, to wake whoever waits.
    changes: watch::Sender<u64>,
    connectivity: watch::Sender<Connectivity>,
}

#[derive(Default)]
struct State {
    /// How often the log was replaced.
    generation: u64,
    last: u64,
    records: BTreeMap<u64, (Record, Option<u64>)>,
    /// The newest sequence of each subject, whether or not its record is still there.
    newest: HashMap<String, u64>,
    /// When the first record expires; none if none does.
    soonest: Option<u64>,
    ids: HashMap<String, u64>,
    /// All that was ever appended.
    history: Vec<Record>,
    faults: Faults,
}

#[derive(Default)]
struct Faults {
    refuse_appends: u64,
    lose_acks: u64,
    hold_acks: bool,
    hold_deliveries: bool,
    /// Grows to make every subscription repeat that many records.
    repeats: u64,
    repeat_records: u64,
    /// Grows to make every subscription skip a record and end.
    gaps: u64,
    /// Grows when the log loses its tail.
    rollbacks: u64,
    rolled_back_to: u64,
}

impl FakeLogs {
    /// Makes an engine without logs.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// Makes an engine whose records expire by `clock`.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { logs: Arc::default(), clock }
    }

    /// A log with its faults.
    pub fn fake(&self, name: &str, options: LogOptions) -> FakeLog {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let core = logs.entry(name.to_owned()).or_insert_with(|| {
            Arc::new(Core {
                name: name.to_owned(),
                clock: self.clock.clone(),
                state: Mutex::default(),
                changes: watch::Sender::new(0),
                connectivity: watch::Sender::new(Connectivity::Connected),
            })
        });
        FakeLog { core: core.clone(), options }
    }
}

impl Default for FakeLogs {
    fn default() -> Self {
        Self::new()
    }
}

impl LogEngine for FakeLogs {
    fn log(&self, name: &str, options: LogOptions) -> Arc<dyn ChangeLog> {
        Arc::new(self.fake(name, options))
    }
}

impl FakeLog {
    /// Makes the log unreachable: operations fail, subscriptions stand still.
    pub fn disconnect(&self) {
        let since = Instant::now();
        self.core.connectivity.send_replace(Connectivity::Disconnected { since });
    }

    /// Ends what `disconnect` began.
    pub fn reconnect(&self) {
        self.core.connectivity.send_replace(Connectivity::Connected);
        self.core.change(|_| ());
    }

    /// Refuses the next appends.
    pub fn refuse_appends(&self, count: u64) {
        self.core.change(|state| state.faults.refuse_appends = count);
    }

    /// Writes the next appends and says that the outcome is unknown.
    pub fn lose_acks(&self, count: u64) {
        self.core.change(|state| state.faults.lose_acks = count);
    }

    /// Writes appends, and acknowledges none of them before `release`.
    pub fn hold_acks(&self) {
        self.core.change(|state| state.faults.hold_acks = true);
    }

    /// Makes subscriptions stand still until `release`.
    pub fn hold_deliveries(&self) {
        self.core.change(|state| state.faults.hold_deliveries = true);
    }

    /// Ends what was held.
    pub fn release(&self) {
        self.core.change(|state| {
            state.faults.hold_acks = false;
            state.faults.hold_deliveries = false;
        });
    }

    /// Makes every subscription deliver its last `count` positions again.
    pub fn repeat(&self, count: u64) {
        self.core.change(|state| {
            state.faults.repeats += 1;
            state.faults.repeat_records = count;
        });
    }

    /// Makes every subscription leave out a record, say so, and end.
    pub fn gap(&self) {
        self.core.change(|state| state.faults.gaps += 1);
    }

    /// Takes back the last `count` appends, as a server that had not synced its disk does.
    pub fn roll_back(&self, count: u64) {
        self.core.change(|state| {
            state.last = state.last.saturating_sub(count);
            let last = state.last;
            state.faults.rollbacks += 1;
            state.faults.rolled_back_to = last;
            state.records.retain(|sequence, _| *sequence <= last);
            state.newest = state
                .records
                .values()
                .map(|(record, _)| (record.subject.clone(), record.sequence))
                .collect();
            state.ids.retain(|_, sequence| *sequence <= last);
        });
    }

    /// Puts an empty log in the place of this one.
    pub fn replace(&self) {
        self.core.change(|state| {
            let generation = state.generation + 1;
            let faults = std::mem::take(&mut state.faults);
            let history = std::mem::take(&mut state.history);
            *state = State { generation, faults, history, ..State::default() };
        });
    }

    /// All records, without a subscription.
    pub fn records(&self) -> Vec<Record> {
        let state = self.core.lock();
        state.records.values().map(|(record, _)| record.clone()).collect()
    }

    /// All records that were ever appended, in the order of appending.
    pub fn history(&self) -> Vec<Record> {
        self.core.lock().history.clone()
    }

    /// How many records were ever appended.
    pub fn appends(&self) -> usize {
        self.core.lock().history.len()
    }

    fn reachable(&self) -> Result<(), LogError> {
        match *self.core.connectivity.borrow() {
            Connectivity::Connected => Ok(()),
            Connectivity::Disconnected { .. } => Err(LogError::Unavailable("fault".into())),
        }
    }

    /// Reads the log's state if it can be reached.
    fn ask<T: Send + 'static>(&self, read: impl FnOnce(&State) -> T) -> LogFuture<T> {
        let answer = self.reachable().map(|()| read(&self.core.lock()));
        Box::pin(async move { answer })
    }
}

impl Core {
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now_s = self.clock.now_s();
        if state.soonest.is_some_and(|at| at <= now_s) {
            state.records.retain(|_, (_, expires)| expires.is_none_or(|at| at > now_s));
            state.soonest = state.records.values().filter_map(|(_, expires)| *expires).min();
        }
        state
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.lock());
        self.changes.send_modify(|changes| *changes += 1);
        changed
    }

    fn state_of(&self, state: &State) -> LogState {
        let first = state.records.keys().next().copied();
        LogState {
            identity: Identity(format!("{}@{}", self.name, state.generation).into()),
            first: first.unwrap_or(state.last + 1),
            last: state.last,
        }
    }

    fn write(&self, append: Append, retention: Retention) -> Result<u64, LogError> {
        let now_s = self.clock.now_s();
        self.change(|state| {
            if state.faults.refuse_appends > 0 {
                state.faults.refuse_appends -= 1;
                return Err(LogError::Unavailable("fault".into()));
            }
            if let Some(sequence) = append.id.as_ref().and_then(|id| state.ids.get(id)) {
                return Ok(*sequence);
            }
            state.check(&append)?;
            let sequence = state.write(append, retention, now_s);
            if state.faults.lose_acks > 0 {
                state.faults.lose_acks -= 1;
                return Err(LogError::OutcomeUnknown("fault".into()));
            }
            Ok(sequence)
        })
    }
}

impl State {
    fn check(&self, append: &Append) -> Result<(), LogError> {
        let found = match append.expect {
            Expect::Any => return Ok(()),
            Expect::LastInLog(last) => self.last == last,
            Expect::LastOnSubject(last) => {
                self.last_on(&append.subject).map_or(0, |record| record.sequence) == last
            }
        };
        if found { Ok(()) } else { Err(LogError::Conflict) }
    }

    fn write(&mut self, append: Append, retention: Retention, now_s: u64) -> u64 {
        self.last += 1;
        let before = self.newest.insert(append.subject.clone(), self.last);
        if retention == Retention::LastPerSubject
            && let Some(before) = before
        {
            self.records.remove(&before);
        }
        if let Some(id) = append.id {
            self.ids.insert(id, self.last);
        }
        let mut headers = append.headers;
        headers.sort_unstable();
        let record = Record {
            sequence: self.last,
            subject: append.subject,
            headers,
            payload: append.payload,
            time_ms: now_s * 1000,
        };
        let expires = append.ttl.map(|ttl| now_s + ttl.as_secs().max(1));
        self.history.push(record.clone());
        self.soonest = self.soonest.into_iter().chain(expires).min();
        self.records.insert(self.last, (record, expires));
        self.last
    }

    fn last_on(&self, subject: &str) -> Option<&Record> {
        let newest = self.newest.get(subject)?;
        self.records.get(newest).map(|(record, _)| record)
    }
}

impl ChangeLog for FakeLog {
    fn state(&self) -> LogFuture<LogState> {
        let core = self.core.clone();
        self.ask(move |state| core.state_of(state))
    }

    fn append(&self, append: Append) -> LogFuture<u64> {
        let bytes = append.payload.len();
        let written = match self.reachable() {
            Err(error) => Err(error),
            Ok(()) if bytes > PAYLOAD_BYTES_MAX => Err(LogError::TooLarge { bytes }),
            Ok(()) => self.core.write(append, self.options.retention),
        };
        let core = self.core.clone();
        Box::pin(async move {
            let mut changes = core.changes.subscribe();
            while core.lock().faults.hold_acks {
                // The core holds the sender.
                let _ = changes.changed().await;
            }
            written
        })
    }

    fn subscribe(&self, after: Position) -> Deliveries {
        let (repeats, gaps, rollbacks) = {
            let faults = &self.core.lock().faults;
            (faults.repeats, faults.gaps, faults.rollbacks)
        };
        let feed = Feed {
            core: self.core.clone(),
            position: after,
            repeats,
            gaps,
            rollbacks,
            told: false,
            check_interval: self.options.check_interval,
            changes: self.core.changes.subscribe(),
        };
        stream::unfold(Some(feed), |feed| async move {
            let mut feed = feed?;
            let delivery = feed.next().await;
            let over = matches!(delivery, Delivery::Lost(_));
            Some((delivery, (!over).then_some(feed)))
        })
        .boxed()
    }

    fn purge(&self, filter: String, before: u64) -> LogFuture<()> {
        let purged = self.reachable().map(|()| {
            self.core.change(|state| {
                state.records.retain(|sequence, (record, _)| {
                    *sequence >= before || !matches(&filter, &record.subject)
                });
            });
        });
        Box::pin(async move { purged })
    }

    fn read(&self, sequence: u64) -> LogFuture<Option<Record>> {
        self.ask(move |state| state.records.get(&sequence).map(|(record, _)| record.clone()))
    }

    fn last_on(&self, subject: String, _: Freshness) -> LogFuture<Option<Record>> {
        self.ask(move |state| state.last_on(&subject).cloned())
    }

    fn subjects(&self, filter: String) -> LogFuture<Vec<String>> {
        self.ask(move |state| {
            let all = state.records.values().map(|(record, _)| &record.subject);
            let found: HashSet<&String> = all.filter(|subject| matches(&filter, subject)).collect();
            found.into_iter().cloned().collect()
        })
    }

    fn payload_bytes_max(&self) -> usize {
        PAYLOAD_BYTES_MAX
    }

    fn connectivity(&self) -> watch::Receiver<Connectivity> {
        self.core.connectivity.subscribe()
    }
}

/// A subscription's place in a log.
struct Feed {
    core: Arc<Core>,
    position: Position,
    repeats: u64,
    gaps: u64,
    rollbacks: u64,
    /// Whether the subscriber knows that it has everything.
    told: bool,
    check_interval: Duration,
    changes: watch::Receiver<u64>,
}

impl Feed {
    async fn next(&mut self) -> Delivery {
        loop {
            self.changes.borrow_and_update();
            if let Some(delivery) = self.look() {
                self.told = matches!(delivery, Delivery::CaughtUp { .. });
                return delivery;
            }
            // Time alone changes a log too; the core holds the sender.
            let changed = tokio::time::timeout(self.check_interval, self.changes.changed()).await;
            self.told &= changed.is_ok();
        }
    }

    /// What the subscriber does not know yet.
    fn look(&mut self) -> Option<Delivery> {
        let state = self.core.lock();
        let connected = *self.core.connectivity.borrow() == Connectivity::Connected;
        if state.faults.hold_deliveries || !connected {
            return None;
        }
        let told = self.core.state_of(&state);
        match &self.position.identity {
            Some(identity) if *identity != told.identity => {
                return Some(Delivery::Lost(Lost::IdentityChanged(told.identity)));
            }
            _ => self.position.identity = Some(told.identity),
        }
        if told.last < self.position.sequence {
            return Some(Delivery::Lost(Lost::RolledBack { last: told.last }));
        }
        if self.rollbacks != state.faults.rollbacks {
            self.rollbacks = state.faults.rollbacks;
            if state.faults.rolled_back_to < self.position.sequence {
                return Some(Delivery::Lost(Lost::Rewritten { at: self.position.sequence }));
            }
        }
        if self.gaps != state.faults.gaps {
            return Some(Delivery::Lost(Lost::Gap { after: self.position.sequence }));
        }
        if self.repeats != state.faults.repeats {
            self.repeats = state.faults.repeats;
            let repeated = state.faults.repeat_records;
            self.position.sequence = self.position.sequence.saturating_sub(repeated);
        }
        let mut rest = state.records.range(self.position.sequence + 1..);
        match rest.next() {
            Some((sequence, (record, _))) => {
                self.position.sequence = *sequence;
                Some(Delivery::Record(record.clone()))
            }
            None if self.told && self.position.sequence == told.last => None,
            None => {
                self.position.sequence = told.last;
                Some(Delivery::CaughtUp { last: told.last, asked: Instant::now() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::log::LogSubject;

    async fn open() -> LogSubject {
        LogSubject { engine: Arc::new(FakeLogs::new()), keep: Box::new(()) }
    }

    crate::log_contract!(open);

    #[tokio::test]
    async fn faults_are_as_scripted() {
        let log = FakeLogs::new().fake("a", LogOptions::default());
        log.refuse_appends(1);
        let refused = log.append(Append::new("s", "x")).await;
        assert!(matches!(refused, Err(LogError::Unavailable(_))));
        log.lose_acks(1);
        let lost = log.append(Append::new("s", "x").id("id")).await;
        assert!(matches!(lost, Err(LogError::OutcomeUnknown(_))));
        assert_eq!(log.append(Append::new("s", "x").id("id")).await.unwrap(), 1);
        let mut deliveries = log.subscribe(Position::start());
        assert!(matches!(deliveries.next().await, Some(Delivery::Record(_))));
        log.repeat(1);
        assert!(matches!(deliveries.next().await, Some(Delivery::Record(_))));
        log.gap();
        let lost = Delivery::Lost(Lost::Gap { after: 1 });
        assert_eq!(deliveries.next().await, Some(lost));
        assert_eq!(deliveries.next().await, None);
    }
}
