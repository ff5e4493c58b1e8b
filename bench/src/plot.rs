//! A plot of requests a second: one panel per question, one bar per server, as SVG.

use std::fmt::Write;

use crate::report::Row;
use crate::servers::Kind;

const WIDTH: f64 = 720.0;
const LABEL_WIDTH: f64 = 80.0;
const VALUE_WIDTH: f64 = 220.0;
const BAR_HEIGHT: f64 = 22.0;
const BAR_GAP: f64 = 6.0;
const TITLE_HEIGHT: f64 = 34.0;
const MARGIN: f64 = 16.0;

/// Draws the rows, which come grouped by question. Each panel has its own scale.
pub(crate) fn bars(rows: &[Row]) -> String {
    let mut panels = String::new();
    let mut y = MARGIN;
    for panel in rows.chunk_by(|one, other| one.question == other.question) {
        let most = panel.iter().map(|row| row.requests_per_second).fold(1.0, f64::max);
        let _ = writeln!(
            panels,
            r##"<text x="{MARGIN}" y="{:.0}" font-weight="bold">{}, requests/s on one core</text>"##,
            y + 20.0,
            panel[0].question
        );
        y += TITLE_HEIGHT;
        for row in panel {
            bar(&mut panels, row, most, y);
            y += BAR_HEIGHT + BAR_GAP;
        }
        y += MARGIN;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y:.0}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#1f2328\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{panels}</svg>\n"
    )
}

fn bar(out: &mut String, row: &Row, most: f64, y: f64) {
    let full = WIDTH - 2.0 * MARGIN - LABEL_WIDTH - VALUE_WIDTH;
    let width = full * row.requests_per_second / most;
    let left = MARGIN + LABEL_WIDTH;
    let baseline = y + BAR_HEIGHT * 0.7;
    let fill = if row.server == Kind::Atoll { "#0b7285" } else { "#adb5bd" };
    let ratio = row.atoll_ratio.map_or_else(String::new, |ratio| format!(" (atoll {ratio:.2}x)"));
    let _ = writeln!(
        out,
        r##"<text x="{MARGIN}" y="{baseline:.0}">{}</text>
<rect x="{left}" y="{y:.0}" width="{width:.1}" height="{BAR_HEIGHT}" fill="{fill}"/>
<text x="{:.1}" y="{baseline:.0}">{:.0}{ratio}</text>"##,
        row.server.name(),
        left + width + 8.0,
        row.requests_per_second,
    );
}
