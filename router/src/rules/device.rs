//! The class of a client's device, by client hints and the user agent. Four classes and few words: who needs
//! to know a model has to look at the user agent itself.

use http::HeaderMap;
use http::header::{HeaderName, USER_AGENT};

/// `?1` from a browser that prefers mobile pages (User-Agent Client Hints).
const MOBILE_HINT: HeaderName = HeaderName::from_static("sec-ch-ua-mobile");

/// Words in user agents of programs, in lower case.
const BOTS: [&str; 13] = [
    "bot",
    "crawl",
    "spider",
    "slurp",
    "curl/",
    "wget/",
    "python",
    "go-http-client",
    "java/",
    "headless",
    "facebookexternalhit",
    "preview",
    "monitor",
];
/// Words in user agents of tablets.
const TABLETS: [&str; 4] = ["ipad", "tablet", "kindle", "silk/"];
/// Words in user agents of phones.
const MOBILES: [&str; 4] = ["mobi", "iphone", "ipod", "opera mini"];

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
        let names = |words: &[&str]| words.iter().any(|word| holds(agent, word.as_bytes()));
        let android = names(&["android"]);
        if agent.is_empty() || names(&BOTS) {
            return Self::Bot;
        }
        if names(&TABLETS) {
            return Self::Tablet;
        }
        match headers.get(MOBILE_HINT).map(|hint| hint.as_bytes()) {
            Some(b"?1") => Self::Mobile,
            // Chrome on a tablet asks for desktop pages and still says that it is on Android.
            Some(b"?0") if android => Self::Tablet,
            Some(b"?0") => Self::Desktop,
            _ if names(&MOBILES) => Self::Mobile,
            _ if android => Self::Tablet,
            _ => Self::Desktop,
        }
    }
}

/// Whether a text has a word of lower-case letters in it, in any case.
fn holds(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
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
