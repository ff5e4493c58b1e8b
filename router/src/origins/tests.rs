//! Steering and health against tables and a few properties.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NOW: Duration = Duration::from_secs(1);

fn pool(steering: &str, origins: Value) -> OriginPool {
    let pool: OriginPool = serde_json::from_value(json!({
        "host": "api.example.com", "steering": steering, "origins": origins,
    }))
    .unwrap();
    check_pools(std::slice::from_ref(&pool)).unwrap();
    pool
}

fn three(steering: &str) -> OriginPool {
    pool(
        steering,
        json!([
            { "address": "https://192.0.2.1", "weight": 1 },
            { "address": "https://192.0.2.2", "weight": 2 },
            { "address": "https://192.0.2.3", "weight": 7 },
        ]),
    )
}

/// Numbers that look random and are the same each time.
fn draws(mut seed: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    }
}

/// How often each origin is chosen when requests end at once.
fn shares(pool: &OriginPool, state: &mut PoolState, requests: usize) -> Vec<usize> {
    let mut draw = draws(7);
    let mut counts = vec![0; pool.origins.len()];
    for _ in 0..requests {
        let at = state.begin(pool, &Vantage::default(), &[], NOW, &mut draw).unwrap();
        state.ended(at);
        counts[at] += 1;
    }
    counts
}

fn eject(pool: &OriginPool, state: &mut PoolState, at: usize) {
    let changes: Vec<_> = (0..pool.failures).map(|_| state.failed(pool, at, NOW)).collect();
    assert_eq!(changes.last(), Some(&Some(Change::Ejected(Duration::from_secs(1)))));
}

#[test]
fn failover_takes_the_first_that_is_up() {
    let pool = three("failover");
    let mut state = PoolState::new(&pool);
    let begin = |state: &mut PoolState, tried: &[usize], now| {
        state.begin(&pool, &Vantage::default(), tried, now, |_| unreachable!("nothing to draw"))
    };
    assert_eq!(begin(&mut state, &[], NOW), Some(0));
    assert_eq!(begin(&mut state, &[0], NOW), Some(1));
    eject(&pool, &mut state, 0);
    assert_eq!(begin(&mut state, &[], NOW), Some(1));
    eject(&pool, &mut state, 1);
    assert_eq!(begin(&mut state, &[], NOW), Some(2));
    assert_eq!(begin(&mut state, &[2], NOW), Some(0), "the last resort");
    assert_eq!(begin(&mut state, &[0, 1, 2], NOW), None);
    eject(&pool, &mut state, 2);
    assert_eq!(begin(&mut state, &[], NOW), Some(0), "when all are out, all are used");
    assert_eq!(begin(&mut state, &[], NOW + Duration::from_secs(1)), Some(0), "it is back");
}

#[test]
fn weights_are_kept_also_among_those_that_are_left() {
    let pool = three("weighted");
    let mut state = PoolState::new(&pool);
    let counts = shares(&pool, &mut state, 10_000);
    for (count, expected) in counts.iter().zip([1_000, 2_000, 7_000]) {
        assert!(count.abs_diff(expected) < 200, "{counts:?}");
    }
    eject(&pool, &mut state, 2);
    let counts = shares(&pool, &mut state, 9_000);
    assert!(counts[0].abs_diff(3_000) < 200 && counts[2] == 0, "{counts:?}");
}

#[test]
fn the_least_busy_for_its_weight_is_taken() {
    let pool = three("least-outstanding");
    let (mut state, mut draw) = (PoolState::new(&pool), draws(3));
    let mut under_way = [0; 3];
    for _ in 0..100 {
        let at = state.begin(&pool, &Vantage::default(), &[], NOW, &mut draw).unwrap();
        under_way[at] += 1;
    }
    assert_eq!(under_way, [10, 20, 70]);
    (0..5).for_each(|_| state.ended(0));
    for _ in 0..5 {
        assert_eq!(state.begin(&pool, &Vantage::default(), &[], NOW, &mut draw), Some(0));
    }
}

