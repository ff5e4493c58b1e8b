//! Plots as SVG.

mod bars;
mod curves;

pub(crate) use bars::{Bar, Panel, Scale, bars};
pub(crate) use curves::{Curve, curves};

const WIDTH: f64 = 720.0;
const MARGIN: f64 = 16.0;
const OURS: &str = "#0b7285";
const THEIRS: &str = "#adb5bd";

/// Wraps what was drawn down to `height`.
fn svg(height: f64, drawn: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#1f2328\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{drawn}</svg>\n"
    )
}
