//! Progress on a terminal; lines of text where there is none.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of this many steps, hidden where nobody looks.
pub(crate) fn bar(steps: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    ProgressBar::new(steps as u64).with_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} (about {eta} left)")
            .expect("the template is well-formed"),
    )
}

/// Begins the next step of `bar` and says what it is.
pub(crate) fn step(bar: &ProgressBar, what: &str) {
    bar.inc(1);
    if bar.is_hidden() {
        eprintln!("{what}");
    } else {
        bar.set_message(what.to_owned());
    }
}
