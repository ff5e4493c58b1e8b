//! Cumulative distributions of latencies, on a logarithmic axis.

use std::fmt::Write;

use super::{MARGIN, OURS, WIDTH, svg};
use crate::histogram::Histogram;

const HEIGHT: f64 = 320.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 48.0;
const LINE_HEIGHT: f64 = 20.0;
const STEPS: usize = 200;
const COLOURS: [&str; 6] = [OURS, "#e8590c", "#5f3dc4", "#868e96", "#2b8a3e", "#c2255c"];

/// One distribution.
pub(crate) struct Curve<'a> {
    pub(crate) label: &'a str,
    pub(crate) latencies: &'a Histogram,
}

/// Draws the share of calls that were answered within a time.
pub(crate) fn curves(title: &str, curves: &[Curve<'_>]) -> String {
    let curves: Vec<_> = curves.iter().filter(|curve| curve.latencies.total() > 0).collect();
    let ends = |fraction| curves.iter().map(move |curve| curve.latencies.quantile_ms(fraction));
    let least = 10f64.powf(ends(0.0).fold(1.0, f64::min).max(0.001).log10().floor());
    let most = 10f64.powf(ends(1.0).fold(least * 10.0, f64::max).log10().ceil());
    let x = |ms: f64| {
        let share = (ms.max(least) / least).log10() / (most / least).log10();
        LEFT + share * (WIDTH - LEFT - MARGIN)
    };
    let y = |fraction: f64| TOP + (1.0 - fraction) * HEIGHT;

    let mut drawn = format!("<text x=\"{MARGIN}\" y=\"28\" font-weight=\"bold\">{title}</text>\n");
    grid(&mut drawn, least, most, x, y);
    for (index, curve) in curves.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points: Vec<String> = (0..=STEPS)
            .map(|step| step as f64 / STEPS as f64)
            .map(|share| format!("{:.1},{:.1}", x(curve.latencies.quantile_ms(share)), y(share)))
            .collect();
        let legend = TOP + HEIGHT + 52.0 + index as f64 * LINE_HEIGHT;
        let _ = writeln!(
            drawn,
            r##"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>
<rect x="{LEFT}" y="{:.0}" width="18" height="4" fill="{colour}"/>
<text x="{:.0}" y="{legend:.0}">{} (median {:.2} ms)</text>"##,
            points.join(" "),
            legend - 6.0,
            LEFT + 26.0,
            curve.label,
            curve.latencies.quantile_ms(0.5),
        );
    }
    svg(TOP + HEIGHT + 60.0 + curves.len() as f64 * LINE_HEIGHT, &drawn)
}

/// Lines at each quarter and at 1, 2 and 5 of each power of ten of milliseconds.
fn grid(drawn: &mut String, least: f64, most: f64, x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) {
    for quarter in 0..=4 {
        let share = f64::from(quarter) / 4.0;
        let _ = writeln!(
            drawn,
            r##"<path d="M{LEFT} {:.1}H{:.0}" stroke="#dee2e6"/>
<text x="{MARGIN}" y="{:.1}">{:.0} %</text>"##,
            y(share),
            WIDTH - MARGIN,
            y(share) + 4.0,
            share * 100.0
        );
    }
    let mut power = least;
    while power < most * 1.01 {
        for times in
            [1.0, 2.0, 5.0].map(|part| part * power).into_iter().filter(|ms| *ms < most * 1.01)
        {
            let _ = writeln!(
                drawn,
                r##"<path d="M{0:.1} {TOP}V{1:.0}" stroke="#dee2e6"/>
<text x="{0:.1}" y="{2:.0}" text-anchor="middle">{times}</text>"##,
                x(times),
                TOP + HEIGHT,
                TOP + HEIGHT + 18.0
            );
        }
        power *= 10.0;
    }
    let _ = writeln!(
        drawn,
        r##"<text x="{:.0}" y="{:.0}" text-anchor="end">ms</text>"##,
        WIDTH - MARGIN,
        TOP + HEIGHT + 34.0
    );
}
