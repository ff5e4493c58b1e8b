//! Buckets are uniform, and what has different seeds is independent. Units are fixed, so nothing here is left to
//! chance: a hash that is not good enough fails every time.

use super::*;

const UNITS: u32 = 200_000;

/// The chi-square statistic of counts against what is expected of them.
fn chi_square(counts: &[u32], expected: &[f64]) -> f64 {
    let terms = counts.iter().zip(expected).map(|(count, expected)| {
        let off = f64::from(*count) - expected;
        off * off / expected
    });
    terms.sum()
}

/// What a chi-square statistic exceeds once in 10,000 times (Wilson and Hilferty, 1931).
fn critical(degrees: usize) -> f64 {
    let (k, z) = (degrees as f64, 3.719);
    k * (1.0 - 2.0 / (9.0 * k) + z * (2.0 / (9.0 * k)).sqrt()).powi(3)
}

fn check_uniform(counts: &[u32], what: &str) {
    let sum: u32 = counts.iter().sum();
    let expected = vec![f64::from(sum) / counts.len() as f64; counts.len()];
    let (found, most) = (chi_square(counts, &expected), critical(counts.len() - 1));
    assert!(found < most, "{what}: {found} is not below {most}");
}

/// Ids that are alike, as counters and mails are, and ids as the node makes them.
fn unit(kind: &str, number: u32) -> String {
    match kind {
        "counter" => number.to_string(),
        "mail" => format!("user{number}@mail.example"),
        _ => format!(
            "{:032x}",
            u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
        ),
    }
}

#[test]
fn buckets_are_uniform() {
    for kind in ["counter", "mail", "id"] {
        for seed in ["checkout", "layer.main", "a", "holdout.a-rather-long-name-of-a-holdout"] {
            let mut counts = vec![0; 1_000];
            for number in 0..UNITS {
                counts[usize::from(bucket(seed, &unit(kind, number)) / 10)] += 1;
            }
            check_uniform(&counts, &format!("{seed} {kind}"));
        }
    }
}

#[test]
fn seeds_are_independent() {
    for kind in ["counter", "mail", "id"] {
        for (left, right) in
            [("layer.a", "layer.b"), ("test-1", "test-2"), ("x", "layer.x"), ("x", "x.when")]
        {
            let mut counts = vec![0; 400];
            for number in 0..UNITS {
                let unit = unit(kind, number);
                let cell = |seed| usize::from(bucket(seed, &unit)) / 500;
                counts[cell(left) * 20 + cell(right)] += 1;
            }
            check_uniform(&counts, &format!("{left} and {right}, {kind}"));
        }
    }
}

#[test]
fn variants_have_their_weights_in_every_layer() {
    let variants = json!([
        { "name": "a", "weight": 50 }, { "name": "b", "weight": 30 }, { "name": "c", "weight": 20 },
    ]);
    let set = rules(json!({ "rule": [
        { "name": "one", "layer": "1", "variants": variants },
        { "name": "two", "layer": "2", "variants": variants },
    ] }));
    const VISITS: u32 = 20_000;
    let mut counts = [0; 9];
    for number in 0..VISITS {
        let decision = Sent::get("/").unit(&unit("id", number)).decide(&set);
        counts[decision.assigned[0].variant * 3 + decision.assigned[1].variant] += 1;
    }
    let weights = [0.5, 0.3, 0.2];
    let expected: Vec<f64> =
        weights.iter().flat_map(|l| weights.map(|r| l * r * f64::from(VISITS))).collect();
    let found = chi_square(&counts, &expected);
    assert!(found < critical(8), "{counts:?} has {found}");
}

#[test]
fn ranges_of_a_layer_exclude_one_another() {
    let set = rules(json!({ "rule": [
        { "name": "one", "range": [0, 30] }, { "name": "two", "range": [30, 60] }, { "name": "rest", "range": [60, 100] },
    ] }));
    let mut counts = [0; 3];
    for number in 0..20_000 {
        let decision = Sent::get("/").unit(&unit("counter", number)).decide(&set);
        assert_eq!(decision.assigned.len(), 1);
        counts[decision.assigned[0].rule] += 1;
    }
    assert!(chi_square(&counts, &[6_000.0, 6_000.0, 8_000.0]) < critical(2), "{counts:?}");
}
