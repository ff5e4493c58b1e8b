//! Who keeps a variant when a document changes.

use super::*;

/// A rule with three variants of these weights.
fn weighted(weights: [f64; 3], percent: f64) -> Value {
    let variants: Vec<_> = ["a", "b", "c"]
        .iter()
        .zip(weights)
        .map(|(name, weight)| json!({ "name": name, "weight": weight }))
        .collect();
    json!({ "rule": [{ "name": "r", "percent": percent, "variants": variants }] })
}

/// What 2,000 units get.
fn all(rules: &RuleSet) -> Vec<String> {
    (0..2_000).map(|unit| Sent::get("/").unit(&format!("unit-{unit}")).given(rules)).collect()
}

fn next(rules: &RuleSet, document: &Value) -> RuleSet {
    let overlay = rules.overlay_of_next(document, NOW_MS).unwrap();
    RuleSet::parse(document, overlay).unwrap()
}

#[test]
fn a_unit_keeps_its_variant_when_the_weights_of_others_change() {
    let before = rules(weighted([50.0, 30.0, 20.0], 100.0));
    let after = next(&before, &weighted([35.0, 45.0, 20.0], 100.0));
    let mut moved = 0;
    for (was, is) in all(&before).iter().zip(&all(&after)) {
        moved += u32::from(was != is);
        assert!(was == is || (was == "r=a" && is == "r=b"), "{was} became {is}");
    }
    // 15 of 100 are to move, and no more do.
    assert!((230..370).contains(&moved), "{moved} of 2,000 moved");
}

#[test]
fn a_growing_percentage_adds_units_and_moves_none() {
    let mut before = rules(weighted([1.0, 1.0, 2.0], 10.0));
    for percent in [20.0, 50.0, 100.0] {
        let after = next(&before, &weighted([1.0, 1.0, 2.0], percent));
        for (was, is) in all(&before).iter().zip(&all(&after)) {
            assert!(was.is_empty() || was == is, "{was} became {is}");
        }
        before = after;
    }
}

#[test]
fn a_variant_that_goes_moves_its_units_alone() {
    let before = rules(weighted([50.0, 30.0, 20.0], 100.0));
    let two = json!({ "rule": [{ "name": "r", "variants": [
        { "name": "c", "weight": 40 }, { "name": "a", "weight": 60 },
    ] }] });
    for (was, is) in all(&before).iter().zip(&all(&next(&before, &two))) {
        assert!(was == is || was == "r=b", "{was} became {is}");
    }
}

#[test]
fn a_new_seed_draws_anew() {
    let before = rules(weighted([1.0, 1.0, 1.0], 100.0));
    let mut document = weighted([1.0, 1.0, 1.0], 100.0);
    document["rule"][0]["seed"] = json!("r2");
    let after = next(&before, &document);
    let stayed = all(&before).iter().zip(&all(&after)).filter(|(was, is)| was == is).count();
    assert!((500..840).contains(&stayed), "{stayed} of 2,000 stayed");
    assert!(after.overlay().history.is_empty());
}

#[test]
fn a_document_that_says_the_same_changes_nothing() {
    let document = json!({ "rule": [
        { "name": "ramp", "ramp": [
            { "at": "2026-11-26T13:00:00Z", "percent": 0 }, { "at": "2026-11-26T15:00:00Z", "percent": 100 },
        ] },
    ] });
    let before = rules(document.clone());
    let again = next(&before, &document);
    assert_eq!(again.overlay(), &Overlay::default());
    // Half of the way is done, and what is changed now goes on from there.
    let mut slower = document;
    slower["rule"][0]["ramp"][1]["at"] = json!("2026-11-26T23:00:00Z");
    let after = next(&before, &slower);
    assert_eq!(after.overlay().history["ramp"].as_of_ms, NOW_MS);
    assert_eq!(before.rules()[0].buckets(NOW_MS), [5_000]);
    assert_eq!(after.rules()[0].buckets(NOW_MS), [1_000]);
}

#[test]
fn what_was_switched_off_stays_off() {
    let document = weighted([1.0, 1.0, 1.0], 100.0);
    let overlay = Overlay { switched_off: ["r".to_owned()].into(), ..Overlay::default() };
    let off = RuleSet::parse(&document, overlay).unwrap();
    assert_eq!(off.rules()[0].state(), State::SwitchedOff);
    assert_eq!(Sent::get("/").given(&off), "");
    assert_eq!(next(&off, &document).rules()[0].state(), State::SwitchedOff);
    let json = serde_json::to_value(off.overlay()).unwrap();
    assert_eq!(serde_json::from_value::<Overlay>(json).unwrap(), *off.overlay());
}

#[test]
fn a_history_that_makes_no_sense_is_passed_over() {
    let buckets = [("a".to_owned(), vec![(0, 6_000)]), ("b".to_owned(), vec![(5_000, 9_000)])];
    let history = RuleHistory { as_of_ms: 0, buckets: buckets.into() };
    let overlay = Overlay { history: [("r".to_owned(), history)].into(), ..Overlay::default() };
    let document = weighted([1.0, 1.0, 1.0], 100.0);
    let odd = RuleSet::parse(&document, overlay).unwrap();
    assert!(all(&odd) == all(&rules(document)));
}
