//! A message that points at a place in a file and shows the line there.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The longest part of a line that an excerpt shows: generated files have very long ones.
const EXCERPT_CHARS_MAX: usize = 160;

/// A problem at a place in a text file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file.
    pub path: PathBuf,
    /// Counts from 1.
    pub line: usize,
    /// Counts characters from 1.
    pub column: usize,
    /// What is wrong and what to do.
    pub message: String,
    excerpt: String,
    marked: usize,
}

impl Diagnostic {
    /// Points at a byte range of a text.
    pub fn at(path: &Path, text: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        let start = floor_char_boundary(text, span.start);
        let end = floor_char_boundary(text, span.end.max(start));
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |i| start + i);
        Self {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            message: message.into(),
            excerpt: text[line_start..line_end].trim_end().to_owned(),
            marked: text[start..end.min(line_end)].chars().count().max(1),
        }
    }

    /// Points at a line and column (both from 1) of a text; none when the text has no such line.
    pub fn at_position(
        path: &Path,
        text: &str,
        line: usize,
        column: usize,
        message: impl Into<String>,
    ) -> Option<Self> {
        let excerpt = text.lines().nth(line.checked_sub(1)?)?.trim_end().to_owned();
        let (path, message) = (path.to_owned(), message.into());
        Some(Self { path, line, column: column.max(1), message, excerpt, marked: 1 })
    }

    /// The line with a marker below the place, without the message.
    pub fn excerpt(&self) -> String {
        let number = self.line.to_string();
        let skipped = self.column.saturating_sub(EXCERPT_CHARS_MAX / 2);
        let shown: String = self.excerpt.chars().skip(skipped).take(EXCERPT_CHARS_MAX).collect();
        let shown = shown.replace('\t', " ");
        let margin = " ".repeat(number.len());
        let indent = " ".repeat(self.column - 1 - skipped.min(self.column - 1));
        let marker = "^".repeat(self.marked.min(EXCERPT_CHARS_MAX));
        format!("  {number} | {shown}\n  {margin} | {indent}{marker}")
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, column, message, .. } = self;
        write!(f, "{}:{line}:{column}: {message}\n{}", path.display(), self.excerpt())
    }
}

fn floor_char_boundary(text: &str, index: usize) -> usize {
    let mut index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}
