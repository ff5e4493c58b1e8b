//! What every `ChangeLog` must do, with the blobs and leases that stand on it, written once against
//! the trait and run by the tests of each implementation through `log_contract!`.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;

use crate::log::{
    Append, BlobError, BlobHash, BlobStore, ChangeLog, Connectivity, Deliveries, Delivery, Expect,
    Fence, Freshness, Lease, LeaseError, LogBlobs, LogEngine, LogError, LogLeases, LogOptions,
    Lost, Position, Record, Retention, append_fenced,
};

const GOOD: &str = "the log takes a good operation";
/// How long a delivery may take before a case fails rather than hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// An engine with no log in it yet, or none under the names that a case uses.
pub struct LogSubject {
    /// The engine.
    pub engine: Arc<dyn LogEngine>,
    /// What must live as long as the engine.
    pub keep: Box<dyn Any + Send>,
}

/// Makes the tests of the log contract for one engine. The argument is an
/// `async fn() -> LogSubject`; the caller must depend on tokio.
#[macro_export]
macro_rules! log_contract {
    ($open:path) => {
        $crate::log_contract!(
            $open,
            a_log_begins_empty,
            records_come_back_whole,
            a_subscription_begins_anywhere_and_goes_on,
            subscribers_agree_on_one_order,
            expectations_are_kept,
            one_of_many_rivals_wins,
            an_append_with_an_id_is_written_once,
            a_log_of_newest_records_forgets_the_others,
            a_record_lives_as_long_as_it_should,
            a_purge_spares_what_is_newer,
            a_position_in_another_log_is_lost,
            what_is_too_large_is_refused,
            blobs_come_back_by_their_hash,
            a_lease_has_one_holder,
            a_stale_fence_is_refused
        );
    };
    ($open:path, $($case:ident),+) => {
        $(
            #[test]
            fn $case() {
                $crate::contract::log::run($open, $crate::contract::log::$case);
            }
        )+
    };
}

/// Runs one case on a fresh engine.
pub fn run<Open, Opened, Case, Done>(open: Open, case: Case)
where
    Open: FnOnce() -> Opened,
    Opened: Future<Output = LogSubject>,
    Case: FnOnce(LogSubject) -> Done,
    Done: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a test machine has threads");
    runtime.block_on(async { case(open().await).await });
}

impl LogSubject {
    fn log(&self, retention: Retention) -> Arc<dyn ChangeLog> {
        let check_interval = Duration::from_millis(100);
        self.engine.log("test", LogOptions { retention, check_interval, ..LogOptions::default() })
    }
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    let next = tokio::time::timeout(PATIENCE, deliveries.next()).await;
    next.expect("a delivery comes in time").expect("a subscription ends only after its loss")
}

async fn next_record(deliveries: &mut Deliveries) -> Record {
    loop {
        match next(deliveries).await {
            Delivery::Record(record) => return record,
            Delivery::CaughtUp { .. } | Delivery::Resumed => {}
            Delivery::Lost(lost) => panic!("{lost}"),
        }
    }
}

/// All records up to the first word that there is no more.
async fn rest(deliveries: &mut Deliveries) -> Vec<Record> {
    let mut records = Vec::new();
    loop {
        match next(deliveries).await {
            Delivery::Record(record) => records.push(record),
            Delivery::CaughtUp { .. } => return records,
            Delivery::Resumed => {}
            Delivery::Lost(lost) => panic!("{lost}"),
        }
    }
}

async fn held(log: &dyn ChangeLog) -> Vec<(u64, String)> {
    let records = rest(&mut log.subscribe(Position::start())).await;
    records.into_iter().map(|record| (record.sequence, record.subject)).collect()
}

