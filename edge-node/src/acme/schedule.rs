//! When a certificate is asked for: pure arithmetic over times and chances that are given.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Next;
use crate::registry::AcmeCertificate;

/// The pause after a first failure; each further one doubles it.
const PAUSE_MIN: Duration = Duration::from_secs(60);
/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(12 * 3_600);
/// The pause after the authority has said that there were too many orders.
const LIMIT_PAUSE_MIN: Duration = Duration::from_secs(3_600);
/// The longest pause that an authority may ask for.
const ASKED_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);

/// What is to be done now: the name that has waited longest, or how long there is nothing.
pub(super) fn next(
    wanted: &BTreeSet<String>,
    known: &[AcmeCertificate],
    directory: &str,
    now_ms: u64,
) -> Next {
    let due_ms = |host: &&String| match known.iter().find(|known| known.host == **host) {
        None => 0,
        // What another authority has issued is replaced.
        Some(known) if known.failures == 0 && known.directory.as_deref() != Some(directory) => 0,
        Some(known) => known.due_ms,
    };
    match wanted.iter().min_by_key(due_ms) {
        None => Next::Wait(Duration::MAX),
        Some(host) => match due_ms(&host).checked_sub(now_ms) {
            None | Some(0) => Next::Order(host.clone()),
            Some(left) => Next::Wait(Duration::from_millis(left)),
        },
    }
}

/// When a certificate is renewed, in milliseconds since the Unix epoch: after two thirds of its life, and by `chance`
/// (0 to 1) up to a thirtieth later, so that those made at once are not renewed at once.
pub(super) fn due_after(from_s: u64, expires_s: u64, chance: f64) -> u64 {
    let life_ms = expires_s.saturating_sub(from_s).saturating_mul(1_000);
    let jitter = Duration::from_millis(life_ms / 30).mul_f64(chance.clamp(0.0, 1.0));
    let age_ms = life_ms / 3 * 2 + u64::try_from(jitter.as_millis()).unwrap_or(0);
    from_s.saturating_mul(1_000).saturating_add(age_ms)
}

/// How long to wait after so many failures in a row, by `chance` up to a fifth longer.
pub(super) fn pause_after(
    failures: u32,
    limited: bool,
    asked: Option<Duration>,
    chance: f64,
) -> Duration {
    let doubled = PAUSE_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(PAUSE_MAX);
    let least = if limited { LIMIT_PAUSE_MIN } else { Duration::ZERO };
    // Who is told how long to wait waits that long, and not longer for having been told.
    let pause = match asked {
        Some(asked) => doubled.max(asked.min(ASKED_MAX)),
        None => doubled.max(least),
    };
    pause + pause.div_f64(5.0).mul_f64(chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_due_after_two_thirds_of_a_life() {
        assert_eq!(due_after(1_000, 1_090, 0.0), 1_060_000);
        assert_eq!(due_after(1_000, 1_090, 1.0), 1_063_000);
        assert_eq!(due_after(9, 3, 0.5), 9_000);
    }

    #[test]
    fn pauses_grow_and_obey_the_authority() {
        let check = |failures, limited, asked: Option<u64>, expected_s| {
            let pause = pause_after(failures, limited, asked.map(Duration::from_secs), 0.0);
            assert_eq!(pause, Duration::from_secs(expected_s), "{failures} {limited} {asked:?}");
        };
        check(1, false, None, 60);
        check(3, false, None, 240);
        check(40, false, None, 43_200);
        check(1, true, None, 3_600);
        check(1, true, Some(90), 90);
        check(1, true, Some(7_200), 7_200);
        check(1, false, Some(u64::MAX), 604_800);
        let jittered = pause_after(1, false, None, 1.0);
        assert_eq!(jittered, Duration::from_secs(72));
    }

    #[test]
    fn who_has_waited_longest_is_next() {
        let known = |host: &str, due_ms, failures, directory: Option<&str>| AcmeCertificate {
            host: host.into(),
            id: directory.map(str::to_owned),
            directory: directory.map(str::to_owned),
            from_s: 0,
            expires_s: 0,
            issued_ms: 0,
            due_ms,
            failures,
            error: None,
        };
        let wanted = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let check = |names: &[&str], known: &[AcmeCertificate], expected: Result<&str, u64>| match (
            next(&wanted(names), known, "ca", 100),
            expected,
        ) {
            (Next::Order(host), Ok(expected)) => assert_eq!(host, expected),
            (Next::Wait(wait), Err(ms)) => assert_eq!(wait, Duration::from_millis(ms)),
            (Next::Order(host), Err(_)) => panic!("{host} is not due"),
            (Next::Wait(wait), Ok(_)) => panic!("nothing to do for {wait:?}"),
        };
        let serving = known("a", 150, 0, Some("ca"));
        check(&["a", "b"], std::slice::from_ref(&serving), Ok("b"));
        check(&["a"], std::slice::from_ref(&serving), Err(50));
        check(&["a"], &[known("a", 150, 0, Some("old ca"))], Ok("a"));
        check(&["a"], &[known("a", 150, 2, Some("old ca"))], Err(50));
        check(&["a", "b"], &[known("a", 90, 1, None), known("b", 80, 1, None)], Ok("b"));
    }
}