#[test]
fn the_fast_get_most_and_the_slow_enough_to_be_known() {
    let pool = three("latency");
    let mut state = PoolState::new(&pool);
    let first = shares(&pool, &mut state, 30);
    assert!(first.iter().all(|count| *count > 0), "the unknown are tried: {first:?}");
    for (at, ms) in [(0, 80), (1, 20), (2, 22)] {
        state.answered(at, Duration::from_millis(ms));
    }
    let counts = shares(&pool, &mut state, 3_000);
    assert!((20..200).contains(&counts[0]), "{counts:?}");
    assert!(counts[1] > 2_700, "{counts:?}");
    let busy = state.begin(&pool, &Vantage::default(), &[0, 2], NOW, draws(1));
    let counts = shares(&pool, &mut state, 3_000);
    assert!(
        busy == Some(1) && counts[2] > 2_700,
        "of two that are as good the idle one: {counts:?}"
    );
    for _ in 0..40 {
        state.answered(0, Duration::from_millis(5));
    }
    let counts = shares(&pool, &mut state, 3_000);
    assert!(counts[0] > 2_700, "{counts:?}");
}

#[test]
fn places_decide_by_country_continent_and_region() {
    let pool = pool(
        "geo",
        json!([
            { "address": "http://us", "regions": ["us"] },
            { "address": "http://rest" },
            { "address": "http://eu", "continents": ["eu"] },
            { "address": "http://de", "countries": ["DE", "AT"], "regions": ["us"] },
        ]),
    );
    let mut state = PoolState::new(&pool);
    let mut check = |country, continent, region, tried: &[usize], expected| {
        let vantage = Vantage { country, continent, region };
        let found = state.begin(&pool, &vantage, tried, NOW, |_| 0).unwrap();
        assert_eq!(found, expected, "{vantage:?} without {tried:?}");
    };
    check(Some("DE"), Some("EU"), Some("us"), &[], 3);
    check(Some("DE"), Some("EU"), Some("us"), &[3], 2);
    check(Some("FR"), Some("EU"), None, &[], 2);
    check(Some("CA"), Some("NA"), Some("us"), &[], 0);
    check(None, None, Some("asia"), &[], 1);
    check(None, None, None, &[1], 0);
}

#[test]
fn checks_take_an_origin_out_and_bring_it_back() {
    let pool = three("failover");
    let health: HealthCheck =
        serde_json::from_value(json!({ "unhealthy": 3, "healthy": 2 })).unwrap();
    let mut state = PoolState::new(&pool);
    let check = |state: &mut PoolState, outcomes: &str, expected: Option<Change>| {
        let last = outcomes.chars().fold(None, |_, outcome| {
            let outcome = if outcome == '+' { CheckOutcome::Passed } else { CheckOutcome::Failed };
            state.checked(&health, 0, outcome)
        });
        assert_eq!(last, expected, "{outcomes}");
    };
    check(&mut state, "--+--", None);
    check(&mut state, "-", Some(Change::Ill));
    assert_eq!(state.begin(&pool, &Vantage::default(), &[], NOW, |_| 0), Some(1));
    check(&mut state, "-+-+", None);
    check(&mut state, "+", Some(Change::Well));
    assert_eq!(state.begin(&pool, &Vantage::default(), &[], NOW, |_| 0), Some(0));
    check(&mut state, "---", Some(Change::Ill));
    state.forget_checks();
    assert_eq!(state.begin(&pool, &Vantage::default(), &[], NOW, |_| 0), Some(0));
}

#[test]
fn a_pool_is_for_its_host_and_port() {
    let check = |host: &str, url: (&str, &str, Option<u16>), expected| {
        let pool = OriginPool { host: host.to_owned(), ..three("failover") };
        assert_eq!(pool.is_for(url.0, url.1, url.2), expected, "{host} {url:?}");
    };
    check("api.example.com", ("https", "api.example.com", None), true);
    check("API.example.com", ("http", "api.example.com.", Some(80)), true);
    check("api.example.com", ("http", "api.example.com", Some(443)), false);
    check("api.example.com:8443", ("https", "api.example.com", Some(8443)), true);
    check("api.example.com:8443", ("https", "api.example.com", None), false);
    check("api.example.com:443", ("https", "api.example.com", None), true);
    check("example.com", ("https", "api.example.com", None), false);
    check("[2001:db8::1]:8080", ("http", "[2001:db8::1]", Some(8080)), true);
}