/// An unused log has no record and is caught up with at once.
pub async fn a_log_begins_empty(subject: LogSubject) {
    let log = subject.log(Retention::Everything);
    let state = log.state().await.expect(GOOD);
    assert_eq!((state.first, state.last), (1, 0));
    assert_eq!(log.read(1).await.expect(GOOD), None);
    assert_eq!(log.last_on("a".into(), Freshness::Latest).await.expect(GOOD), None);
    let mut deliveries = log.subscribe(Position::start());
    assert_eq!(rest(&mut deliveries).await, []);
    assert_eq!(*log.connectivity().borrow(), Connectivity::Connected);
    let again = log.state().await.expect(GOOD);
    assert_eq!(again.identity, state.identity);
}

/// Subject, headers, payload and order come back, by subscription and by read.
pub async fn records_come_back_whole(subject: LogSubject) {
    let log = subject.log(Retention::Everything);
    let all: Bytes = (0..=255).collect::<Vec<u8>>().into();
    let empty = Append::new("b.c", Bytes::new());
    let full = Append::new("a", all.clone()).header("One", "1").header("Two", "x y =\u{e9}");
    let first = log.append(full).await.expect(GOOD);
    let second = log.append(empty).await.expect(GOOD);
    assert!(0 < first && first < second);
    let mut deliveries = log.subscribe(Position::start());
    let found = [next_record(&mut deliveries).await, next_record(&mut deliveries).await];
    assert_eq!((&*found[0].subject, &found[0].payload), ("a", &all));
    assert_eq!(found[0].header("One"), Some("1"));
    assert_eq!(found[0].header("Two"), Some("x y =\u{e9}"));
    assert_eq!(found[0].headers.len(), 2);
    assert_eq!((&*found[1].subject, found[1].payload.len()), ("b.c", 0));
    assert_eq!(found[1].headers, []);
    assert!(found[0].time_ms > 0 && found[0].time_ms <= found[1].time_ms);
    for record in found {
        let read = log.read(record.sequence).await.expect(GOOD).expect("it was not removed");
        assert_eq!((&read.subject, &read.payload), (&record.subject, &record.payload));
        let last = log.last_on(record.subject, Freshness::Latest).await.expect(GOOD);
        assert_eq!(last, Some(read));
    }
    let state = log.state().await.expect(GOOD);
    assert_eq!((state.first, state.last), (first, second));
}

/// A subscription begins after its position, whatever lies there, and follows what is appended.
pub async fn a_subscription_begins_anywhere_and_goes_on(subject: LogSubject) {
    let log = subject.log(Retention::Everything);
    let mut sequences = Vec::new();
    for number in 0..5 {
        sequences.push(log.append(Append::new("a", number.to_string())).await.expect(GOOD));
    }
    let identity = Some(log.state().await.expect(GOOD).identity);
    for begin in 0..=5_usize {
        let sequence = begin.checked_sub(1).map_or(0, |index| sequences[index]);
        let position = Position { identity: identity.clone(), sequence };
        let mut deliveries = log.subscribe(position);
        let found: Vec<_> = rest(&mut deliveries).await.iter().map(|r| r.sequence).collect();
        assert_eq!(found, sequences[begin..]);
        let next = log.append(Append::new("a", "more")).await.expect(GOOD);
        sequences.push(next);
        assert_eq!(next_record(&mut deliveries).await.sequence, next);
    }
}

/// Concurrent appends get sequences of their own, and all subscribers see them in that order.
pub async fn subscribers_agree_on_one_order(subject: LogSubject) {
    let log = subject.log(Retention::Everything);
    let mut early = log.subscribe(Position::start());
    assert_eq!(rest(&mut early).await, []);
    let appends = (0..200).map(|n| log.append(Append::new(format!("s.{}", n % 7), n.to_string())));
    let mut sequences: Vec<u64> =
        join_all(appends).await.into_iter().map(|result| result.expect(GOOD)).collect();
    sequences.sort_unstable();
    let mut seen = Vec::new();
    while seen.len() < sequences.len() {
        seen.push(next_record(&mut early).await);
    }
    let order: Vec<u64> = seen.iter().map(|record| record.sequence).collect();
    assert_eq!(order, sequences);
    let late = rest(&mut log.subscribe(Position::start())).await;
    assert_eq!(late.len(), seen.len());
    let same = |(a, b): (&Record, &Record)| a.sequence == b.sequence && a.payload == b.payload;
    assert!(late.iter().zip(&seen).all(same));
}

