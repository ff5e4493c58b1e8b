//! What can be said of differences between variants. The distributions are those of the crate `statrs`.

use serde::Serialize;
use statrs::distribution::{ChiSquared, ContinuousCDF, Normal, StudentsT};

/// Intervals have the true difference in them in 95 of 100 experiments.
const CONFIDENCE: f64 = 0.95;

/// A difference to the control, with its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Difference {
    /// The variant's value less the control's.
    pub(crate) difference: f64,
    /// The lower end of the interval.
    pub(crate) low: f64,
    /// The upper end.
    pub(crate) high: f64,
    /// How often chance alone makes a difference as large.
    pub(crate) p: f64,
}

/// Some of many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Share {
    pub(super) some: f64,
    pub(super) of: f64,
}

/// What is known of a number that each unit has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) count: f64,
    pub(super) mean: f64,
    pub(super) variance: f64,
}

fn normal() -> Normal {
    Normal::new(0.0, 1.0).expect("the standard normal distribution is one")
}

impl Share {
    pub(super) fn rate(self) -> f64 {
        if self.of > 0.0 { self.some / self.of } else { 0.0 }
    }

    /// Wilson's score interval.
    fn interval(self) -> (f64, f64) {
        let (z, n, rate) =
            (normal().inverse_cdf(1.0 - (1.0 - CONFIDENCE) / 2.0), self.of, self.rate());
        let middle = rate + z * z / (2.0 * n);
        let reach = z * (rate * (1.0 - rate) / n + z * z / (4.0 * n * n)).sqrt();
        let scale = 1.0 + z * z / n;
        ((middle - reach) / scale, (middle + reach) / scale)
    }
}

/// The difference of two shares, with Newcombe's interval of two scores (Newcombe 1998, method 10), which holds near
/// 0 and 1 too, and the p of the pooled two-proportion test. None without units on both sides.
pub(super) fn shares(variant: Share, control: Share) -> Option<Difference> {
    if variant.of < 1.0 || control.of < 1.0 {
        return None;
    }
    let (of_variant, of_control) = (variant.rate(), control.rate());
    let difference = of_variant - of_control;
    let (variant_ends, control_ends) = (variant.interval(), control.interval());
    let below = (of_variant - variant_ends.0).hypot(control_ends.1 - of_control);
    let above = (variant_ends.1 - of_variant).hypot(of_control - control_ends.0);
    let pooled = (variant.some + control.some) / (variant.of + control.of);
    let error = (pooled * (1.0 - pooled) * (1.0 / variant.of + 1.0 / control.of)).sqrt();
    let p = if error > 0.0 { 2.0 * normal().cdf(-(difference / error).abs()) } else { 1.0 };
    Some(Difference { difference, low: difference - below, high: difference + above, p })
}

/// How likely a share is above another one if chance made the difference: the p of the one-sided pooled test.
pub(super) fn share_above(variant: Share, control: Share) -> f64 {
    match shares(variant, control) {
        Some(found) if found.difference > 0.0 => found.p / 2.0,
        _ => 1.0,
    }
}

/// The difference of two means by Welch's test. None where fewer than two units are on a side.
pub(super) fn means(variant: Sample, control: Sample) -> Option<Difference> {
    if variant.count < 2.0 || control.count < 2.0 {
        return None;
    }
    let difference = variant.mean - control.mean;
    let (of_variant, of_control) =
        (variant.variance / variant.count, control.variance / control.count);
    let error = (of_variant + of_control).sqrt();
    if error <= 0.0 {
        let p = if difference == 0.0 { 1.0 } else { 0.0 };
        return Some(Difference { difference, low: difference, high: difference, p });
    }
    // Welch and Satterthwaite's degrees of freedom.
    let freedom = (of_variant + of_control).powi(2)
        / (of_variant.powi(2) / (variant.count - 1.0) + of_control.powi(2) / (control.count - 1.0));
    let students = StudentsT::new(0.0, 1.0, freedom).ok()?;
    let reach = students.inverse_cdf(1.0 - (1.0 - CONFIDENCE) / 2.0) * error;
    let p = 2.0 * students.cdf(-(difference / error).abs());
    Some(Difference { difference, low: difference - reach, high: difference + reach, p })
}

