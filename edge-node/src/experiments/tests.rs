//! What is kept of experiments, and what is made of it.

use atoll_router::rules::{Overlay, RuleSet};
use serde_json::{Value, json};

use super::batch::{Batch, Seen, Served, Told};
use super::results::results;
use super::store::{Applied, Store, StoreLimits};
use crate::registry::{AccountId, WorkerName, WorkerRef};

fn worker() -> WorkerRef {
    WorkerRef { account: AccountId::new("a"), worker: WorkerName::new("w") }
}

fn seen(exposures: Vec<(u8, u64)>, outcomes: Vec<(u64, f64)>) -> Batch {
    let told = |(unit, sum)| Told { metric: "bought".into(), unit, sum, times: 1 };
    let seen = Seen {
        worker: worker(),
        rule: "page".into(),
        seed: "page".into(),
        variants: vec![("a".into(), 5_000), ("b".into(), 5_000)],
        exposures,
        outcomes: outcomes.into_iter().map(told).collect(),
        served: Vec::new(),
    };
    Batch { at_ms: 60_000_000, seen: vec![seen], dropped: 0 }
}

fn rules() -> RuleSet {
    let variants = json!([{ "name": "a" }, { "name": "b" }]);
    let document = json!({ "rule": [{ "name": "page", "variants": variants }] });
    RuleSet::parse(&document, Overlay::default()).unwrap()
}

fn shown(store: &Store) -> Value {
    let totals = store.totals(&worker()).unwrap();
    serde_json::to_value(&results(&rules(), &totals, 0)[0]).unwrap()
}

fn open(limits: StoreLimits) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("x.sqlite"), limits).unwrap();
    (dir, store)
}

#[test]
fn a_unit_counts_once_whoever_tells_it_and_over_restarts() {
    let (dir, store) = open(StoreLimits::default());
    for _ in 0..3 {
        store.apply(&seen(vec![(0, 1), (1, 2), (1, 3)], Vec::new()), None).unwrap();
    }
    // The unit 9 saw nothing; 1 sees another variant now.
    store.apply(&seen(vec![(1, 1)], vec![(1, 5.0), (2, 2.0), (2, 3.0), (9, 7.0)]), None).unwrap();
    let at = Applied { identity: "log".into(), sequence: 7 };
    store.apply(&seen(Vec::new(), vec![(3, 1.0)]), Some(&at)).unwrap();
    drop(store);
    let store = Store::open(&dir.path().join("x.sqlite"), StoreLimits::default()).unwrap();
    assert_eq!(store.position().unwrap(), Some(at));
    let shown = shown(&store);
    let variants = &shown["variants"];
    assert_eq!((&variants[0]["units"], &variants[1]["units"]), (&json!(1), &json!(2)));
    assert_eq!((&shown["moved"], &variants[0]["compared"]), (&json!(1), &json!(0)));
    let bought = &shown["metrics"][0]["variants"];
    assert_eq!((&bought[1]["converted"], &bought[1]["sum"]), (&json!(2), &json!(6.0)));
    assert_eq!((&bought[1]["mean"], &bought[0]["converted"]), (&json!(3.0), &json!(0)));
    // 5 and 1 differ by 4: a standard deviation of the square root of 8.
    assert!((bought[1]["deviation"].as_f64().unwrap() - 8.0_f64.sqrt()).abs() < 1e-9);
}

#[test]
fn of_too_many_units_a_fair_part_is_kept() {
    let limits = StoreLimits { units_max: 1_000, ..StoreLimits::default() };
    let (_dir, store) = open(limits);
    let hash = |unit: u64| atoll_router::rules::unit_hash(unit.to_string());
    for from in (0..10_000).step_by(500) {
        let exposures = (from..from + 500).map(|unit| (u8::from(unit % 4 == 0), hash(unit)));
        let outcomes = (from..from + 500).filter(|unit| unit % 8 == 0).map(|u| (hash(u), 2.0));
        store.apply(&seen(exposures.collect(), outcomes.collect()), None).unwrap();
    }
    let shown = shown(&store);
    assert_eq!(shown["sampled"], 0.0625);
    let units = shown["variants"][1]["units"].as_f64().unwrap();
    assert!((units - 2_500.0).abs() < 600.0, "{units}");
    let rate = shown["metrics"][0]["variants"][1]["conversion_rate"].as_f64().unwrap();
    assert!((rate - 0.5).abs() < 0.15, "{rate}");
    // A quarter is not a half.
    assert_eq!(shown["sample_ratio"]["mismatch"], true);
    let expected = shown["variants"][1]["expected_units"].as_f64().unwrap();
    assert!((expected - 5_000.0).abs() < 700.0, "{expected}");
}

