//! Prints invocations as `atoll dev` shows them: a line for the event, then what it logged.

use std::fmt::Write;
use std::path::Path;

use atoll_isolate::{LogLevel, LogLine, Outcome};

use super::stacks;
use super::terminal::{Terminal, printable};
use crate::report::{Event, InvocationReport};

/// One console line.
pub(crate) fn console(terminal: Terminal, line: &LogLine) -> String {
    let level = match line.level {
        LogLevel::Error => terminal.red("error"),
        LogLevel::Warn => terminal.yellow("warn"),
        LogLevel::Info => terminal.cyan("info"),
        LogLevel::Debug => terminal.dim("debug"),
        LogLevel::Log => terminal.dim("log"),
    };
    format!("  {level} {}", indented(&line.message))
}

/// The lines of a finished invocation; what it logged is shown as it happens.
pub(crate) fn summary(terminal: Terminal, report: &InvocationReport, project_dir: &Path) -> String {
    let mut text = String::new();
    let ms = report.wall_us as f64 / 1000.0;
    let _ = match &report.event {
        Event::Fetch { url, method, status, .. } => {
            let status = match status {
                Some(status @ 500..) => terminal.red(&status.to_string()),
                Some(status @ 400..) => terminal.yellow(&status.to_string()),
                Some(status) => terminal.green(&status.to_string()),
                None => terminal.red("-"),
            };
            let path = printable(path_of(url));
            write!(text, "{} {path} {status} {}", terminal.bold(method), elapsed(terminal, ms))
        }
        Event::Rule { url, method } => {
            let (rule, path) = (terminal.bold("rule"), printable(path_of(url)));
            write!(text, "{rule} {method} {path} {}", elapsed(terminal, ms))
        }
        Event::Scheduled { cron, .. } => {
            write!(text, "{} {cron} {}", terminal.bold("scheduled"), elapsed(terminal, ms))
        }
    };
    if !matches!(report.outcome, Outcome::Ok | Outcome::Exception) {
        let _ = write!(text, " {}", terminal.red(report.outcome.as_str()));
    }
    for exception in &report.exceptions {
        let summary = format!("{}: {}", exception.name, exception.message);
        // A stack begins with the summary that is about to be printed.
        let stack = exception.stack.as_deref().unwrap_or_default();
        let frames = stack.lines().filter(|l| l.trim_start().starts_with("at "));
        let frames = printable(&frames.collect::<Vec<_>>().join("\n"));
        let shown = stacks::with_excerpt(&frames, project_dir);
        let _ = write!(text, "\n  {} {}", terminal.red("uncaught"), indented(&summary));
        if !shown.is_empty() {
            let _ = write!(text, "\n{shown}");
        }
    }
    text
}

fn elapsed(terminal: Terminal, ms: f64) -> String {
    terminal.dim(&format!("{ms:.1} ms"))
}

fn indented(text: &str) -> String {
    printable(text).replace('\n', "\n  ")
}

/// The part of a URL after its host.
fn path_of(url: &str) -> &str {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    after_scheme.find('/').map_or("/", |at| &after_scheme[at..])
}
