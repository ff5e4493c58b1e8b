//! What a question found, as a table for the terminal and as files for `results/`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::machine::Machine;
use crate::results::{self, Grid};

/// A question's answer.
pub(crate) struct Findings {
    /// The question's name on the command line and in results.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) grid: Grid<'static>,
    /// What was compared, and what came out: a sentence or two each.
    pub(crate) notes: Vec<String>,
    /// The plot, as SVG.
    pub(crate) plot: String,
    /// Everything that was measured.
    pub(crate) measured: Value,
}

#[derive(Serialize)]
struct Report<'a> {
    machine: &'a Machine,
    versions: &'a [String],
    notes: &'a [String],
    measured: &'a Value,
}

impl Findings {
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n{}", self.title, self.grid.text());
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        text
    }

    /// Writes `NAME-COMMIT.{json,md,svg}`; answers their paths.
    pub(crate) fn write(
        &self,
        results: &Path,
        machine: &Machine,
        versions: &[String],
    ) -> Result<Vec<PathBuf>, String> {
        let stem = format!("{}-{}", self.name, machine.commit);
        let Self { notes, measured, .. } = self;
        let json = results::json(&Report { machine, versions, notes, measured })?;
        let markdown = self.markdown(&stem, machine, versions);
        let files = [("json", json), ("md", markdown), ("svg", self.plot.clone())];
        results::write(results, &stem, &files)
    }

    fn markdown(&self, stem: &str, machine: &Machine, versions: &[String]) -> String {
        let mut text = format!(
            "# {title}\n\n![{title}]({stem}.svg)\n\n{}- {}\n\n{}\n",
            machine.lines(),
            versions.join(", "),
            self.grid.markdown(),
            title = self.title,
        );
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        text
    }
}
