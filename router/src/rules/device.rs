//! The class of a client's device, by client hints and the user agent. Four classes and few words: who needs
//! to know a model has to look at the user agent itself.

use http::HeaderMap;
use http::header::{HeaderName, USER_AGENT};

/// `?1` from a browser that prefers mobile pages (User-Agent Client Hints).
const MOBILE_HINT: HeaderName = HeaderName::from_static("sec-ch-ua-mobile");

/// What words in user agents say, in lower case. All begin with two letters.
const WORDS: [(&str, u8); 22] = [
    ("bot", BOT),
    ("crawl", BOT),
    ("spider", BOT),
    ("slurp", BOT),
    ("curl/", BOT),
    ("wget/", BOT),
    ("python", BOT),
    ("go-http-client", BOT),
    ("java/", BOT),
    ("headless", BOT),
    ("facebookexternalhit", BOT),
    ("preview", BOT),
    ("monitor", BOT),
    ("ipad", TABLET),
    ("tablet", TABLET),
    ("kindle", TABLET),
    ("silk/", TABLET),
    ("mobi", MOBILE),
    ("iphone", MOBILE),
    ("ipod", MOBILE),
    ("opera mini", MOBILE),
    ("android", ANDROID),
];
const BOT: u8 = 1;
const TABLET: u8 = 2;
const MOBILE: u8 = 4;
const ANDROID: u8 = 8;

/// For each letter that words begin with, a bit for each second letter. Most places of a user agent are passed over
/// by one look at this.
const BEGINNINGS: [u32; 26] = beginnings();

const fn beginnings() -> [u32; 26] {
    let mut table = [0; 26];
    let mut at = 0;
    while at < WORDS.len() {
        let word = WORDS[at].0.as_bytes();
        table[(word[0] - b'a') as usize] |= 1 << (word[1] - b'a');
        at += 1;
    }
    table
}

/// What is said by all words in a user agent, in any case.
fn said(agent: &[u8]) -> u8 {
    let letter = |byte: u8| usize::from((byte | 0x20).wrapping_sub(b'a'));
    let mut said = 0;
    for (at, pair) in agent.windows(2).enumerate() {
        let (first, second) = (letter(pair[0]), letter(pair[1]));
        if first >= 26 || second >= 26 || BEGINNINGS[first] & (1 << second) == 0 {
            continue;
        }
        for (word, means) in WORDS {
            let found = agent[at..].get(..word.len());
            if found.is_some_and(|found| found.eq_ignore_ascii_case(word.as_bytes())) {
                said |= means;
            }
        }
    }
    said
}

/// A class of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    /// A phone.
    Mobile,
    /// A tablet.
    Tablet,
    /// Any other browser.
    Desktop,
    /// A program that says it is none, or that names no user agent.
    Bot,
}

impl Device {
    /// The class as rules name it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Mobile => "mobile",
            Self::Tablet => "tablet",
            Self::Desktop => "desktop",
            Self::Bot => "bot",
        }
    }

    pub(super) fn of(headers: &HeaderMap) -> Self {
        let agent = headers.get(USER_AGENT).map_or(&b""[..], |agent| agent.as_bytes());
        let said = said(agent);
        let android = said & ANDROID != 0;
        if agent.is_empty() || said & BOT != 0 {
            return Self::Bot;
        }
        if said & TABLET != 0 {
            return Self::Tablet;
        }
        match headers.get(MOBILE_HINT).map(|hint| hint.as_bytes()) {
            Some(b"?1") => Self::Mobile,
            // Chrome on a tablet asks for desktop pages and still says that it is on Android.
            Some(b"?0") if android => Self::Tablet,
            Some(b"?0") => Self::Desktop,
            _ if said & MOBILE != 0 => Self::Mobile,
            _ if android => Self::Tablet,
            _ => Self::Desktop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_agents_and_hints_have_classes() {
        const CHROME: &str = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0";
        let check = |agent: &str, hint: &str, expected| {
            let mut headers = HeaderMap::new();
            if !agent.is_empty() {
                headers.insert(USER_AGENT, agent.parse().unwrap());
            }
            if !hint.is_empty() {
                headers.insert(MOBILE_HINT, hint.parse().unwrap());
            }
            assert_eq!(Device::of(&headers), expected, "{agent} {hint}");
        };
        check("", "", Device::Bot);
        check("curl/8.5.0", "", Device::Bot);
        check(
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "",
            Device::Bot,
        );
        check(
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Mobile/15E148",
            "",
            Device::Mobile,
        );
        check("Mozilla/5.0 (iPad; CPU OS 18_0 like Mac OS X) Mobile/15E148", "", Device::Tablet);
        check(
            &format!("Mozilla/5.0 (Linux; Android 15; Pixel 9) {CHROME} Mobile Safari"),
            "?1",
            Device::Mobile,
        );
        check(
            &format!("Mozilla/5.0 (Linux; Android 15; Pixel 9) {CHROME} Mobile Safari"),
            "",
            Device::Mobile,
        );
        check(
            &format!("Mozilla/5.0 (Linux; Android 15; SM-X910) {CHROME} Safari"),
            "",
            Device::Tablet,
        );
        check(
            &format!("Mozilla/5.0 (Linux; Android 15; SM-X910) {CHROME} Safari"),
            "?0",
            Device::Tablet,
        );
        check(&format!("Mozilla/5.0 (X11; Linux x86_64) {CHROME} Safari"), "?0", Device::Desktop);
        check(
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:133.0) Firefox/133.0",
            "",
            Device::Desktop,
        );
    }
}
