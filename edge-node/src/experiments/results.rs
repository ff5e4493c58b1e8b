//! What the totals of a worker's experiments say: shares against what was expected, and differences to the control.

use atoll_router::rules::{Rule, RuleSet};
use serde::Serialize;

use super::NOBODY;
use super::statistics::{self, Difference, Sample, Share};
use super::store::{MetricTotals, Totals, VariantTotals};

/// A sample ratio that chance makes more seldom than this is an alarm.
const MISMATCH_P: f64 = 0.001;

/// One experiment as the API shows it.
#[derive(Debug, Serialize)]
pub(crate) struct ExperimentResults {
    rule: String,
    seed: String,
    /// Milliseconds since the Unix epoch.
    since_ms: u64,
    /// The part of the units that is kept.
    sampled: f64,
    control: String,
    variants: Vec<VariantResults>,
    /// Units that saw more than one variant: they are in no difference.
    moved: u64,
    sample_ratio: Option<SampleRatio>,
    metrics: Vec<MetricResults>,
}

#[derive(Debug, Serialize)]
struct VariantResults {
    name: String,
    is_control: bool,
    /// What it has of the buckets now.
    share: f64,
    /// Units that saw it first, an estimate where a part is kept.
    units: u64,
    /// Those of them that stayed with it, as far as they are kept.
    compared: u64,
    expected_units: f64,
    requests: u64,
    error_rate: f64,
    p99_ms: Option<f64>,
    rolled_back: Option<RolledBack>,
}

#[derive(Debug, Serialize)]
struct RolledBack {
    at_ms: u64,
    why: String,
}

#[derive(Debug, Serialize)]
struct SampleRatio {
    chi_square: f64,
    p: f64,
    mismatch: bool,
}

#[derive(Debug, Serialize)]
struct MetricResults {
    name: String,
    variants: Vec<MetricOfVariant>,
}

#[derive(Debug, Serialize)]
struct MetricOfVariant {
    variant: String,
    /// Units that did it at least once.
    converted: u64,
    conversion_rate: f64,
    times: u64,
    sum: f64,
    /// The mean of all units, those that did nothing among them.
    mean: f64,
    deviation: f64,
    /// To the control; none for the control itself.
    conversion: Option<Difference>,
    value: Option<Difference>,
}

/// The results of the experiments that the rules are about now.
pub(super) fn results(set: &RuleSet, totals: &[Totals], now_ms: u64) -> Vec<ExperimentResults> {
    let of_rule = |rule: &Rule| {
        let found = totals.iter().find(|t| t.rule == rule.name() && t.seed == rule.seed());
        experiment(set, rule, found.unwrap_or(&Totals::default()), now_ms)
    };
    set.rules().iter().filter(|rule| rule.is_experiment()).map(of_rule).collect()
}

fn experiment(set: &RuleSet, rule: &Rule, totals: &Totals, now_ms: u64) -> ExperimentResults {
    let variants = shown(rule, now_ms);
    let empty = VariantTotals::default();
    let of = |name: &str| totals.variants.iter().find(|v| v.name == name).unwrap_or(&empty);
    let kept: Vec<_> = variants.iter().map(|(name, _)| of(name)).collect();
    let place = if rule.compares_with_nobody() { variants.len() - 1 } else { rule.control() };
    let control = variants[place].0.clone();
    let sampled = 0.5_f64.powi(i32::try_from(totals.level).unwrap_or(0));
    let counts: Vec<f64> = totals.variants.iter().map(|v| v.exposures as f64).collect();
    let expected: Vec<f64> = totals.variants.iter().map(|v| v.expected).collect();
    let sample_ratio = statistics::chi_square(&counts, &expected)
        .map(|(chi_square, p)| SampleRatio { chi_square, p, mismatch: p < MISMATCH_P });
    let results = variants.iter().zip(&kept).map(|((name, share), kept)| VariantResults {
        name: name.clone(),
        is_control: *name == control,
        share: *share,
        units: (kept.exposures as f64 / sampled).round() as u64,
        compared: kept.exposures - kept.moved,
        expected_units: kept.expected / sampled,
        requests: kept.served.requests,
        error_rate: kept.served.error_share().rate(),
        p99_ms: kept.served.latency.quantile_ms(0.99),
        rolled_back: rolled_back(set, rule, name),
    });
    ExperimentResults {
        rule: rule.name().to_owned(),
        seed: rule.seed().to_owned(),
        since_ms: totals.since_ms,
        sampled,
        variants: results.collect(),
        moved: totals.variants.iter().map(|v| v.moved).sum(),
        sample_ratio,
        metrics: metrics(&variants, &kept, place),
        control,
    }
}

