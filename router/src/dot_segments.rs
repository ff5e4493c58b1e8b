//! Resolves `.` and `..` in a request's path as the URL standard does for a browser, so that what is routed by
//! its path is what the worker's `new URL(request.url)` will see.

/// A path as workers will see it, or `None` when that is what it is already. `\` is a `/`, as everywhere in
/// `http:` URLs, and `%2e` a dot; nothing else is decoded.
///
/// Implements the path state of the WHATWG URL standard, section 4.4.
pub(crate) fn resolved(path: &str) -> Option<String> {
    if !is_suspect(path.as_bytes()) {
        return None;
    }
    let mut segments: Vec<&str> = Vec::new();
    let mut rest = path.strip_prefix(['/', '\\']).unwrap_or(path);
    loop {
        let (segment, after) = match rest.find(['/', '\\']) {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        match dots(segment) {
            0 => segments.push(segment),
            2 => {
                segments.pop();
            }
            _ => {}
        }
        match after {
            Some(after) => rest = after,
            None => {
                // The last segment is a folder, and its slash stays.
                if dots(segment) > 0 {
                    segments.push("");
                }
                break;
            }
        }
    }
    let resolved = format!("/{}", segments.join("/"));
    (resolved != path).then_some(resolved)
}

/// Whether a segment may begin with a dot, or a backslash stands somewhere.
fn is_suspect(path: &[u8]) -> bool {
    path.contains(&b'\\')
        || path.windows(2).any(|pair| pair[0] == b'/' && matches!(pair[1], b'.' | b'%'))
}

/// How many dots a segment consists of, when it is one or two and nothing else; else 0.
fn dots(segment: &str) -> usize {
    let mut rest = segment.as_bytes();
    let mut dots = 0;
    while !rest.is_empty() {
        rest = match rest {
            [b'.', after @ ..] | [b'%', b'2', b'e' | b'E', after @ ..] => after,
            _ => return 0,
        };
        dots += 1;
    }
    if dots <= 2 { dots } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_are_resolved_as_in_a_browser() {
        let check = |path: &str, expected: &str| {
            assert_eq!(resolved(path).as_deref().unwrap_or(path), expected, "{path}");
        };
        for same in
            ["/", "/a", "/a/", "//a", "/a//b", "/.well-known/x", "/...", "/a.b", "/%2ea", "/%00"]
        {
            assert_eq!(resolved(same), None, "{same}");
        }
        check("/.", "/");
        check("/..", "/");
        check("/../../etc/passwd", "/etc/passwd");
        check("/a/./b", "/a/b");
        check("/a/../b", "/b");
        check("/a/..", "/");
        check("/a/b/..", "/a/");
        check("/a/b/.", "/a/b/");
        check("/public/../admin", "/admin");
        check("/public/%2e%2e/admin", "/admin");
        check("/public/.%2E/admin", "/admin");
        check("/public/%2E./admin", "/admin");
        check("/public/%2e/admin", "/public/admin");
        check("/public/..%2fadmin", "/public/..%2fadmin");
        check("/public\\..\\admin", "/admin");
        check("\\admin", "/admin");
        check("/a\\b", "/a/b");
        check("//../a", "/a");
        check("/a//../b", "/a/b");
    }

    proptest::proptest! {
        #[test]
        fn it_agrees_with_the_url_crate(path in r"/([/\\a.]|%2e|%2E|%2f){0,12}") {
            let url = url::Url::parse(&format!("http://host{path}")).unwrap();
            let resolved = resolved(&path).unwrap_or(path);
            proptest::prop_assert_eq!(resolved, url.path());
        }
    }
}
