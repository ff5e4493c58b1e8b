//! How long certificates have left, for health pages, metrics and lists.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::observe::{Health, Labelled, Metrics};
use crate::registry::{Registry, RegistryError, now_ms};

/// Certificates that are shown, the others are too many.
const SHOWN_MAX: usize = 1_000;

/// One certificate, as it stands.
struct Standing {
    /// The first of its names.
    host: String,
    source: &'static str,
    /// Until when it is valid, in seconds from now; none while there is no certificate.
    left_s: Option<i64>,
    /// Why the next one was not issued.
    error: Option<String>,
}

/// Shows certificates that were uploaded or issued on the health page and among the metrics.
pub(crate) fn show_certificates(registry: &Registry, health: &Health, metrics: &Arc<Metrics>) {
    let of_health = registry.clone();
    health.follow_certificates(move || lines(&standings(&of_health)));
    let of_metrics = registry.clone();
    let help = "Seconds until a certificate runs out";
    metrics.add_labelled_gauge("certificate_left_seconds", help, move || {
        let each = standings(&of_metrics).into_iter();
        let left = each.filter_map(|standing| {
            let labels = vec![("host", standing.host), ("source", standing.source.to_owned())];
            Some(Labelled { labels, value: standing.left_s? })
        });
        left.collect()
    });
}

fn standings(registry: &Registry) -> Vec<Standing> {
    read(registry).unwrap_or_else(|error| {
        tracing::error!(%error, "certificates cannot be read");
        Vec::new()
    })
}

fn read(registry: &Registry) -> Result<Vec<Standing>, RegistryError> {
    let now_s = now_ms() / 1_000;
    let left = |expires_s: u64| {
        let seconds = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
        seconds(expires_s).saturating_sub(seconds(now_s))
    };
    let issued = registry.acme_certificates()?.into_iter().map(|known| Standing {
        left_s: known.id.as_ref().map(|_| left(known.expires_s)),
        host: known.host,
        source: "acme",
        error: known.error,
    });
    let uploaded = registry.uploaded_expiries()?.into_iter().map(|(hosts, expires_s)| Standing {
        host: hosts.into_iter().next().unwrap_or_default(),
        source: "upload",
        left_s: Some(left(expires_s)),
        error: None,
    });
    Ok(issued.chain(uploaded).take(SHOWN_MAX).collect())
}

/// One line for each certificate.
fn lines(standings: &[Standing]) -> String {
    let mut text = String::new();
    for Standing { host, source, left_s, error } in standings {
        let left = match left_s {
            None => "none yet".to_owned(),
            Some(left_s) if *left_s < 0 => "expired".to_owned(),
            Some(left_s) => format!("{} days left", left_s / 86_400),
        };
        let _ = write!(text, "certificate {host}: {left}, source={source}");
        if let Some(error) = error {
            let _ = write!(text, ", error: {error}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_left_and_what_went_wrong() {
        let standing = |left_s, error: Option<&str>| Standing {
            host: "a.test".into(),
            source: "acme",
            left_s,
            error: error.map(str::to_owned),
        };
        let check = |standing, expected: &str| assert_eq!(lines(&[standing]), expected);
        check(
            standing(Some(86_400 * 59 + 5), None),
            "certificate a.test: 59 days left, source=acme\n",
        );
        check(standing(Some(-1), None), "certificate a.test: expired, source=acme\n");
        check(
            standing(None, Some("the authority says: no")),
            "certificate a.test: none yet, source=acme, error: the authority says: no\n",
        );
    }
}