/// An append whose expectation does not hold writes nothing.
pub async fn expectations_are_kept(subject: LogSubject) {
    async fn check(log: &dyn ChangeLog, on: &str, expect: Expect, good: bool) -> u64 {
        let result = log.append(Append::new(on, "x").expect(expect)).await;
        match result {
            Ok(sequence) if good => sequence,
            Err(LogError::Conflict) if !good => 0,
            result => panic!("{expect:?}: {result:?}"),
        }
    }
    let log = &*subject.log(Retention::Everything);
    check(log, "a", Expect::LastInLog(1), false).await;
    let first = check(log, "a", Expect::LastInLog(0), true).await;
    check(log, "a", Expect::LastInLog(0), false).await;
    check(log, "b", Expect::LastOnSubject(first), false).await;
    let second = check(log, "b", Expect::LastOnSubject(0), true).await;
    check(log, "a", Expect::LastOnSubject(0), false).await;
    let third = check(log, "a", Expect::LastOnSubject(first), true).await;
    check(log, "b", Expect::LastInLog(second), false).await;
    check(log, "b", Expect::LastInLog(third), true).await;
    assert_eq!(log.state().await.expect(GOOD).last, third + 1);
}

/// Of appends that expect the same, exactly one is written.
pub async fn one_of_many_rivals_wins(subject: LogSubject) {
    let log = subject.log(Retention::Everything);
    let mut last = 0;
    for expect in [Expect::LastInLog, Expect::LastOnSubject] {
        let rivals =
            (0..20).map(|n| log.append(Append::new("a", n.to_string()).expect(expect(last))));
        let results = join_all(rivals).await;
        let won: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
        assert_eq!(won.len(), 1, "{results:?}");
        assert_eq!(log.state().await.expect(GOOD).last, *won[0]);
        last = *won[0];
    }
}

/// The same id again returns the first sequence, whatever the expectation says by then.
pub async fn an_append_with_an_id_is_written_once(subject: LogSubject) {
    let log = subject.log(Retention::Everything);
    let append = Append::new("a", "once").id("id-1").expect(Expect::LastInLog(0));
    let first = log.append(append.clone()).await.expect(GOOD);
    assert_eq!(log.append(append.clone()).await.expect(GOOD), first);
    let other = log.append(Append::new("a", "other").id("id-2")).await.expect(GOOD);
    assert_ne!(other, first);
    let results = join_all((0..5).map(|_| log.append(append.clone()))).await;
    assert!(results.into_iter().all(|result| result.expect(GOOD) == first));
    assert_eq!(held(&*log).await.len(), 2);
}

/// Only the newest record of a subject stays, and the log's end is known also where nothing is left
/// there.
pub async fn a_log_of_newest_records_forgets_the_others(subject: LogSubject) {
    let log = subject.log(Retention::LastPerSubject);
    let old = log.append(Append::new("a", "1")).await.expect(GOOD);
    let b = log.append(Append::new("b", "1")).await.expect(GOOD);
    let a = log.append(Append::new("a", "2")).await.expect(GOOD);
    assert_eq!(held(&*log).await, [(b, "b".into()), (a, "a".into())]);
    assert_eq!(log.read(old).await.expect(GOOD), None);
    let found = log.last_on("a".into(), Freshness::Latest).await.expect(GOOD);
    assert_eq!(found.expect("it is the newest").payload, "2");
    assert_eq!(log.state().await.expect(GOOD).first, b);
    log.purge("a".into(), u64::MAX).await.expect(GOOD);
    let state = log.state().await.expect(GOOD);
    assert_eq!((state.first, state.last), (b, a));
    assert_eq!(held(&*log).await, [(b, "b".into())]);
    let mut deliveries = log.subscribe(Position { identity: Some(state.identity), sequence: a });
    assert_eq!(rest(&mut deliveries).await, []);
    let next = log.append(Append::new("b", "2")).await.expect(GOOD);
    assert!(next > a);
    assert_eq!(next_record(&mut deliveries).await.sequence, next);
}

