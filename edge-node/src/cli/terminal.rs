//! Prints for people on a terminal (colour, tables, progress), and plainly for everything else.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::{OwoColorize, Style};

use super::error::CliError;

const SPINNER_TICK: Duration = Duration::from_millis(100);

/// How and where to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terminal {
    /// Results are JSON.
    pub(crate) json: bool,
    /// Results may be coloured.
    pub(crate) color: bool,
    interactive: bool,
    stderr: bool,
}

impl Terminal {
    pub(crate) fn new(json: bool, no_color: bool) -> Self {
        let interactive = std::io::stdout().is_terminal();
        let stderr = std::io::stderr().is_terminal();
        Self { json, color: interactive && !no_color && !json, interactive, stderr }
    }

    pub(crate) fn is_interactive(self) -> bool {
        self.interactive
    }

    /// A line of the result. A reader that has gone away is no error.
    pub(crate) fn line(self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stdout(), "{}", text.as_ref());
    }

    /// The result as JSON.
    pub(crate) fn json(self, value: &serde_json::Value) {
        self.line(format!("{value:#}"));
    }

    /// A line beside the result: what is going on. Silent when results are JSON.
    pub(crate) fn note(self, text: impl AsRef<str>) {
        if !self.json {
            let _ = writeln!(std::io::stderr(), "{}", self.dim(text.as_ref()));
        }
    }

    /// A line of somebody else's, beside the result.
    pub(crate) fn beside(self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
    }

    pub(crate) fn warn(self, text: impl AsRef<str>) {
        let label = self.yellow("warning:");
        let _ = writeln!(std::io::stderr(), "{label} {}", text.as_ref());
    }

    pub(crate) fn error(self, text: impl AsRef<str>) {
        let label = self.red("error:");
        let _ = writeln!(std::io::stderr(), "{label} {}", text.as_ref());
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint(text, Style::new().bold())
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.paint(text, Style::new().dimmed())
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.paint(text, Style::new().green().bold())
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.paint(text, Style::new().yellow().bold())
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.paint(text, Style::new().red().bold())
    }

    pub(crate) fn cyan(self, text: &str) -> String {
        self.paint(text, Style::new().cyan())
    }

    /// A name before a line, in one of some colours.
    pub(crate) fn label(self, color: usize, name: &str) -> String {
        let style = Style::new();
        let styles = [
            style.cyan(),
            style.magenta(),
            style.green(),
            style.yellow(),
            style.blue(),
            style.red(),
        ];
        self.paint(&format!("{name} |"), styles[color % styles.len()])
    }

    fn paint(self, text: &str, style: Style) -> String {
        if self.color { text.style(style).to_string() } else { text.to_owned() }
    }

    /// Rows under headings: a table on a terminal, else fields parted by tabs.
    pub(crate) fn table(self, headings: &[&str], rows: Vec<Vec<String>>) {
        if !self.interactive {
            rows.iter().for_each(|row| self.line(row.join("\t")));
            return;
        }
        let heading = |text: &&str| match self.color {
            true => Cell::new(text).add_attribute(Attribute::Bold),
            false => Cell::new(text),
        };
        let mut table = Table::new();
        // Cells are never wrapped: ids and URLs are there to be copied.
        table
            .load_preset(presets::UTF8_BORDERS_ONLY)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(headings.iter().map(heading))
            .add_rows(rows.iter().map(|row| row.iter().map(|text| cell(text))));
        self.line(table.to_string());
    }

    /// Shows that something long is going on, until the returned value goes.
    pub(crate) fn spinner(self, message: impl Into<String>) -> Spinner {
        let message = message.into();
        if !self.stderr || self.json {
            self.note(&message);
            return Spinner(None);
        }
        let style = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}");
        let bar = ProgressBar::new_spinner().with_message(message);
        bar.set_style(style.expect("the template is constant and valid"));
        bar.enable_steady_tick(SPINNER_TICK);
        Spinner(Some(bar))
    }

    /// Asks before something that cannot be undone.
    pub(crate) fn confirm(self, question: &str, yes: bool) -> Result<(), CliError> {
        if yes {
            return Ok(());
        }
        if !self.interactive || !std::io::stdin().is_terminal() {
            return Err(CliError::Usage(format!("{question} Say so with --yes")));
        }
        let _ = write!(std::io::stdout(), "{question} [y/N] ");
        let _ = std::io::stdout().flush();
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        match read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
            true => Ok(()),
            false => Err(CliError::Failed("nothing was done".into())),
        }
    }
}

/// Something long that is going on.
pub(crate) struct Spinner(Option<ProgressBar>);

impl Spinner {
    pub(crate) fn message(&self, text: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(text.to_owned());
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// A tenant's text without what a terminal would obey: control characters other than the end of a line and
/// the tabulator are shown as such.
pub(crate) fn printable(text: &str) -> String {
    let obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    text.chars().map(|c| if obeyed(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A cell of a table. What paints all of its text becomes the cell's style: the table would measure it as text.
fn cell(text: &str) -> Cell {
    let painted = text.strip_prefix("\x1b[").and_then(|rest| rest.split_once('m'));
    let inner = painted.and_then(|(codes, rest)| Some((codes, rest.strip_suffix("\x1b[0m")?)));
    let Some((codes, inner)) = inner else { return Cell::new(text) };
    codes.split(';').fold(Cell::new(inner), |cell, code| match code {
        "1" => cell.add_attribute(Attribute::Bold),
        "2" => cell.add_attribute(Attribute::Dim),
        "31" => cell.fg(Color::DarkRed),
        "32" => cell.fg(Color::DarkGreen),
        "33" => cell.fg(Color::DarkYellow),
        "36" => cell.fg(Color::DarkCyan),
        _ => cell,
    })
}

#[cfg(test)]
mod tests {
    use super::{Terminal, cell, printable};

    #[test]
    fn a_painted_cell_is_as_wide_as_its_text() {
        let terminal = Terminal { json: false, color: true, interactive: true, stderr: false };
        for painted in [terminal.red("state"), terminal.dim("state"), terminal.bold("state")] {
            assert_eq!(cell(&painted).content(), "state", "{painted:?}");
        }
        assert_eq!(cell("state").content(), "state");
    }

    #[test]
    fn escape_sequences_lose_their_power() {
        assert_eq!(printable("a\x1b[31mb\r\n\tc\u{9b}2J"), "a\u{fffd}[31mb\u{fffd}\n\tc\u{fffd}2J");
    }
}
