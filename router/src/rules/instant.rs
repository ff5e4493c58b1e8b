//! Times in rules: instants of RFC 3339, and windows of days and hours.

use chrono::NaiveDate;

const DAY_MS: u64 = 86_400_000;
const MINUTE_MS: u64 = 60_000;
const DAY_MINUTES: u16 = 1_440;

/// The names of days, from the day of the epoch's week that is a Monday.
pub(super) const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Reads `2026-11-26T14:00:00Z`: seconds and an offset from UTC as RFC 3339 has them. A date alone is its
/// midnight in UTC. Milliseconds since the Unix epoch; none when it is no such time or before the epoch.
pub fn parse_instant(text: &str) -> Option<u64> {
    let (date, time) = match text.len() {
        10 => (text, "00:00:00Z"),
        _ => (
            text.get(..10)?,
            text.get(11..).filter(|_| matches!(text.as_bytes()[10], b'T' | b't' | b' '))?,
        ),
    };
    let date = NaiveDate::from_ymd_opt(
        digits(date.get(0..4)?).and_then(|year| i32::try_from(year).ok())?,
        (date.as_bytes()[4] == b'-').then(|| digits(date.get(5..7)?))??,
        (date.as_bytes()[7] == b'-').then(|| digits(date.get(8..10)?))??,
    )?;
    let clock = time.get(..5).and_then(parse_clock)?;
    let rest = time.get(5..)?;
    let (seconds, zone) = match rest.strip_prefix(':') {
        Some(rest) => (digits(rest.get(..2)?).filter(|s| *s < 60)?, rest.get(2..)?),
        None => (0, rest),
    };
    let zone = match zone.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => zone,
    };
    let offset = parse_offset(zone)?;
    let days = date.signed_duration_since(NaiveDate::default()).num_days();
    let minutes = days * i64::from(DAY_MINUTES) + i64::from(clock) - i64::from(offset);
    u64::try_from(minutes * 60 + i64::from(seconds)).ok().map(|seconds| seconds * 1_000)
}

/// Reads `HH:MM` as minutes; `24:00` is the day's end.
pub(super) fn parse_clock(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let (hours, minutes) = (two_digits(hours)?, two_digits(minutes)?);
    let clock = hours * 60 + minutes;
    (minutes < 60 && clock <= DAY_MINUTES).then_some(clock)
}

/// Reads `Z` or `+HH:MM` as minutes before UTC.
pub(super) fn parse_offset(text: &str) -> Option<i16> {
    let (sign, clock) = match text.as_bytes().first()? {
        b'Z' | b'z' if text.len() == 1 => return Some(0),
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    let minutes = parse_clock(clock).filter(|minutes| *minutes < DAY_MINUTES)?;
    i16::try_from(minutes).ok().map(|minutes| sign * minutes)
}

fn two_digits(text: &str) -> Option<u16> {
    if text.len() == 2 { digits(text).and_then(|n| u16::try_from(n).ok()) } else { None }
}

fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// When a rule holds. All that is set must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Milliseconds since the Unix epoch, inclusive.
    pub(super) after_ms: u64,
    /// Milliseconds since the Unix epoch, exclusive.
    pub(super) before_ms: u64,
    /// A bit for each day, Monday the lowest.
    pub(super) days: u8,
    /// Minutes of the day, the end excluded. An end before the start goes over midnight and belongs to the day
    /// that it began on.
    pub(super) hours: Option<(u16, u16)>,
    /// How far days and hours are ahead of UTC, in minutes.
    pub(super) offset: i16,
}

impl Window {
    pub(super) fn holds(&self, now_ms: u64) -> bool {
        if now_ms < self.after_ms || now_ms >= self.before_ms {
            return false;
        }
        let local = now_ms.saturating_add_signed(i64::from(self.offset) * MINUTE_MS as i64);
        let minute = (local % DAY_MS / MINUTE_MS) as u16;
        let day = local / DAY_MS;
        match self.hours {
            None => self.on(day),
            Some((from, to)) if from <= to => (from..to).contains(&minute) && self.on(day),
            Some((from, _)) if minute >= from => self.on(day),
            Some((_, to)) => minute < to && self.on(day.wrapping_sub(1)),
        }
    }

    /// Whether a day of the Unix epoch is among its days. The epoch began on a Thursday.
    fn on(&self, day: u64) -> bool {
        self.days & (1 << (day.wrapping_add(3) % 7)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_those_of_rfc_3339() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2026-11-26T14:30:05Z", Some(1_795_703_405_000)),
            ("2026-11-26T15:30:05.250+01:00", Some(1_795_703_405_000)),
            ("2026-11-26 14:30Z", Some(1_795_703_400_000)),
            ("2024-02-29", Some(1_709_164_800_000)),
            ("2023-02-29", None),
            ("2026-13-01", None),
            ("2026-11-26T24:01:00Z", None),
            ("2026-11-26T14:30:05", None),
            ("2026-11-26T14:30:61Z", None),
            ("1969-12-31", None),
            ("tomorrow", None),
            ("2026-11-2ß", None),
            ("", None),
        ] {
            assert_eq!(parse_instant(text), expected, "{text}");
        }
    }

    #[test]
    fn windows_hold_on_their_days_and_hours() {
        let weekdays = 0b0001_1111;
        let at = |text: &str| parse_instant(text).unwrap();
        let always =
            Window { after_ms: 0, before_ms: u64::MAX, days: 0b0111_1111, hours: None, offset: 0 };
        let office =
            Window { days: weekdays, hours: Some((540, 1_020)), offset: 60, ..always.clone() };
        let night = Window { days: 1 << 4, hours: Some((1_320, 360)), ..always.clone() };
        let november = Window { after_ms: at("2026-11-01"), before_ms: at("2026-12-01"), ..always };
        for (window, now, expected) in [
            // 2026-11-26 is a Thursday.
            (&office, "2026-11-26T08:00:00Z", true),
            (&office, "2026-11-26T07:59:00Z", false),
            (&office, "2026-11-26T15:59:00Z", true),
            (&office, "2026-11-26T16:00:00Z", false),
            (&office, "2026-11-28T12:00:00Z", false),
            (&night, "2026-11-27T22:00:00Z", true),
            (&night, "2026-11-28T05:59:00Z", true),
            (&night, "2026-11-28T22:30:00Z", false),
            (&night, "2026-11-27T05:59:00Z", false),
            (&november, "2026-11-01T00:00:00Z", true),
            (&november, "2026-12-01T00:00:00Z", false),
        ] {
            assert_eq!(window.holds(at(now)), expected, "{now}");
        }
    }
}
