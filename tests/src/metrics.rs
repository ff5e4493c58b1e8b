//! What a node counts, read from its metrics page as a scraper reads it.

use std::collections::BTreeMap;

/// One scrape.
#[derive(Clone, Debug)]
pub struct Metrics(String);

impl Metrics {
    pub(crate) fn new(page: String) -> Self {
        Self(page)
    }

    /// The sum of all samples of `name` that have these labels; 0 when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples(name)
            .filter(|(has, _)| labels.iter().all(|(label, is)| value_of(has, label) == Some(is)))
            .map(|(_, value)| value)
            .sum()
    }

    /// Finished invocations by outcome, of one worker or of all.
    pub fn outcomes(&self, worker: Option<&str>) -> BTreeMap<String, u64> {
        let mut counted = BTreeMap::new();
        for (labels, value) in self.samples("atoll_invocations_total") {
            if value > 0.0 && worker.is_none_or(|name| value_of(labels, "worker") == Some(name)) {
                let outcome = value_of(labels, "outcome").unwrap_or_default().to_owned();
                *counted.entry(outcome).or_insert(0) += value as u64;
            }
        }
        counted
    }

    /// The page itself.
    pub fn text(&self) -> &str {
        &self.0
    }

    fn samples(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(labelled) => labelled.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            Some((labels, value.split(' ').next()?.parse().ok()?))
        })
    }
}

fn value_of<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|label| {
        let (label, value) = label.split_once('=')?;
        (label == name).then(|| value.trim_matches('"'))
    })
}
