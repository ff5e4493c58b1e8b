//! What came out, as a table, a plot and sentences.

use serde_json::json;

use super::{Answered, Args, Asked, PAGE_BYTES, Work};
use crate::hosting::Findings;
use crate::plot::{self, Bar, Panel, Scale};
use crate::report::{busy_core, median};
use crate::results::Grid;
use crate::servers::Door;

const HEADINGS: [&str; 11] = [
    "what",
    "server",
    "a second",
    "least",
    "most",
    "CPU us each",
    "p50 ms",
    "p99 ms",
    "errors",
    "atoll is",
    "busy core",
];

/// What is compared, plainly.
const COMPARED: &str = "**The servers do not do the same work.** *atoll* runs a worker's JavaScript for each request, \
     under its limits and metering; *nginx* (`return 200`) and *caddy* (`static_response`) answer with a constant from \
     their configuration. What is the same: the page, the certificate (ECDSA, P-256), TLS 1.3 with X25519 and \
     TLS_AES_128_GCM_SHA256 (the clients offer nothing else), one core and one working thread, no access log.";

const HANDSHAKES: &str = "A handshake is a connection of its own, without a request: over TCP from connecting, by way \
     of the handshake and the tickets, until the server has closed; over QUIC until the client has the server's part. \
     A resumed one must be by the ticket of the client's connection before, and counts as an error otherwise. Clients \
     compare the certificate with the one they expect and check no signature, which would take them longer than the \
     server's part.";

pub(super) fn findings(args: &Args, versions: Vec<String>, all: &[Asked]) -> Findings {
    let mut notes = versions;
    notes.extend([COMPARED.to_owned(), HANDSHAKES.to_owned(), requests(args)]);
    if all.iter().flat_map(|asked| &asked.servers).any(|one| one.rounds.is_empty()) {
        notes.push("nginx is not measured over QUIC, hence \"-\": it has HTTP/3 from 1.25 on, and Debian 12 has 1.22.".to_owned());
    }
    notes.extend(all.iter().flat_map(Asked::first_errors));
    Findings {
        name: "tls",
        title: "TLS handshakes, and requests by HTTP/1.1, 2 and 3",
        grid: Grid {
            headings: &HEADINGS,
            numbers: 2..10,
            rows: all.iter().flat_map(Asked::rows).collect(),
        },
        notes,
        plot: plot::bars(&all.iter().map(Asked::panel).collect::<Vec<_>>()),
        measured: json!(all),
    }
}

fn requests(args: &Args) -> String {
    let shapes = [Work::Full, Work::Http1, Work::Http2].map(Work::shape);
    let [(handshakes, _), (http1, _), (connections, streams)] = shapes;
    format!(
        "Each request is answered with status 200 and {PAGE_BYTES} bytes, or is an error. {handshakes} handshakes at \
         once; HTTP/1.1 on {http1} connections, HTTP/2 and HTTP/3 on {connections} connections of {streams} requests \
         at once. Medians of {} rounds of {} s after {} s of warm-up, with the least and the most, in turn, whoever \
         was first in a round last in the next. *atoll is*: its figure over the server's in the same round, the \
         median. *CPU us each* is the CPU time of the server's processes, the kernel's part included, which other work \
         on the machine changes less than the rates. The generator's clients are in one thread on the other core; where \
         that core is the busy one the server could do more.",
        args.rounds.max(1),
        args.seconds,
        args.warmup_seconds,
    )
}

impl Asked {
    fn rows(&self) -> Vec<Vec<String>> {
        self.servers.iter().map(|one| one.cells(self.work, self.ratio(one))).collect()
    }

