//! What an evaluation of rules costs: `cargo run --release -p atoll-router --example rule_figures`.
//!
//! Each line is one set of 100 rules against one request, with the median and the 99th percentile of batches.

#![allow(missing_docs, reason = "an example has no readers of its documentation")]

use std::hint::black_box;
use std::time::Instant;

use atoll_router::rules::{Overlay, RuleSet, Visit};
use atoll_router::{Place, Scheme};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};

const RULES: usize = 100;
const BATCH: u32 = 1_000;
const BATCHES: usize = 300;
/// Visitors of one page.
const VISITORS: u64 = 100_000;

fn main() {
    let last = |conditions: fn(usize) -> Value| {
        (0..RULES).map(move |n| json!({ "name": format!("r{n}"), "when": conditions(n) })).collect()
    };
    let sets: [(&str, Vec<Value>); 5] = [
        ("one layer, countries and paths, the last rule holds", last(|n| {
            let country = if n == RULES - 1 { "DE" } else { "US" };
            json!({ "country": country, "path": { "prefix": "/shop" } })
        })),
        ("one layer, a cookie, a header and a query each, none holds", last(|n| {
            json!({ "cookie": { format!("c{}", n % 10): "x" }, "header": { "x-plan": "gold" }, "query": { "utm": "x" } })
        })),
        ("one layer, a glob each, none holds", last(|n| {
            json!({ "path": { "glob": format!("/a{n}/*/c") } })
        })),
        ("one layer, a range of 1 % each", (0..RULES).map(|n| {
            json!({ "name": format!("r{n}"), "range": [n, n + 1], "variants": [{ "name": "a" }, { "name": "b" }] })
        }).collect()),
        ("a layer and a split for each rule, all decide", (0..RULES).map(|n| {
            json!({ "name": format!("r{n}"), "layer": format!("l{n}"), "variants": [{ "name": "a" }, { "name": "b" }] })
        }).collect()),
    ];
    let one = json!([{
        "name": "page",
        "when": { "path": { "prefix": "/" }, "not": { "device": "bot" } },
        "variants": [
            { "name": "a", "response_headers": { "x-variant": "a" } },
            { "name": "b", "response_headers": { "x-variant": "b" } },
        ],
    }]);
    let one = (
        "one rule alone: a path, a device and a split",
        one.as_array().cloned().unwrap_or_default(),
    );
    println!("{:<60} {:>10} {:>10}", "100 rules", "median ns", "p99 ns");
    for (name, rules) in sets.into_iter().chain([one]) {
        let set = RuleSet::parse(&json!({ "rule": rules }), Overlay::default());
        let set = set.unwrap_or_else(|error| panic!("{error}"));
        let (median, p99) = measure(&set);
        println!("{name:<60} {median:>10.0} {p99:>10.0}");
    }
    let (median, p99) = visitors();
    let name = format!("an A/B rule with its effects, {VISITORS} visitors in any order");
    println!("{name:<60} {median:>10.0} {p99:>10.0}");
}

/// Nanoseconds of one visit: what an A/B rule decides and what becomes of it, for visitors of a cookie each.
fn visitors() -> (f64, f64) {
    let document = json!({ "rule": [{
        "name": "page",
        "when": { "path": { "prefix": "/" } },
        "variants": [
            { "name": "a", "response_headers": { "x-variant": "a" } },
            { "name": "b", "response_headers": { "x-variant": "b" } },
        ],
    }] });
    let set = RuleSet::parse(&document, Overlay::default());
    let set = set.unwrap_or_else(|error| panic!("{error}"));
    let mut state = 1_u64;
    let mut batches: Vec<f64> = (0..BATCHES)
        .map(|_| {
            let headers: Vec<HeaderMap> = (0..BATCH)
                .map(|_| {
                    // Knuth's generator: far-off visitors follow one another.
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let visitor = (state >> 33) % VISITORS;
                    let cookie = HeaderValue::try_from(format!("atoll_id={visitor:032x}"));
                    let cookie = cookie.unwrap_or_else(|error| panic!("{error}"));
                    HeaderMap::from_iter([(http::header::COOKIE, cookie)])
                })
                .collect();
            let started = Instant::now();
            for headers in &headers {
                let visit = Visit {
                    scheme: Scheme::Http,
                    host: "shop.example",
                    method: &Method::GET,
                    path: "/",
                    query: None,
                    headers,
                    place: None,
                    now_ms: 1_795_701_600_000,
                    fresh_unit: &String::new,
                    trusted: false,
                };
                let decision = set.evaluate(black_box(&visit));
                let effects = set.effects(&decision);
                black_box((effects.picked(), set.path(&decision, &visit)));
                effects.request_headers(|change| drop(black_box(change.clone())));
                effects.response_headers(|change| drop(black_box(change.clone())));
                black_box(decision);
            }
            started.elapsed().as_nanos() as f64 / f64::from(BATCH)
        })
        .collect();
    batches.sort_by(f64::total_cmp);
    (batches[BATCHES / 2], batches[BATCHES * 99 / 100])
}

/// Nanoseconds of one evaluation.
fn measure(set: &RuleSet) -> (f64, f64) {
    let headers = headers();
    let place =
        Place { country: Some("DE".into()), continent: Some("EU".into()), ..Place::default() };
    let visit = Visit {
        scheme: Scheme::Https,
        host: "shop.example",
        method: &Method::GET,
        path: "/shop/shoes",
        query: Some("utm=newsletter&page=2"),
        headers: &headers,
        place: Some(&place),
        now_ms: 1_795_701_600_000,
        fresh_unit: &|| "00000000000000000000000000000000".to_owned(),
        trusted: false,
    };
    let mut batches: Vec<f64> = (0..BATCHES)
        .map(|_| {
            let started = Instant::now();
            for _ in 0..BATCH {
                black_box(set.evaluate(black_box(&visit)));
            }
            started.elapsed().as_nanos() as f64 / f64::from(BATCH)
        })
        .collect();
    batches.sort_by(f64::total_cmp);
    (batches[BATCHES / 2], batches[BATCHES * 99 / 100])
}

/// Those of an ordinary browser.
fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "shop.example"),
        (
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0",
        ),
        (
            "accept",
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
        ),
        ("accept-language", "de-AT,de;q=0.9,en;q=0.8"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        (
            "cookie",
            "session=8f14e45fceea167a5a36dedd4bea2543; theme=dark; atoll_id=b6c2a1f04d3e4c5f9a8b7c6d5e4f3a2b",
        ),
        ("x-plan", "silver"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}