/// A record goes when its time has come, and its subject is then free; others stay.
pub async fn a_record_lives_as_long_as_it_should(subject: LogSubject) {
    let log = subject.log(Retention::LastPerSubject);
    let short = Append::new("short", "x").ttl(Duration::from_secs(1));
    let long = Append::new("long", "x").ttl(Duration::from_secs(3600));
    log.append(short).await.expect(GOOD);
    log.append(long).await.expect(GOOD);
    let ever = log.append(Append::new("ever", "x")).await.expect(GOOD);
    assert!(log.last_on("short".into(), Freshness::Latest).await.expect(GOOD).is_some());
    while log.last_on("short".into(), Freshness::Latest).await.expect(GOOD).is_some() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let left: Vec<_> = held(&*log).await.into_iter().map(|(_, subject)| subject).collect();
    assert_eq!(left, ["long", "ever"]);
    let again = Append::new("short", "y").expect(Expect::LastOnSubject(0));
    assert!(log.append(again).await.expect(GOOD) > ever);
}

/// A purge removes what matches below its bound, and nothing else.
pub async fn a_purge_spares_what_is_newer(subject: LogSubject) {
    let log = subject.log(Retention::Everything);
    for on in ["n.a", "n.b", "n.b.c", "m.a", "n.a"] {
        log.append(Append::new(on, "x")).await.expect(GOOD);
    }
    log.purge("n.*".into(), 5).await.expect(GOOD);
    let subjects = |held: Vec<(u64, String)>| -> Vec<String> {
        held.into_iter().map(|(_, subject)| subject).collect()
    };
    assert_eq!(subjects(held(&*log).await), ["n.b.c", "m.a", "n.a"]);
    log.purge("n.>".into(), u64::MAX).await.expect(GOOD);
    assert_eq!(subjects(held(&*log).await), ["m.a"]);
    log.purge("nothing".into(), u64::MAX).await.expect(GOOD);
    assert_eq!(log.state().await.expect(GOOD).last, 5);
}

/// A subscription that was elsewhere, or further than the log goes, is told so.
pub async fn a_position_in_another_log_is_lost(subject: LogSubject) {
    let log = subject.log(Retention::Everything);
    log.append(Append::new("a", "x")).await.expect(GOOD);
    let identity = log.state().await.expect(GOOD).identity;
    let other = Some(crate::log::Identity("another".into()));
    let mut deliveries = log.subscribe(Position { identity: other, sequence: 1 });
    let expected = Delivery::Lost(Lost::IdentityChanged(identity.clone()));
    assert_eq!(next(&mut deliveries).await, expected);
    assert_eq!(deliveries.next().await, None);
    let mut deliveries = log.subscribe(Position { identity: Some(identity), sequence: 9 });
    assert_eq!(next(&mut deliveries).await, Delivery::Lost(Lost::RolledBack { last: 1 }));
}

/// A payload within the limit goes in, one beyond it is refused.
pub async fn what_is_too_large_is_refused(subject: LogSubject) {
    let log = subject.log(Retention::Everything);
    log.state().await.expect(GOOD);
    let largest = log.payload_bytes_max();
    let metadata = "x".repeat(1500);
    let good = Append::new("a".repeat(900), vec![7; largest]).header("Metadata", metadata);
    let sequence = log.append(good).await.expect(GOOD);
    let read = log.read(sequence).await.expect(GOOD).expect("it was not removed");
    assert_eq!(read.payload.len(), largest);
    let bad = log.append(Append::new("a", vec![7; largest + 1])).await;
    assert!(matches!(bad, Err(LogError::TooLarge { .. })), "{bad:?}");
    assert_eq!(log.state().await.expect(GOOD).last, sequence);
}