#[test]
fn all_experiments_together_stay_within_bounds() {
    let limits = StoreLimits {
        experiments_max: 2,
        units_all_max: 100,
        metrics_max: 2,
        ..StoreLimits::default()
    };
    let (_dir, store) = open(limits);
    for (minute, rule) in ["first", "second", "third"].iter().enumerate() {
        let units = (0..60).map(|unit| (0, atoll_router::rules::unit_hash(unit.to_string())));
        let mut batch = seen(units.collect(), Vec::new());
        batch.seen[0].rule = (*rule).to_owned();
        batch.at_ms += minute as u64;
        store.apply(&batch, None).unwrap();
    }
    let totals = store.totals(&worker()).unwrap();
    let rules: Vec<_> = totals.iter().map(|totals| totals.rule.as_str()).collect();
    assert_eq!(rules, ["second", "third"]);
    assert!(totals.iter().any(|totals| totals.level > 0));
    let mut batch = seen(vec![(0, 0)], Vec::new());
    let told = |metric: &str| Told { metric: metric.into(), unit: 0, sum: 1.0, times: 1 };
    batch.seen[0].outcomes = ["x", "y", "z"].map(told).into();
    store.apply(&batch, None).unwrap();
    assert_eq!(store.dropped().unwrap(), 1);
}

#[test]
fn guardrails_see_whole_minutes_since_a_time() {
    let (_dir, store) = open(StoreLimits { minutes_max: 3, ..StoreLimits::default() });
    for minute in 0..10_u64 {
        let mut batch = seen(Vec::new(), Vec::new());
        batch.at_ms = 60_000 * (100 + minute);
        let served = Served { requests: 10, errors: minute, ..Served::default() };
        batch.seen[0].served = vec![(0, served)];
        store.apply(&batch, None).unwrap();
    }
    let since = |ms| {
        let served = store.served_since(&worker(), "page", "page", ms).unwrap();
        served.first().map(|(name, served)| (name.clone(), served.requests, served.errors))
    };
    assert_eq!(since(0), Some(("a".into(), 40, 6 + 7 + 8 + 9)));
    assert_eq!(since(60_000 * 107 + 1), Some(("a".into(), 20, 17)));
    assert_eq!(since(60_000 * 110), None);
    assert_eq!(store.totals(&worker()).unwrap()[0].variants[0].served.requests, 100);
}

#[test]
fn a_process_is_not_believed() {
    let there = |worker: &WorkerRef, rule: &str| worker.worker.as_str() == "w" && rule == "page";
    let check = |change: &dyn Fn(&mut Seen), expected: bool| {
        let mut batch = seen(vec![(0, 1)], vec![(1, 1.0)]);
        change(&mut batch.seen[0]);
        batch.retain_sound(there);
        assert_eq!(batch.seen.len() == 1, expected, "{batch:?}");
    };
    check(&|_| {}, true);
    check(&|seen| seen.rule = "other".into(), false);
    check(&|seen| seen.exposures = vec![(2, 1)], false);
    check(&|seen| seen.outcomes[0].sum = f64::NAN, false);
    check(&|seen| seen.outcomes[0].metric = "x".repeat(65), false);
    check(&|seen| seen.variants.push(("a".into(), 1)), false);
    let served = Served { requests: 1, errors: 2, ..Served::default() };
    check(&|seen| seen.served = vec![(0, served.clone())], false);
}

#[test]
fn records_hold_everything_in_parts() {
    let exposures: Vec<_> = (0..25).map(|unit| (0, unit)).collect();
    let outcomes: Vec<_> = (0..15).map(|unit| (unit, 1.0)).collect();
    let parts = Batch { dropped: 3, ..seen(exposures, outcomes) }.split(10);
    let count = |of: fn(&Seen) -> usize| parts.iter().map(|part| of(&part.seen[0])).sum::<usize>();
    assert_eq!((count(|s| s.exposures.len()), count(|s| s.outcomes.len())), (25, 15));
    assert_eq!((parts.len(), parts.iter().map(|part| part.dropped).sum::<u64>()), (5, 3));
}