/// The variants that are compared, with their parts of the buckets now.
fn shown(rule: &Rule, now_ms: u64) -> Vec<(String, f64)> {
    let buckets = rule.buckets(now_ms);
    let share = |buckets: u16| f64::from(buckets) / f64::from(atoll_router::rules::BUCKETS);
    let names = rule.variants().iter().map(|variant| variant.name().to_owned());
    let mut shown: Vec<_> = names.zip(buckets.into_iter().map(share)).collect();
    for place in (0..shown.len()).filter(|place| rule.is_rolled_back(*place)) {
        let taken = std::mem::take(&mut shown[place].1);
        if shown.len() > 1 {
            shown[rule.control()].1 += taken;
        }
    }
    if rule.compares_with_nobody() {
        let left = 1.0 - shown.iter().map(|(_, share)| share).sum::<f64>();
        shown.push((NOBODY.to_owned(), left));
    }
    shown
}

fn rolled_back(set: &RuleSet, rule: &Rule, variant: &str) -> Option<RolledBack> {
    let found = set.overlay().rolled_back.get(rule.name())?.get(variant)?;
    Some(RolledBack { at_ms: found.at_ms, why: found.why.clone() })
}

fn metrics(
    variants: &[(String, f64)],
    kept: &[&VariantTotals],
    control: usize,
) -> Vec<MetricResults> {
    let mut names: Vec<&str> =
        kept.iter().flat_map(|v| &v.metrics).map(|metric| metric.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let nothing = MetricTotals::default();
    let of = |place: usize, name: &str| {
        let found = kept[place].metrics.iter().find(|metric| metric.name == name);
        Measured::of(kept[place], found.unwrap_or(&nothing))
    };
    let metric = |name: &&str| {
        let by = of(control, name);
        let each = variants.iter().enumerate().map(|(place, (variant, _))| {
            let own = of(place, name);
            let other = place != control;
            MetricOfVariant {
                variant: variant.clone(),
                converted: own.totals.units,
                conversion_rate: own.share.rate(),
                times: own.totals.times,
                sum: own.totals.sum,
                mean: own.sample.mean,
                deviation: own.sample.variance.sqrt(),
                conversion: statistics::shares(own.share, by.share).filter(|_| other),
                value: statistics::means(own.sample, by.sample).filter(|_| other),
            }
        });
        MetricResults { name: (*name).to_owned(), variants: each.collect() }
    };
    names.iter().map(metric).collect()
}

/// A metric of a variant, ready to be compared.
struct Measured {
    totals: MetricTotals,
    share: Share,
    sample: Sample,
}

impl Measured {
    fn of(variant: &VariantTotals, totals: &MetricTotals) -> Self {
        let count = (variant.exposures - variant.moved) as f64;
        let mean = if count > 0.0 { totals.sum / count } else { 0.0 };
        let squares = totals.sum_of_squares - count * mean * mean;
        let variance = if count > 1.0 { (squares / (count - 1.0)).max(0.0) } else { 0.0 };
        let share = Share { some: totals.units as f64, of: count };
        Self { totals: totals.clone(), share, sample: Sample { count, mean, variance } }
    }
}

impl super::batch::Served {
    pub(super) fn error_share(&self) -> Share {
        Share { some: self.errors as f64, of: self.requests as f64 }
    }
}
