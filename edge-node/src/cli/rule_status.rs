//! `atoll rules status`: what comes of a worker's rules, in tables and plots.

use serde_json::Value;

use super::args::ProjectArgs;
use super::client::items;
use super::error::CliError;
use super::session::Session;
use super::terminal::{Terminal, printable};

/// Characters of a bar.
const BAR: usize = 30;
/// Characters of an interval's plot.
const PLOT: usize = 41;
/// Differences that chance makes more seldom are shown as such.
const SURE_P: f64 = 0.05;

pub(super) async fn run(
    session: &Session,
    worker: Option<String>,
    project: &ProjectArgs,
) -> Result<(), CliError> {
    let worker = session.worker(worker, project)?;
    let api = session.api().await?;
    let answer: Value = api.client.get(&api.script(&worker, "/rules/results")).await?;
    let terminal = session.terminal;
    if terminal.json {
        terminal.json(&answer);
        return Ok(());
    }
    let experiments = items(&answer["experiments"]);
    if experiments.is_empty() {
        terminal
            .note("no rule of the worker compares anything: give one variants, or a percentage");
    }
    for experiment in experiments {
        show(terminal, experiment);
    }
    if let Some(dropped) = answer["dropped_on_node"].as_u64().filter(|dropped| *dropped > 0) {
        terminal.warn(format!("{dropped} exposures or outcomes of this node found no room"));
    }
    Ok(())
}

fn show(terminal: Terminal, experiment: &Value) {
    let mut title = terminal.bold(&text(&experiment["rule"]));
    let sampled = number(&experiment["sampled"]);
    if sampled < 1.0 {
        title = format!("{title} (1 unit in {} is kept)", 1.0 / sampled);
    }
    terminal.line(title);
    let variants = items(&experiment["variants"]);
    let units: f64 = variants.iter().map(|variant| number(&variant["units"])).sum();
    let rows = variants.iter().map(|variant| variant_row(terminal, variant, units)).collect();
    let headings = ["variant", "share", "units", "of units", "requests", "errors", "p99"];
    terminal.table(&headings, rows);
    sample_ratio(terminal, &experiment["sample_ratio"]);
    for variant in variants.iter().filter(|variant| !variant["rolled_back"].is_null()) {
        let (name, rule) = (text(&variant["name"]), text(&experiment["rule"]));
        let why = text(&variant["rolled_back"]["why"]);
        terminal.line(terminal.red(&format!(
            "{name} was taken back: {why}. `atoll rules enable {rule}` gives it again."
        )));
    }
    if let Some(moved) = experiment["moved"].as_u64().filter(|moved| *moved > 0) {
        terminal.line(format!("{moved} units saw several variants and are in no difference"));
    }
    for metric in items(&experiment["metrics"]) {
        show_metric(terminal, metric);
    }
    terminal.line("");
}

fn variant_row(terminal: Terminal, variant: &Value, units: f64) -> Vec<String> {
    let name = text(&variant["name"]);
    let name = match (variant["is_control"] == true, variant["rolled_back"].is_null()) {
        (true, _) => format!("{name} (control)"),
        (false, true) => name,
        (false, false) => terminal.red(&format!("{name} (taken back)")),
    };
    let own = number(&variant["units"]);
    let part = if units > 0.0 { own / units } else { 0.0 };
    vec![
        name,
        percent(number(&variant["share"])),
        format!("{own}"),
        format!("{} {}", terminal.cyan(&bar(part)), percent(part)),
        format!("{}", number(&variant["requests"])),
        percent(number(&variant["error_rate"])),
        variant["p99_ms"].as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms")),
    ]
}

fn sample_ratio(terminal: Terminal, ratio: &Value) {
    if ratio["mismatch"] != true {
        return;
    }
    terminal.line(terminal.red(&format!(
        "sample ratio mismatch: chance makes it with p = {:.1e} (chi-square {:.1}). Do not trust these figures; \
         look for what loses units of one variant.",
        number(&ratio["p"]),
        number(&ratio["chi_square"])
    )));
}

