//! What GrowthBook's rules mean, as far as ours can say the same: conditions over attributes (here the query's
//! parameters), weights, coverage, namespaces and prerequisites. docs/rules.md says what differs.

use super::*;

/// Our form of a condition, what the client sends, and what GrowthBook says of the same.
fn check(ours: Value, query: &str, expected: bool) {
    let sent = Sent::get(&format!("/?{query}"));
    assert_eq!(!sent.given(&when(ours.clone())).is_empty(), expected, "{ours} for {query}");
}

#[test]
fn conditions() {
    let query = |tests: Value| json!({ "query": tests });
    for (ours, sent, expected) in [
        // {"$not": {"name": "hello"}}
        (json!({ "not": { "query": { "name": "hello" } } }), "name=world", true),
        (json!({ "not": { "query": { "name": "hello" } } }), "name=hello", false),
        // {"occupation": {"$eq": …}}, {"level": {"$ne": …}}; what is absent is not equal
        (query(json!({ "occupation": { "eq": "engineer" } })), "occupation=civil+engineer", false),
        (json!({ "not": { "query": { "level": "senior" } } }), "level=junior", true),
        (json!({ "not": { "query": { "level": "senior" } } }), "", true),
        // {"$exists": …}
        (query(json!({ "dog": { "exists": false } })), "hello=world", true),
        (query(json!({ "dog": { "exists": true } })), "dog=fido", true),
        (query(json!({ "dog": { "exists": true } })), "hello=world", false),
        // {"$in": […]}, {"$nin": […]}
        (query(json!({ "num": ["1", "2", "3"] })), "num=2", true),
        (query(json!({ "num": { "in": ["1", "2", "3"] } })), "num=4", false),
        (json!({ "not": { "query": { "num": ["1", "2"] } } }), "num=2", false),
        (query(json!({ "num": [] })), "num=1", false),
        // {"$gt": …, "$lt": …}, also of texts that are numbers
        (query(json!({ "age": { "gt": 30, "lt": 60 } })), "age=50", true),
        (query(json!({ "age": { "gt": 30, "lt": 60 } })), "age=30", false),
        (query(json!({ "age": { "gte": 30, "lte": 60 } })), "age=60", true),
        (query(json!({ "age": { "gte": 30, "lte": 60 } })), "age=61", false),
        // {"$regex": …} finds its pattern anywhere
        (
            query(json!({ "ua": { "matches": "(Mobile|Tablet)" } })),
            "ua=Android+Mobile+Browser",
            true,
        ),
        (query(json!({ "ua": { "matches": "(Mobile|Tablet)" } })), "ua=Chrome+Desktop", false),
        // {"$and": […]}, {"$or": […]}, {"$nor": […]}, {}
        (
            json!({ "all": [{ "query": { "a": "1" } }, { "query": { "b": "2" } }] }),
            "a=1&b=3",
            false,
        ),
        (json!({ "any": [{ "query": { "a": "1" } }, { "query": { "b": "2" } }] }), "a=1&b=3", true),
        (
            json!({ "not": { "any": [{ "query": { "a": "1" } }, { "query": { "b": "2" } }] } }),
            "b=2",
            false,
        ),
        (json!({ "all": [] }), "hello=world", true),
        (json!({}), "hello=world", true),
    ] {
        check(ours, sent, expected);
    }
}

/// The share of 4,000 units that get each variant, in percent; those without one last.
fn shares(rule: Value) -> Vec<f64> {
    let set = rules(json!({ "rule": [rule] }));
    let count = set.rules()[0].variants().len();
    let mut counts = vec![0.0; count + 1];
    for unit in 0..4_000 {
        let decision = Sent::get("/").unit(&unit.to_string()).decide(&set);
        counts[decision.assigned.first().map_or(count, |assigned| assigned.variant)] += 1.0 / 40.0;
    }
    counts
}

#[test]
fn weights_and_coverage() {
    let two = |a: f64, b: f64| json!([{ "name": "a", "weight": a }, { "name": "b", "weight": b }]);
    for (rule, expected) in [
        // {"variations": […]}: equal weights
        (
            json!({ "name": "r", "variants": [{ "name": "a" }, { "name": "b" }, { "name": "c" }] }),
            vec![33.3, 33.3, 33.3, 0.0],
        ),
        // {"weights": [0.4, 0.6]}
        (json!({ "name": "r", "variants": two(0.4, 0.6) }), vec![40.0, 60.0, 0.0]),
        // {"weights": [0.1, 0.9], "coverage": 0.5}
        (json!({ "name": "r", "percent": 50, "variants": two(0.1, 0.9) }), vec![5.0, 45.0, 50.0]),
        // {"force": true, "coverage": 0.1}
        (json!({ "name": "r", "percent": 10 }), vec![10.0, 90.0]),
        // {"coverage": 0}
        (json!({ "name": "r", "percent": 0, "variants": two(1.0, 1.0) }), vec![0.0, 0.0, 100.0]),
        // {"weights": [0, 1]}
        (json!({ "name": "r", "variants": two(0.0, 1.0) }), vec![0.0, 100.0, 0.0]),
        // {"namespace": ["pricing", 0, 0.6]}
        (json!({ "name": "r", "layer": "pricing", "range": [0, 60] }), vec![60.0, 40.0]),
    ] {
        for (found, expected) in shares(rule.clone()).iter().zip(&expected) {
            assert!((found - expected).abs() < 2.5, "{rule}: {found} is not {expected}");
        }
    }
}

/// {"hashAttribute": "company"} groups units; without the attribute GrowthBook skips the rule, and we go on with
/// the automatic id.
#[test]
fn units_that_are_groups_get_the_same() {
    let set = rules(json!({ "unit": { "header": "x-company" }, "rule": [
        { "name": "r", "variants": [{ "name": "a" }, { "name": "b" }] },
    ] }));
    let of =
        |company: &str, id: &str| Sent::get("/").header("x-company", company).unit(id).given(&set);
    assert!((0..50).all(|n| of("acme", &n.to_string()) == of("acme", "x")));
    assert!((0..50).any(|n| of(&n.to_string(), "x") != of("acme", "x")));
}

/// {"parentConditions": [{"id": "parent", "condition": {"value": "on"}}]}
#[test]
fn prerequisites() {
    let set = rules(json!({ "rule": [
        { "name": "parent", "layer": "first", "when": { "country": "DE" } },
        { "name": "child", "requires": { "parent": "on" }, "variants": [{ "name": "a" }] },
        { "name": "rest" },
    ] }));
    assert_eq!(Sent::get("/").country("DE").given(&set), "parent=on child=a");
    assert_eq!(Sent::get("/").country("FR").given(&set), "rest=on");
}

/// {"status": "stopped"}, {"active": false}, and a forced variation.
#[test]
fn what_is_stopped_and_what_is_forced() {
    let rule = |more: Value| {
        let mut rule = json!({ "name": "r", "variants": [{ "name": "a" }, { "name": "b" }] });
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rules(json!({ "rule": [rule] }))
    };
    assert_eq!(Sent::get("/").unit("1").given(&rule(json!({ "enabled": false }))), "");
    let open = rule(json!({ "preview": "open" }));
    for variant in ["a", "b"] {
        let asks = Sent::get(&format!("/?atoll-preview=r%3D{variant}")).unit("1");
        assert_eq!(asks.given(&open), format!("r={variant}"));
    }
}
