//! What languages a client wants, by `Accept-Language` (RFC 9110, section 12.5.4).

use http::HeaderMap;
use http::header::ACCEPT_LANGUAGE;

/// Languages of one header that are looked at.
const LANGUAGES_MAX: usize = 32;

/// The tags of a header with their weights in thousandths, those that are refused left out.
fn wanted(headers: &HeaderMap) -> impl Iterator<Item = (&str, u16)> {
    let value = headers.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let items = value.split(',').take(LANGUAGES_MAX).map(|item| {
        let (tag, weight) = item.split_once(';').unwrap_or((item, ""));
        (tag.trim(), thousandths(weight))
    });
    items.filter(|(tag, weight)| !tag.is_empty() && *weight > 0)
}

/// `q=0.5` as 500. What is not understood weighs nothing.
fn thousandths(parameter: &str) -> u16 {
    let parameter = parameter.trim();
    if parameter.is_empty() {
        return 1_000;
    }
    let value = parameter.strip_prefix("q=").or(parameter.strip_prefix("Q="));
    let weight = value.and_then(|value| value.trim().parse::<f32>().ok());
    weight.filter(|weight| (0.0..=1.0).contains(weight)).map_or(0, |w| (w * 1_000.0) as u16)
}

/// The language that a client wants most; of equals the first. `*` is none.
pub(super) fn preferred(headers: &HeaderMap) -> Option<&str> {
    let mut best: Option<(&str, u16)> = None;
    for (tag, weight) in wanted(headers).filter(|(tag, _)| *tag != "*") {
        if best.is_none_or(|(_, most)| weight > most) {
            best = Some((tag, weight));
        }
    }
    best.map(|(tag, _)| tag)
}

/// Whether a client takes a language at all.
pub(super) fn accepts(headers: &HeaderMap, range: &str) -> bool {
    wanted(headers).any(|(tag, _)| tag != "*" && within(range, tag))
}

/// Whether a tag is in a range, by basic filtering (RFC 4647, section 3.3.1): `de` has `de-AT` in it.
pub(super) fn within(range: &str, tag: &str) -> bool {
    match tag.as_bytes().split_at_checked(range.len()) {
        Some((start, rest)) => {
            start.eq_ignore_ascii_case(range.as_bytes())
                && matches!(rest.first(), None | Some(b'-'))
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_order_languages() {
        for (header, expected) in [
            ("de", Some("de")),
            ("de-AT, de;q=0.9, en;q=0.8", Some("de-AT")),
            ("en;q=0.3, fr;q=0.7, *;q=0.9", Some("fr")),
            ("en;q=0.5, fr;q=0.5", Some("en")),
            ("en;q=0, fr;q=0.001", Some("fr")),
            ("en;q=2, fr;q=x, it;level=1", None),
            ("*", None),
            ("", None),
            (" , ,;q=1", None),
        ] {
            let headers = [(ACCEPT_LANGUAGE, header.parse().unwrap())].into_iter().collect();
            assert_eq!(preferred(&headers), expected, "{header}");
        }
        assert_eq!(preferred(&HeaderMap::new()), None);
    }

    #[test]
    fn ranges_hold_their_tags() {
        for (range, tag, expected) in [
            ("de", "DE", true),
            ("de", "de-CH-1996", true),
            ("de-ch", "de-CH", true),
            ("de-CH", "de", false),
            ("de", "den", false),
        ] {
            assert_eq!(within(range, tag), expected, "{range} {tag}");
        }
        let headers: HeaderMap =
            [(ACCEPT_LANGUAGE, "en, de-AT;q=0.1, fr;q=0".parse().unwrap())].into_iter().collect();
        assert!(accepts(&headers, "de") && accepts(&headers, "en") && !accepts(&headers, "fr"));
    }
}