fn show_metric(terminal: Terminal, metric: &Value) {
    let variants = items(&metric["variants"]);
    let name = text(&metric["name"]);
    let percent_of = |variant: &Value| percent(number(&variant["conversion_rate"]));
    let points = |value: f64| format!("{:+.2}", value * 100.0);
    let mut rows = measure_rows(
        terminal,
        [&name, "did it, points"],
        variants,
        "conversion",
        (&percent_of, &points),
    );
    let counts = |variant: &Value| number(&variant["sum"]) == number(&variant["converted"]);
    // Where each unit did it once, the mean is the share.
    if !variants.iter().all(counts) {
        let mean = |variant: &Value| format!("{:.4}", number(&variant["mean"]));
        let plain = |value: f64| format!("{value:+.4}");
        rows.extend(measure_rows(terminal, [&name, "mean"], variants, "value", (&mean, &plain)));
    }
    terminal.table(&["metric", "", "variant", "", "difference, 95 %"], rows);
}

/// How a variant's own figure is written, and a difference.
type Figures<'f> = (&'f dyn Fn(&Value) -> String, &'f dyn Fn(f64) -> String);

fn measure_rows(
    terminal: Terminal,
    [metric, measure]: [&str; 2],
    variants: &[Value],
    key: &str,
    (own, figure): Figures<'_>,
) -> Vec<Vec<String>> {
    let ends = variants.iter().flat_map(|variant| [&variant[key]["low"], &variant[key]["high"]]);
    let widest = ends.map(|end| number(end).abs()).fold(0.0, f64::max);
    let row = |variant: &Value| {
        let difference = difference(terminal, &variant[key], widest, figure);
        let name = text(&variant["variant"]);
        vec![metric.to_owned(), measure.to_owned(), name, own(variant), difference]
    };
    variants.iter().map(row).collect()
}

/// A difference with its interval, drawn and in figures.
fn difference(
    terminal: Terminal,
    found: &Value,
    widest: f64,
    figure: &dyn Fn(f64) -> String,
) -> String {
    if found.is_null() {
        return "-".to_owned();
    }
    let [low, middle, high] = ["low", "difference", "high"].map(|key| number(&found[key]));
    let drawn = interval(low, middle, high, widest);
    let drawn = match number(&found["p"]) < SURE_P {
        false => drawn,
        true if middle < 0.0 => terminal.red(&drawn),
        true => terminal.green(&drawn),
    };
    format!(
        "{drawn} {} [{}, {}] p={:.3}",
        figure(middle),
        figure(low),
        figure(high),
        number(&found["p"])
    )
}

/// An interval around its middle, beside the line where there is no difference.
fn interval(low: f64, middle: f64, high: f64, widest: f64) -> String {
    let half = (PLOT / 2) as f64;
    let place = |value: f64| {
        let scaled = if widest > 0.0 { value / widest } else { 0.0 };
        ((scaled.clamp(-1.0, 1.0) * half) + half).round() as usize
    };
    let (from, at, to) = (place(low), place(middle), place(high));
    let letter = |column: usize| match column {
        column if column == at => '●',
        column if column == from && from < at => '├',
        column if column == to && to > at => '┤',
        column if (from..to).contains(&column) => '─',
        column if column == PLOT / 2 => '│',
        _ => ' ',
    };
    (0..PLOT).map(letter).collect()
}

/// A part of a whole, drawn.
fn bar(part: f64) -> String {
    let eighths = (part.clamp(0.0, 1.0) * (BAR * 8) as f64).round() as usize;
    let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    let drawn = format!("{}{rest}", "█".repeat(eighths / 8));
    format!("{drawn:<BAR$}")
}

fn percent(part: f64) -> String {
    format!("{:.2} %", part * 100.0)
}

fn text(value: &Value) -> String {
    printable(value.as_str().unwrap_or_default())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_and_intervals_are_drawn_to_scale() {
        assert_eq!(bar(1.0), "█".repeat(BAR));
        assert_eq!(bar(0.5).trim_end(), "█".repeat(BAR / 2));
        assert_eq!(bar(0.0).chars().count(), BAR);
        let drawn: Vec<char> = interval(-0.5, 0.25, 1.0, 1.0).chars().collect();
        assert_eq!((drawn[10], drawn[25], drawn[40]), ('├', '●', '┤'));
        assert_eq!(interval(0.5, 0.75, 1.0, 1.0).chars().nth(20), Some('│'));
        assert_eq!(interval(0.0, 0.0, 0.0, 0.0).trim(), "●");
    }
}
