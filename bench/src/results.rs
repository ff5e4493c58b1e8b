//! Tables, and the files that `results/` keeps of a run.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use comfy_table::{CellAlignment, Table, presets};

/// Rows under headings. The columns in `numbers` are aligned to the right.
pub(crate) struct Grid<'a> {
    pub(crate) headings: &'a [&'a str],
    pub(crate) numbers: std::ops::Range<usize>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Grid<'_> {
    /// For the terminal.
    pub(crate) fn text(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(self.headings);
        table.add_rows(&self.rows);
        for column in self.numbers.clone() {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        format!("{table}\n")
    }

    pub(crate) fn markdown(&self) -> String {
        let rule = |column| if self.numbers.contains(&column) { "--:" } else { "---" };
        let headings = self.headings.iter().map(|heading| (*heading).to_owned()).collect();
        let rules = (0..self.headings.len()).map(|column| rule(column).to_owned()).collect();
        let mut text = String::new();
        for row in [headings, rules].iter().chain(&self.rows) {
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
        text
    }
}

/// Writes `STEM.EXTENSION` for each extension and its text; answers the paths.
pub(crate) fn write(
    results: &Path,
    stem: &str,
    files: &[(&str, String)],
) -> Result<Vec<PathBuf>, String> {
    std::fs::create_dir_all(results)
        .map_err(|error| format!("cannot make {}: {error}", results.display()))?;
    let written = files.iter().map(|(extension, text)| {
        let path = results.join(format!("{stem}.{extension}"));
        std::fs::write(&path, text)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(path)
    });
    written.collect()
}

/// What is written down, as JSON.
pub(crate) fn json(report: &impl serde::Serialize) -> Result<String, String> {
    let json = serde_json::to_string_pretty(report)
        .map_err(|error| format!("the report cannot be written as JSON: {error}"))?;
    Ok(json + "\n")
}
