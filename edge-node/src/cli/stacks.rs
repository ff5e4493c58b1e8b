//! Finds the first place of the project's own that a stack names, and shows the line there.

use std::path::Path;

use crate::project::Diagnostic;

/// The text, and below it the source line that it points at, where that file can be read.
pub(crate) fn with_excerpt(text: &str, project_dir: &Path) -> String {
    let excerpt = text.lines().find_map(|line| {
        let (path, line, column) = position(line)?;
        let path = path.trim_start_matches("file://").trim_start_matches("./");
        // Places in packages tell little: the project's own line is what can be changed.
        if path.contains("node_modules/") {
            return None;
        }
        let absolute = project_dir.join(path);
        let source = std::fs::read_to_string(&absolute).ok()?;
        let at = Diagnostic::at_position(Path::new(path), &source, line, column, "")?;
        Some(format!("  {path}:{line}:{column}\n{}", at.excerpt()))
    });
    match excerpt {
        Some(excerpt) => format!("{text}\n\n{excerpt}"),
        None => text.to_owned(),
    }
}

/// The `path:line:column` in a line of a stack or message.
fn position(line: &str) -> Option<(&str, usize, usize)> {
    line.split([' ', '(', ')', ',', '"', '\'']).find_map(|word| {
        let word = word.trim_end_matches([':', '.']);
        let (rest, column) = word.rsplit_once(':')?;
        let (path, line) = rest.rsplit_once(':')?;
        let (line, column) = (line.parse().ok()?, column.parse().ok()?);
        path.contains('.').then_some((path, line, column))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_found_in_stacks() {
        for (line, expected) in [
            ("    at fetch (src/index.ts:3:9)", Some(("src/index.ts", 3, 9))),
            ("    at src/a b.ts:1:2", Some(("b.ts", 1, 2))),
            ("Error: x at index.js:10:1.", Some(("index.js", 10, 1))),
            ("at 12:30:15 it failed", None),
            ("no place", None),
        ] {
            assert_eq!(position(line), expected, "{line}");
        }
    }

    #[test]
    fn the_project_line_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("w.js"), "one\n  throw 1\n").unwrap();
        let text = "Error: 1\n    at node_modules/x/y.js:1:1\n    at w.js:2:3";
        let shown = with_excerpt(text, dir.path());
        assert!(shown.ends_with("  w.js:2:3\n  2 |   throw 1\n    |   ^"), "{shown}");
    }
}
