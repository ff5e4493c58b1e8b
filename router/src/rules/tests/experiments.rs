//! Variants that were taken back, units that are compared, and what scripts decide.

use serde_json::{Value, json};

use super::*;

fn overlay(rule: &str, variant: &str) -> Overlay {
    let taken = RollBack { at_ms: 1, why: "slow".into() };
    let variants = [(variant.to_owned(), taken)].into();
    Overlay { rolled_back: [(rule.to_owned(), variants)].into(), ..Overlay::default() }
}

fn set(rule: Value, overlay: Overlay) -> RuleSet {
    RuleSet::parse(&json!({ "rule": [rule] }), overlay).unwrap()
}

/// The variant that a unit gets, and why.
fn given(set: &RuleSet, unit: &str) -> Option<(String, Reason)> {
    let decision = Sent::get("/").unit(unit).decide(set);
    let assigned = decision.assigned.first()?;
    Some((set.rules()[0].variants()[assigned.variant].name().to_owned(), assigned.reason))
}

#[test]
fn units_of_a_variant_that_was_taken_back_get_the_control() {
    let variants = json!([{ "name": "a" }, { "name": "b" }, { "name": "c" }]);
    let rule = json!({ "name": "r", "control": "c", "variants": variants });
    let before = set(rule.clone(), Overlay::default());
    let after = set(rule.clone(), overlay("r", "b"));
    for unit in (0..200).map(|unit| unit.to_string()) {
        let (was, _) = given(&before, &unit).unwrap();
        let expected = match was.as_str() {
            "b" => ("c".to_owned(), Reason::RolledBack),
            _ => (was, Reason::Split),
        };
        assert_eq!(given(&after, &unit), Some(expected), "{unit}");
    }
    // It stays so with other weights, and at the end of a ramp.
    let next = json!({ "rule": [{ "name": "r", "control": "c", "variants": variants, "ramp": [
        { "at": "2020-01-01T00:00:00Z", "weights": { "b": 1 } },
    ] }] });
    let kept = after.overlay_of_next(&next, 5).unwrap();
    assert_eq!(kept.rolled_back, after.overlay().rolled_back);
    let after = RuleSet::parse(&next, kept).unwrap();
    assert_eq!(given(&after, "1"), Some(("c".to_owned(), Reason::RolledBack)));
}

#[test]
fn units_of_an_only_variant_that_was_taken_back_get_nothing() {
    let rule = json!({ "name": "r", "percent": 50 });
    let before = set(rule.clone(), Overlay::default());
    assert!(before.rules()[0].compares_with_nobody());
    let taken = (0..100).map(|unit| unit.to_string()).find(|unit| given(&before, unit).is_some());
    assert_eq!(given(&set(rule, overlay("r", "on")), &taken.unwrap()), None);
    let left = (0..100).map(|unit| unit.to_string()).find(|unit| given(&before, unit).is_none());
    let decision = Sent::get("/").unit(&left.unwrap()).decide(&before);
    assert_eq!(decision.left_out.len(), 1);
}

#[test]
fn units_are_known_where_rules_do_not_hold_and_none_is_made() {
    let variants = json!([{ "name": "a" }, { "name": "b" }]);
    let rule = json!({ "name": "r", "when": { "path": "/nowhere" }, "unit": { "header": "x-user" }, "variants": variants });
    let set = set(rule, Overlay::default());
    for (sent, expected) in [
        (vec![("x-user", "ada")], Some("ada")),
        (vec![("cookie", "atoll_id=7")], Some("7")),
        (vec![], None),
    ] {
        let request =
            sent.iter().fold(Sent::get("/"), |request, (name, value)| request.header(name, value));
        let decision = request.decide(&set);
        assert_eq!(set.unit_of(&decision, 0), expected.map(unit_hash));
        assert_eq!(decision.fresh_unit, None);
    }
}

#[test]
fn guardrails_are_refused_with_what_is_wrong() {
    let problem = |guardrail: Value| {
        let document = json!({ "rule": [{ "name": "r", "guardrail": guardrail }] });
        RuleSet::parse(&document, Overlay::default()).err().map(|error| error.to_string())
    };
    assert_eq!(problem(json!({ "error_rate": 1, "p99_ms": 50, "requests": 100 })), None);
    let missing = problem(json!({ "requests": 100 })).unwrap();
    assert!(missing.starts_with("rule[0].guardrail: a guardrail needs `error_rate`"), "{missing}");
    let few = problem(json!({ "error_rate": 1, "requests": 3 })).unwrap();
    assert!(few.contains("a number from 20 to"), "{few}");
    let control = json!({ "rule": [{ "name": "r", "control": "b" }] });
    let control = RuleSet::parse(&control, Overlay::default()).unwrap_err().to_string();
    assert!(control.contains("unknown variant \"b\""), "{control}");
}

#[test]
fn a_scripts_decision_is_a_variant() {
    let decision = json!({ "variant": "gold", "redirect": "https://{host}/gold{query}", "variables": { "a": 1 } });
    let scripted = Scripted::parse(&decision).unwrap();
    let path = Sent::get("/x?q=1").visit(|visit| scripted.path(visit));
    let Some(PathEffect::Redirect { location, .. }) = path else { panic!("{path:?}") };
    assert_eq!(location, "https://shop.example/gold?q=1");
    assert_eq!(
        scripted.details(),
        json!({ "value": "gold", "variant": "gold", "reason": "TARGETING_MATCH" })
    );
    assert_eq!(Scripted::parse(&json!({})).unwrap().variant(), "on");
    for (wrong, expected) in [
        (json!(false), "expected a table, found false"),
        (json!({ "varient": "b" }), "varient: unknown key \"varient\": did you mean \"variant\"?"),
        (json!({ "worker": "a", "version": "b" }), "a variant has `version` or `worker`, not both"),
        (json!({ "response_headers": { "content-length": "1" } }), "this header is the node's own"),
    ] {
        let error = Scripted::parse(&wrong).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