    /// Atoll's figure over a peer's.
    fn ratio(&self, peer: &Answered) -> Option<f64> {
        let atoll = self.servers.iter().find(|one| one.door == Door::Atoll)?;
        if peer.door == Door::Atoll || peer.rounds.is_empty() {
            return None;
        }
        let rounds: Vec<_> = atoll.rounds.iter().zip(&peer.rounds).collect();
        Some(median(&rounds, |(ours, theirs)| {
            ours.requests_per_second / theirs.requests_per_second.max(1.0)
        }))
    }

    fn panel(&self) -> Panel {
        let bar = |one: &Answered| {
            let ratio = self.ratio(one).map(|ratio| format!(" (atoll {ratio:.2}x)"));
            let text = match one.rounds.is_empty() {
                true => "-".to_owned(),
                false => format!("{:.0}{}", one.rate(), ratio.unwrap_or_default()),
            };
            let ours = one.door == Door::Atoll;
            Bar { label: one.door.name().to_owned(), value: one.rate(), text, ours }
        };
        Panel {
            title: format!("{}, a second on one core", self.work.name()),
            scale: Scale::Linear,
            bars: self.servers.iter().map(bar).collect(),
        }
    }

    fn first_errors(&self) -> Vec<String> {
        let sentence = |one: &Answered| {
            let error = one.rounds.iter().find_map(|round| round.first_error.as_ref())?;
            let (work, door) = (self.work.name(), one.door.name());
            Some(format!("{work} on {door}: the first error: {error}"))
        };
        self.servers.iter().filter_map(sentence).collect()
    }
}

impl Answered {
    fn rate(&self) -> f64 {
        median(&self.rounds, |round| round.requests_per_second)
    }

    fn cells(&self, work: Work, ratio: Option<f64>) -> Vec<String> {
        let mut cells = vec![work.name().to_owned(), self.door.name().to_owned()];
        if self.rounds.is_empty() {
            cells.resize(HEADINGS.len(), "-".to_owned());
            return cells;
        }
        let rates = || self.rounds.iter().map(|round| round.requests_per_second);
        let milliseconds = |us: f64| format!("{:.2}", us / 1e3);
        cells.extend([
            format!("{:.0}", self.rate()),
            format!("{:.0}", rates().fold(f64::INFINITY, f64::min)),
            format!("{:.0}", rates().fold(0.0, f64::max)),
            format!("{:.1}", median(&self.rounds, |round| round.server_cpu_us.unwrap_or(f64::NAN))),
            milliseconds(median(&self.rounds, |round| round.p50_us)),
            milliseconds(median(&self.rounds, |round| round.p99_us)),
            self.rounds.iter().map(|round| round.errors).sum::<u64>().to_string(),
            ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}x")),
            busy_core(
                median(&self.rounds, |round| round.server_core_busy),
                median(&self.rounds, |round| round.load_core_busy),
            ),
        ]);
        cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::Measurement;

    fn answered(door: Door, rates: &[f64]) -> Answered {
        let round = |&requests_per_second| Measurement {
            requests: 1,
            errors: 0,
            first_error: None,
            requests_per_second,
            p50_us: 1_500.0,
            p99_us: 2_500.0,
            server_core_busy: 1.0,
            load_core_busy: 0.5,
            server_cpu_us: Some(20.0),
        };
        Answered { door, rounds: rates.iter().map(round).collect() }
    }

    #[test]
    fn ratios_are_of_the_same_round_and_missing_protocols_are_dashes() {
        let servers = vec![
            answered(Door::Atoll, &[100.0, 300.0, 200.0]),
            answered(Door::Nginx, &[]),
            answered(Door::Caddy, &[50.0, 100.0, 400.0]),
        ];
        let rows = Asked { work: Work::Http3, servers }.rows();
        assert_eq!(
            rows[0][2..],
            ["200", "100", "300", "20.0", "1.50", "2.50", "0", "", "server's"]
        );
        assert_eq!(rows[1][2..], ["-"; 9]);
        assert_eq!(rows[2][2..5], ["100", "50", "400"]);
        assert_eq!(rows[2][9], "2.00x");
    }
}