/// How often chance alone departs as far from what is expected, by Pearson's chi-square test; expectations are
/// scaled to the counts. None where there is nothing to compare.
pub(super) fn chi_square(counts: &[f64], expected: &[f64]) -> Option<(f64, f64)> {
    let (all, of_expected) = (counts.iter().sum::<f64>(), expected.iter().sum::<f64>());
    let cells: Vec<_> = counts
        .iter()
        .zip(expected)
        .map(|(count, expected)| (*count, expected * all / of_expected))
        .filter(|(count, expected)| *expected > 0.0 || *count > 0.0)
        .collect();
    // The approximation wants five of each, as every textbook has it.
    if cells.len() < 2 || cells.iter().any(|(_, expected)| *expected < 5.0) {
        return None;
    }
    let statistic =
        cells.iter().map(|(count, expected)| (count - expected).powi(2) / expected).sum();
    let distribution = ChiSquared::new(cells.len() as f64 - 1.0).ok()?;
    Some((statistic, distribution.sf(statistic)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64, by: f64) {
        assert!((found - expected).abs() <= by, "{found} is not {expected}");
    }

    /// Newcombe (1998), table II: 56 of 70 against 48 of 80, 0 of 10 against 0 of 20, and 10 of 10 against 0 of 10,
    /// by method 10.
    #[test]
    fn shares_have_the_published_intervals() {
        for (variant, control, difference, low, high) in [
            ((56.0, 70.0), (48.0, 80.0), 0.2, 0.0524, 0.3339),
            ((9.0, 10.0), (3.0, 10.0), 0.6, 0.1705, 0.8090),
            ((5.0, 56.0), (0.0, 29.0), 0.0893, -0.0381, 0.1926),
            ((0.0, 10.0), (0.0, 20.0), 0.0, -0.1611, 0.2775),
            ((10.0, 10.0), (0.0, 20.0), 1.0, 0.6791, 1.0),
        ] {
            let share = |(some, of)| Share { some, of };
            let found = shares(share(variant), share(control)).unwrap();
            near(found.difference, difference, 5e-5);
            near(found.low, low, 5e-5);
            near(found.high, high, 5e-5);
        }
        assert_eq!(shares(Share { some: 0.0, of: 0.0 }, Share { some: 0.0, of: 9.0 }), None);
    }

    /// R's `t.test(extra ~ group, data = sleep)`, whose data are Student's (1908): t = -1.8608, df = 17.776,
    /// p-value = 0.07939, 95 percent confidence interval -3.3654832 to 0.2054832.
    #[test]
    fn means_have_the_published_interval() {
        let sample = |values: &[f64]| {
            let count = values.len() as f64;
            let mean = values.iter().sum::<f64>() / count;
            let variance =
                values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
            Sample { count, mean, variance }
        };
        let first = sample(&[0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]);
        let second = sample(&[1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]);
        let found = means(first, second).unwrap();
        near(found.difference, -1.58, 1e-9);
        near(found.low, -3.365_483_2, 1e-5);
        near(found.high, 0.205_483_2, 1e-5);
        near(found.p, 0.07939, 1e-5);
    }

    /// Mendel's peas (1866), 315, 101, 108 and 32 where 9:3:3:1 was expected: 0.470 of three degrees of freedom,
    /// p = 0.925, as textbooks have it. 10.828 is the 0.001 point of one degree.
    #[test]
    fn chi_square_has_the_published_values() {
        let (statistic, p) =
            chi_square(&[315.0, 101.0, 108.0, 32.0], &[9.0, 3.0, 3.0, 1.0]).unwrap();
        near(statistic, 0.470, 5e-4);
        near(p, 0.925, 5e-4);
        let distribution = ChiSquared::new(1.0).unwrap();
        near(distribution.sf(10.828), 0.001, 1e-6);
        assert_eq!(chi_square(&[4.0, 3.0], &[1.0, 1.0]), None);
        assert_eq!(chi_square(&[400.0], &[1.0]), None);
        // A variant without any share is not expected to be seen: that it was is no matter of chance.
        assert_eq!(chi_square(&[400.0, 1.0], &[1.0, 0.0]), None);
    }
}
