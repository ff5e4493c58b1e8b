//! The globs of module rules: `**`, `*`, `?` and `{a,b}` over paths with forward slashes.

/// Whether a relative path matches.
pub(super) fn matches(glob: &str, path: &str) -> bool {
    alternatives(glob).iter().any(|glob| {
        let glob: Vec<&str> = glob.trim_start_matches("./").split('/').collect();
        let path: Vec<&str> = path.split('/').collect();
        segments(&glob, &path)
    })
}

/// The globs that one with braces stands for. Braces do not nest.
pub(super) fn alternatives(glob: &str) -> Vec<String> {
    let Some((head, rest)) = glob.split_once('{') else { return vec![glob.to_owned()] };
    let Some((choices, tail)) = rest.split_once('}') else { return vec![glob.to_owned()] };
    let tails = alternatives(tail);
    let each =
        |choice: &str| tails.iter().map(|t| format!("{head}{choice}{t}")).collect::<Vec<_>>();
    choices.split(',').flat_map(each).collect()
}

fn segments(glob: &[&str], path: &[&str]) -> bool {
    match (glob.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) => {
            segments(rest, path) || path.split_first().is_some_and(|(_, p)| segments(glob, p))
        }
        (Some((g, glob)), Some((p, path))) => {
            segment(g.as_bytes(), p.as_bytes()) && segments(glob, path)
        }
        _ => false,
    }
}

fn segment(glob: &[u8], name: &[u8]) -> bool {
    match (glob.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            segment(rest, name) || name.split_first().is_some_and(|(_, n)| segment(glob, n))
        }
        (Some((g, glob)), Some((n, name))) => (*g == b'?' || g == n) && segment(glob, name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn paths_match_globs() {
        for (glob, path, expected) in [
            ("**/*.txt", "a.txt", true),
            ("**/*.txt", "a/b/c.txt", true),
            ("**/*.txt", "a/b/c.txts", false),
            ("*.txt", "a/b.txt", false),
            ("./data/**", "data/x/y", true),
            ("data/*.{json,sql}", "data/x.sql", true),
            ("data/*.{json,sql}", "data/x.txt", false),
            ("a?.js", "ab.js", true),
            ("**/a/**/z.js", "x/a/z.js", true),
            ("**", "anything/at/all", true),
        ] {
            assert_eq!(matches(glob, path), expected, "{glob} {path}");
        }
    }
}
