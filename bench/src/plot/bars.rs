//! Horizontal bars in panels.

use std::fmt::Write;

use super::{MARGIN, OURS, THEIRS, WIDTH, svg};

const LETTER_WIDTH: f64 = 7.5;
const VALUE_WIDTH: f64 = 220.0;
const BAR_HEIGHT: f64 = 22.0;
const BAR_GAP: f64 = 6.0;
const TITLE_HEIGHT: f64 = 34.0;

/// Bars that are compared with each other. Each panel has its own scale.
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) scale: Scale,
    pub(crate) bars: Vec<Bar>,
}

/// What a bar's length says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    Linear,
    /// From half of the panel's least value on.
    Logarithmic,
}

/// One value.
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: f64,
    /// What stands beside the bar.
    pub(crate) text: String,
    /// Whether it is atoll's.
    pub(crate) ours: bool,
}

/// Draws the panels one below the other.
pub(crate) fn bars(panels: &[Panel]) -> String {
    let labels = panels.iter().flat_map(|panel| &panel.bars).map(|bar| bar.label.chars().count());
    let label_width = (labels.max().unwrap_or_default() as f64 + 1.0) * LETTER_WIDTH;
    let mut drawn = String::new();
    let mut y = MARGIN;
    for panel in panels {
        let _ = writeln!(
            drawn,
            r##"<text x="{MARGIN}" y="{:.0}" font-weight="bold">{}</text>"##,
            y + 20.0,
            panel.title
        );
        y += TITLE_HEIGHT;
        for bar in &panel.bars {
            draw(&mut drawn, bar, panel.share(bar.value), label_width, y);
            y += BAR_HEIGHT + BAR_GAP;
        }
        y += MARGIN;
    }
    svg(y, &drawn)
}

impl Panel {
    /// The part of the full length that a value is drawn with.
    fn share(&self, value: f64) -> f64 {
        let values = || self.bars.iter().map(|bar| bar.value).filter(|value| *value > 0.0);
        let most = values().fold(f64::MIN_POSITIVE, f64::max);
        match self.scale {
            Scale::Linear => value / most,
            Scale::Logarithmic => {
                let least = values().fold(most, f64::min) / 2.0;
                ((value.max(least) / least).ln() / (most / least).ln()).max(0.0)
            }
        }
    }
}

fn draw(out: &mut String, bar: &Bar, share: f64, label_width: f64, y: f64) {
    let width = (WIDTH - 2.0 * MARGIN - label_width - VALUE_WIDTH) * share;
    let left = MARGIN + label_width;
    let baseline = y + BAR_HEIGHT * 0.7;
    let fill = if bar.ours { OURS } else { THEIRS };
    let _ = writeln!(
        out,
        r##"<text x="{MARGIN}" y="{baseline:.0}">{}</text>
<rect x="{left}" y="{y:.0}" width="{width:.1}" height="{BAR_HEIGHT}" fill="{fill}"/>
<text x="{:.1}" y="{baseline:.0}">{}</text>"##,
        bar.label,
        left + width + 8.0,
        bar.text,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(scale: Scale, values: &[f64], expected: &[f64]) {
        let bar = |&value| Bar { label: String::new(), value, text: String::new(), ours: true };
        let panel = Panel { title: String::new(), scale, bars: values.iter().map(bar).collect() };
        for (value, expected) in values.iter().zip(expected) {
            let share = panel.share(*value);
            assert!((share - expected).abs() < 0.01, "{value} of {values:?} is drawn as {share}");
        }
    }

    #[test]
    fn bars_are_as_long_as_their_scale_says() {
        check(Scale::Linear, &[50.0, 100.0, 0.0], &[0.5, 1.0, 0.0]);
        check(Scale::Logarithmic, &[2.0, 4.0, 8.0], &[1.0 / 3.0, 2.0 / 3.0, 1.0]);
        check(Scale::Logarithmic, &[0.0, 3.0], &[0.0, 1.0]);
    }
}