/// Blobs of no, one and many chunks come back, are stored once, and are gone when removed.
pub async fn blobs_come_back_by_their_hash(subject: LogSubject) {
    let log = subject.log(Retention::LastPerSubject);
    let blobs = LogBlobs::new(log.clone());
    let absent = blobs.get(BlobHash::of(b"absent")).await;
    assert!(matches!(absent, Err(BlobError::Missing(_))), "{absent:?}");
    for bytes in [0, 1, 1000, 5_000_000] {
        let value: Bytes = (0..bytes).map(|index| (index % 251) as u8).collect::<Vec<_>>().into();
        let hash = blobs.put(value.clone()).await.expect(GOOD);
        assert_eq!(hash, BlobHash::of(&value));
        assert_eq!(BlobHash::parse(&hash.to_string()), Some(hash));
        let last = log.state().await.expect(GOOD).last;
        assert_eq!(blobs.put(value.clone()).await.expect(GOOD), hash);
        assert_eq!(log.state().await.expect(GOOD).last, last, "it was there");
        assert!(blobs.get(hash).await.expect(GOOD) == value);
        assert!(blobs.list().await.expect(GOOD).contains(&hash));
        assert!(!blobs.remove_stale(hash).await.expect(GOOD), "it is young");
        blobs.remove(hash).await.expect(GOOD);
        assert!(matches!(blobs.get(hash).await, Err(BlobError::Missing(_))));
        assert!(!blobs.list().await.expect(GOOD).contains(&hash));
        assert_eq!(blobs.put(value.clone()).await.expect(GOOD), hash);
        assert!(blobs.get(hash).await.expect(GOOD) == value);
    }
}

/// A lease is one holder's until it is released or runs out, and fences grow.
pub async fn a_lease_has_one_holder(subject: LogSubject) {
    let leases = LogLeases::new(subject.log(Retention::LastPerSubject));
    let minute = Duration::from_secs(60);
    assert_eq!(leases.holder("cron").await.expect(GOOD), None);
    let first = leases.acquire("cron", "a", minute).await.expect(GOOD);
    let rival = leases.acquire("cron", "b", minute).await;
    assert!(matches!(rival, Err(LeaseError::Taken { ref holder }) if holder == "a"), "{rival:?}");
    let renewed = leases.renew(first.clone(), minute).await.expect(GOOD);
    assert_eq!(renewed.fence, first.fence);
    let found = leases.holder("cron").await.expect(GOOD);
    assert_eq!(found, Some(("a".into(), first.fence)));
    assert!(matches!(leases.renew(first, minute).await, Err(LeaseError::Gone)));
    leases.acquire("other", "b", minute).await.expect(GOOD);
    leases.release(renewed.clone()).await.expect(GOOD);
    let second = leases.acquire("cron", "b", Duration::from_secs(1)).await.expect(GOOD);
    assert!(second.fence > renewed.fence);
    leases.release(renewed).await.expect(GOOD);
    // It runs out by itself, and then its holder has it no more.
    let third = loop {
        match leases.acquire("cron", "c", minute).await {
            Ok(held) => break held,
            Err(LeaseError::Taken { .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(third.fence > second.fence);
    assert!(matches!(leases.renew(second, minute).await, Err(LeaseError::Gone)));
}

/// From a holder's first append on, those of earlier holders are refused.
pub async fn a_stale_fence_is_refused(subject: LogSubject) {
    let log = &*subject.log(Retention::LastPerSubject);
    let append = || Append::new("state", "x");
    append_fenced(log, append(), Fence(3)).await.expect(GOOD);
    append_fenced(log, append(), Fence(3)).await.expect(GOOD);
    append_fenced(log, append(), Fence(5)).await.expect(GOOD);
    let stale = append_fenced(log, append(), Fence(3)).await;
    assert!(matches!(stale, Err(LogError::StaleFence { fence: 3, newest: 5 })), "{stale:?}");
    let elsewhere = Append::new("other", "x");
    append_fenced(log, elsewhere, Fence(1)).await.expect(GOOD);
    append_fenced(log, append(), Fence(5)).await.expect(GOOD);
}