#[test]
fn what_cannot_be_acted_upon_is_refused_in_words() {
    let check = |change: fn(&mut OriginPool), expected: &str| {
        let mut pool = three("failover");
        pool.health = Some(serde_json::from_value(json!({})).unwrap());
        change(&mut pool);
        let told = check_pools(&[pool]).unwrap_err().to_string();
        assert!(told.contains(expected), "{told}");
    };
    let origin =
        |pool: &mut OriginPool, address: &str| pool.origins[1].address = address.to_owned();
    check(|pool| pool.host = "https://a.b".to_owned(), "host is none");
    check(|pool| pool.host = "*.a.b".to_owned(), "host is none");
    check(|pool| pool.host = "a@b".to_owned(), "host is none");
    check(|pool| pool.origins.clear(), "it has 0 origins: write 1 to 16");
    check(|pool| pool.origins = vec![pool.origins[0].clone(); 17], "it has 17 origins");
    for address in
        ["10.0.0.1", "ftp://a", "http://a/path", "http://u@a", "http://a?b", "http://a:0"]
    {
        let mut pool = three("failover");
        origin(&mut pool, address);
        let told = check_pools(&[pool]).unwrap_err().to_string();
        let expected = format!("pool \"api.example.com\": origin {address:?}: address is none");
        assert!(told.starts_with(&expected), "{told}");
    }
    check(|pool| pool.origins[0].weight = 0, "weight is 0: it is 1 to 1000");
    check(|pool| pool.origins[0].countries = vec!["DEU".to_owned()], "\"DEU\" is not a code");
    check(|pool| pool.origins[0].host_header = Some("a b".to_owned()), "host_header is no host");
    check(|pool| pool.failures = 0, "failures is 0");
    for (wrong, expected) in [
        (json!({ "interval_s": 1 }), "health: interval_s is 1: it is 5 to 3600"),
        (json!({ "path": "x" }), "health: path is none"),
        (json!({ "path": "http://a.b/" }), "health: path is none"),
        (json!({ "status": [99] }), "health: status has at most"),
        (json!({ "timeout_ms": 60_000 }), "health: timeout_ms is 60000"),
    ] {
        let mut pool = three("failover");
        pool.health = Some(serde_json::from_value(wrong).unwrap());
        let told = check_pools(&[pool]).unwrap_err().to_string();
        assert!(told.contains(expected), "{told}");
    }
    let twice = check_pools(&[three("failover"), three("weighted")]).unwrap_err().to_string();
    assert_eq!(twice, "pool \"api.example.com\": its host has a pool already");
    let many: Vec<_> = (0..=POOLS_MAX)
        .map(|n| OriginPool { host: format!("h{n}"), ..three("failover") })
        .collect();
    assert_eq!(check_pools(&many).unwrap_err().to_string(), "a worker has at most 8 pools");
}

proptest! {
    /// Whatever happened, an attempt goes to an untried origin, and to one that is up while there is one.
    #[test]
    fn attempts_go_where_they_may(
        steering in prop::sample::select(vec!["failover", "weighted", "geo", "least-outstanding", "latency"]),
        out in prop::collection::vec(any::<bool>(), 3),
        tried in prop::collection::vec(0_usize..3, 0..3),
        times in prop::collection::vec(prop::option::of(1_u64..1_000_000), 3),
        seed: u64,
    ) {
        let pool = three(steering);
        let mut state = PoolState::new(&pool);
        for at in 0..3 {
            if let Some(us) = times[at] {
                state.answered(at, Duration::from_micros(us));
            }
            if out[at] {
                eject(&pool, &mut state, at);
            }
        }
        let found = state.begin(&pool, &Vantage::default(), &tried, NOW, draws(seed));
        let untried: Vec<usize> = (0..3).filter(|at| !tried.contains(at)).collect();
        match found {
            None => prop_assert!(untried.is_empty()),
            Some(at) => {
                prop_assert!(untried.contains(&at));
                prop_assert!(!out[at] || untried.iter().all(|at| out[*at]));
            }
        }
    }
}
