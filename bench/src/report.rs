//! Turns what was measured into medians and ratios: a table for the terminal, and JSON, Markdown
//! and a plot for `results/`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::machine::Machine;
use crate::plot::{self, Bar, Panel, Scale};
use crate::results::{self, Grid};
use crate::run::Measured;
use crate::servers::Kind;
use crate::window::Measurement;

/// A core busier than this is what limits a figure.
const SATURATED: f64 = 0.97;
const HEADINGS: [&str; 8] =
    ["question", "server", "requests/s", "p50 ms", "p99 ms", "errors", "atoll is", "busy core"];

/// A run and where it was made.
#[derive(Serialize)]
pub(crate) struct Report {
    machine: Machine,
    /// Requests a second that the generator itself can make: the median.
    ceiling_requests_per_second: f64,
    summary: Vec<Row>,
    measured: Measured,
}

/// One server's medians for one question.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) question: &'static str,
    pub(crate) server: Kind,
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Of all rounds together.
    pub(crate) errors: u64,
    /// Atoll's requests a second over this server's; absent for atoll itself or without it.
    pub(crate) atoll_ratio: Option<f64>,
    server_core_busy: f64,
    load_core_busy: f64,
}

impl Report {
    pub(crate) fn new(machine: Machine, measured: Measured) -> Self {
        let mut summary = Vec::new();
        for asked in &measured.questions {
            let rows = asked.servers.iter().map(|(kind, rounds)| (*kind, rounds));
            let mut rows: Vec<Row> =
                rows.map(|(kind, rounds)| Row::new(asked.question, kind, rounds)).collect();
            let atoll = rows.iter().find(|row| row.server == Kind::Atoll);
            if let Some(atoll) = atoll.map(|row| row.requests_per_second) {
                for row in rows.iter_mut().filter(|row| row.server != Kind::Atoll) {
                    row.atoll_ratio = Some(atoll / row.requests_per_second);
                }
            }
            summary.extend(rows);
        }
        let ceiling_requests_per_second =
            median(&measured.ceiling, |round| round.requests_per_second);
        Self { machine, ceiling_requests_per_second, summary, measured }
    }

    /// The table for the terminal.
    pub(crate) fn table(&self) -> String {
        if self.summary.is_empty() {
            return self.ceiling_line() + "\n";
        }
        format!("{}{}\n{}", self.grid().text(), self.ceiling_line(), self.first_errors())
    }

    fn grid(&self) -> Grid<'static> {
        let rows = self.summary.iter().map(|row| row.cells().into()).collect();
        Grid { headings: &HEADINGS, numbers: 2..6, rows }
    }

    /// Writes `NAME-COMMIT.{json,md,svg}`; answers their paths.
    pub(crate) fn write(&self, results: &Path, name: &str) -> Result<Vec<PathBuf>, String> {
        let stem = format!("{name}-{}", self.machine.commit);
        let markdown = self.markdown(&format!("{stem}.svg"));
        let svg = plot::bars(&self.panels());
        let files = [("json", results::json(self)?), ("md", markdown), ("svg", svg)];
        results::write(results, &stem, &files)
    }

    fn panels(&self) -> Vec<Panel> {
        let questions = self.summary.chunk_by(|one, other| one.question == other.question);
        let panels = questions.map(|rows| Panel {
            title: format!("{}, requests/s on one core", rows[0].question),
            scale: Scale::Linear,
            bars: rows.iter().map(Row::bar).collect(),
        });
        panels.collect()
    }

    fn markdown(&self, plot: &str) -> String {
        let Measured { rounds, window_ms, warmup_ms, versions, questions, .. } = &self.measured;
        let versions: Vec<String> =
            versions.iter().map(|(kind, version)| format!("{} {version}", kind.name())).collect();
        let mut text = format!(
            "# Requests a second on one core\n\n![Requests a second]({plot})\n\n\
             {}- {}\n- medians of {rounds} rounds in turn, {} s each after {} s of warm-up; every \
             server pinned to one core, the load generator to another\n- {}\n\n",
            self.machine.lines(),
            versions.join(", "),
            *window_ms as f64 / 1_000.0,
            *warmup_ms as f64 / 1_000.0,
            self.ceiling_line(),
        );
        text.push_str(&self.grid().markdown());
        text.push_str("\n## What is compared\n\n");
        for asked in questions {
            let _ = writeln!(
                text,
                "- **{}** ({} connections): {}",
                asked.question, asked.connections, asked.compared
            );
        }
        text + "\n" + &self.first_errors()
    }

    fn ceiling_line(&self) -> String {
        format!(
            "the load generator's own ceiling, against a responder that does nothing: {:.0} \
             requests/s",
            self.ceiling_requests_per_second
        )
    }

    /// One line for each server that erred.
    fn first_errors(&self) -> String {
        let mut text = String::new();
        for asked in &self.measured.questions {
            for (kind, rounds) in &asked.servers {
                if let Some(error) = rounds.iter().find_map(|round| round.first_error.as_ref()) {
                    let _ = writeln!(text, "{} on {}: {error}", asked.question, kind.name());
                }
            }
        }
        text
    }
}

impl Row {
    fn new(question: &'static str, server: Kind, rounds: &[Measurement]) -> Self {
        Self {
            question,
            server,
            requests_per_second: median(rounds, |round| round.requests_per_second),
            p50_us: median(rounds, |round| round.p50_us),
            p99_us: median(rounds, |round| round.p99_us),
            errors: rounds.iter().map(|round| round.errors).sum(),
            atoll_ratio: None,
            server_core_busy: median(rounds, |round| round.server_core_busy),
            load_core_busy: median(rounds, |round| round.load_core_busy),
        }
    }

    fn bar(&self) -> Bar {
        let ratio =
            self.atoll_ratio.map_or_else(String::new, |ratio| format!(" (atoll {ratio:.2}x)"));
        Bar {
            label: self.server.name().to_owned(),
            value: self.requests_per_second,
            text: format!("{:.0}{ratio}", self.requests_per_second),
            ours: self.server == Kind::Atoll,
        }
    }

    fn cells(&self) -> [String; 8] {
        [
            self.question.to_owned(),
            self.server.name().to_owned(),
            format!("{:.0}", self.requests_per_second),
            format!("{:.2}", self.p50_us / 1_000.0),
            format!("{:.2}", self.p99_us / 1_000.0),
            self.errors.to_string(),
            self.atoll_ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}x")),
            busy_core(self.server_core_busy, self.load_core_busy),
        ]
    }
}

/// Which core set the pace: a figure bounded by the generator is a floor.
pub(crate) fn busy_core(server: f64, load: f64) -> String {
    match (server >= SATURATED, load >= SATURATED) {
        (true, false) => "server's".to_owned(),
        (false, true) => "generator's (a floor)".to_owned(),
        (true, true) => "both".to_owned(),
        (false, false) => {
            format!("server's {:.0} %, generator's {:.0} %", server * 100.0, load * 100.0)
        }
    }
}

/// The middle value (the mean of the two middle ones); zero for none.
pub(crate) fn median<T>(rounds: &[T], value: impl Fn(&T) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        length if length % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}
