//! Error pages: one refusal or failure, told as plain text, JSON or HTML by what the client
//! accepts, always with the id under which the log has it.

use std::fmt::Write;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

/// An error as it is told to a client.
#[derive(Clone, Copy, Debug)]
pub struct ErrorPage<'a> {
    /// The status of the response.
    pub status: StatusCode,
    /// Our number for it, as in "error 1101".
    pub code: u16,
    /// A few words: "Worker threw an exception".
    pub title: &'a str,
    /// What happened, in a sentence.
    pub message: &'a str,
    /// What the visitor or the owner can do.
    pub advice: &'a str,
    /// The request's id, by which the log can be searched.
    pub id: &'a str,
}

/// The form of an error page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFormat {
    /// A short message, for terminals.
    Text,
    /// `{ "error": { "code", "title", "message", "advice", "id" } }`
    Json,
    /// A small page without anything to load.
    Html,
}

impl PageFormat {
    /// Chooses by the `Accept` headers: the acceptable type with the highest weight, the first of
    /// equals; plain text for `*/*`, for none, and for what we do not have.
    pub fn negotiate(headers: &HeaderMap) -> Self {
        let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut best = (0, PageFormat::Text);
        for range in values.flat_map(|value| value.split(',')) {
            let (media, weight) = media_range(range);
            if let Some(format) = Self::of_media_type(media)
                && weight > best.0
            {
                best = (weight, format);
            }
        }
        best.1
    }

    fn of_media_type(media: &str) -> Option<Self> {
        let is = |name: &str| media.eq_ignore_ascii_case(name);
        if is("text/html") || is("application/xhtml+xml") {
            Some(PageFormat::Html)
        } else if is("application/json") || is("application/*") {
            Some(PageFormat::Json)
        } else if is("*/*") || is("text/*") || is("text/plain") {
            Some(PageFormat::Text)
        } else {
            None
        }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            PageFormat::Text => "text/plain; charset=utf-8",
            PageFormat::Json => "application/json",
            PageFormat::Html => "text/html; charset=utf-8",
        })
    }
}

/// Splits `type/subtype;q=0.5` into the type and its weight in thousandths.
fn media_range(range: &str) -> (&str, u32) {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next().unwrap_or("");
    let quality = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
    let weight = quality.map_or(Some(1.0), |q| q.parse::<f32>().ok());
    // A weight that cannot be read, or that is not a number, counts as none.
    let weight = weight.filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0);
    (media, (weight * 1000.0) as u32)
}

impl ErrorPage<'_> {
    /// Renders the response in the format that the request's headers ask for.
    pub fn respond(&self, request: &HeaderMap) -> Response<Bytes> {
        let format = PageFormat::negotiate(request);
        let mut response = Response::new(Bytes::from(self.render(format)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, format.content_type());
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    /// Renders the page alone.
    pub fn render(&self, format: PageFormat) -> String {
        match format {
            PageFormat::Text => self.text(),
            PageFormat::Json => self.json(),
            PageFormat::Html => self.html(),
        }
    }

    fn text(&self) -> String {
        let Self { code, title, message, advice, id, .. } = self;
        format!("error {code}: {title}\n{message}\n{advice}\nid: {id}\n")
    }

    fn json(&self) -> String {
        let Self { code, title, message, advice, id, .. } = self;
        let error = serde_json::json!({
            "code": code, "title": title, "message": message, "advice": advice, "id": id,
        });
        format!("{}\n", serde_json::json!({ "error": error }))
    }

    fn html(&self) -> String {
        let mut page = String::with_capacity(2048);
        let status = self.status.as_u16();
        let (title, message) = (Escaped(self.title), Escaped(self.message));
        let (advice, id, code) = (Escaped(self.advice), Escaped(self.id), self.code);
        write!(
            page,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <meta name=\"robots\" content=\"noindex\"><title>{status} | {title}</title>\
             <style>{STYLE}</style></head><body><main><p class=\"code\">{status} \
             <span>error {code}</span></p><h1>{title}</h1><p>{message}</p>\
             <p class=\"advice\">{advice}</p><p class=\"id\">id <code>{id}</code></p>\
             </main></body></html>\n"
        )
        .expect("writing to a string does not fail");
        page
    }
}

const STYLE: &str = ":root{color-scheme:light dark;--ink:#1c2430;--dim:#5b6675;--line:#dfe4ea;\
    --page:#f7f8fa;--card:#fff;--mark:#0f766e}\
    @media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--dim:#98a3b3;--line:#2b3442;\
    --page:#10151c;--card:#171e27;--mark:#5eead4}}\
    body{margin:0;min-height:100vh;display:grid;place-items:center;background:var(--page);\
    color:var(--ink);font:16px/1.55 system-ui,sans-serif}\
    main{box-sizing:border-box;width:min(34rem,calc(100vw - 2rem));padding:2rem;\
    background:var(--card);border:1px solid var(--line);border-radius:12px}\
    h1{margin:.25rem 0 1rem;font-size:1.5rem;line-height:1.25}p{margin:0 0 .75rem;\
    overflow-wrap:anywhere}.code{color:var(--mark);font-weight:600}.code span,.advice,.id\
    {color:var(--dim);font-weight:400}.id{margin:1.5rem 0 0;font-size:.85rem}";

/// A text as HTML, in element content or a quoted attribute.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                _ => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: ErrorPage<'static> = ErrorPage {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        code: 1101,
        title: "Worker threw <an> exception",
        message: "it said \"no\" & left",
        advice: "look at the log",
        id: "00f0",
    };

    #[test]
    fn the_format_follows_accept() {
        let check = |accept: &str, expected| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            assert_eq!(PageFormat::negotiate(&headers), expected, "{accept}");
        };
        assert_eq!(PageFormat::negotiate(&HeaderMap::new()), PageFormat::Text);
        check("*/*", PageFormat::Text);
        check("application/json", PageFormat::Json);
        check("Application/JSON;q=0.9, */*;q=0.1", PageFormat::Json);
        check("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", PageFormat::Html);
        check("text/html;q=0.5, application/json;q=0.8", PageFormat::Json);
        check("text/html;q=0, */*;q=0.1", PageFormat::Text);
        check("image/png", PageFormat::Text);
        check("text/html;q=nan, application/json;q=0.001", PageFormat::Json);
        check(";;q=,,=;", PageFormat::Text);
    }

    #[test]
    fn every_format_tells_the_code_and_the_id() {
        for format in [PageFormat::Text, PageFormat::Json, PageFormat::Html] {
            let page = PAGE.render(format);
            assert!(page.contains("1101") && page.contains("00f0"), "{page}");
        }
    }

    #[test]
    fn html_is_escaped_and_json_parses() {
        let html = PAGE.render(PageFormat::Html);
        assert!(html.contains("Worker threw &lt;an&gt; exception"));
        assert!(html.contains("it said &quot;no&quot; &amp; left"));
        let json: serde_json::Value = serde_json::from_str(&PAGE.render(PageFormat::Json)).unwrap();
        assert_eq!(json["error"]["title"], "Worker threw <an> exception");
        assert_eq!(json["error"]["code"], 1101);
    }

    #[test]
    fn the_response_is_never_cached() {
        let response = PAGE.respond(&HeaderMap::new());
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
    }
}
