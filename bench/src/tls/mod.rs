//! What does the front door cost? Handshakes and requests a second by each protocol, for a node beside nginx and
//! Caddy, in turn, all with the same certificate and the same page.

mod client;
mod findings;
mod h2;
mod h3;
mod handshakes;
mod load;
mod plan;

use serde::Serialize;

use crate::cluster::Place;
use crate::generator;
use crate::hosting::Findings;
use crate::progress;
use crate::servers::{Door, FrontDoor, Identity, Page};
use crate::window::{Measurement, Span};

pub(crate) use load::run as run_load;
pub(crate) use plan::{Plan, Work};

/// Bytes of the page.
const PAGE_BYTES: usize = 1_000;

/// How long, and what.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each server is measured, in turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds of load before each measurement.
    #[arg(long, default_value_t = 1.0)]
    warmup_seconds: f64,
    /// What is measured [default: everything]
    #[arg(long, value_delimiter = ',')]
    only: Vec<Work>,
}

/// One kind of work and what each server made of it.
#[derive(Serialize)]
struct Asked {
    work: Work,
    servers: Vec<Answered>,
}

#[derive(Serialize)]
struct Answered {
    door: Door,
    /// None where the server does not speak the protocol.
    rounds: Vec<Measurement>,
}

/// Servers that run, and what they have in common.
struct Doors {
    running: Vec<(Door, FrontDoor)>,
    identity: Identity,
    page: Page,
    /// What each of them is, or how to get it.
    notes: Vec<String>,
}

/// Asks it of a node and of the peers that are installed.
pub(crate) fn ask(place: &Place, args: &Args) -> Result<Findings, String> {
    let doors = Doors::start(place)?;
    let works = if args.only.is_empty() { &Work::ALL[..] } else { &args.only };
    let mut all: Vec<_> = works.iter().map(|&work| Asked::new(work, &doors)).collect();
    let bar = progress::bar(works.len() * args.rounds.max(1) * doors.running.len());
    // All works in each round, so that a disturbance falls on few rounds of each.
    for round in 0..args.rounds.max(1) {
        // Whoever comes first in one round comes last in the next.
        let mut order: Vec<usize> = (0..doors.running.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for asked in &mut all {
            for &at in &order {
                let (door, server) = &doors.running[at];
                progress::step(&bar, &format!("{} on {}", asked.work.name(), door.name()));
                if door.speaks(asked.work) {
                    let measured = doors.measure(place, args, asked.work, server)?;
                    asked.servers[at].rounds.push(measured);
                }
            }
        }
    }
    bar.finish_and_clear();
    Ok(findings::findings(args, doors.notes, &all))
}

impl Doors {
    /// Starts all servers. A peer that is not installed is left out.
    fn start(place: &Place) -> Result<Self, String> {
        let (identity, page) = (Identity::make()?, Page::of(PAGE_BYTES));
        let (mut running, mut notes) = (Vec::new(), Vec::new());
        for door in Door::ALL {
            match door.version() {
                Ok(version) => {
                    let server = FrontDoor::start(&place.site, door, &identity, &page)?;
                    running.push((door, server));
                    notes.push(format!("{} {version}", door.name()));
                }
                Err(why) => notes.push(format!("{} was not measured: {why}", door.name())),
            }
        }
        let notes = vec![format!("{}.", notes.join("; "))];
        Ok(Self { running, identity, page, notes })
    }

    fn measure(
        &self,
        place: &Place,
        args: &Args,
        work: Work,
        server: &FrontDoor,
    ) -> Result<Measurement, String> {
        let plan = Plan {
            work,
            target: server.address,
            host: self.identity.host.to_owned(),
            certificate: self.identity.der.clone(),
            body_bytes: self.page.bytes(),
            span: Span {
                warmup_ms: (args.warmup_seconds * 1e3) as u64,
                window_ms: (args.seconds * 1e3).max(1.0) as u64,
                server_core: place.site.core,
                load_core: place.load_core,
                server: Some(server.id()),
            },
        };
        let input = serde_json::to_vec(&plan).map_err(|error| error.to_string())?;
        generator::measure(Some(place.load_core), "tls-load", [], &input)
    }
}

impl Asked {
    fn new(work: Work, doors: &Doors) -> Self {
        let answered = |(door, _): &(Door, _)| Answered { door: *door, rounds: Vec::new() };
        Self { work, servers: doors.running.iter().map(answered).collect() }
    }
}

impl Door {
    /// The nginx of Debian 12 is older than nginx's HTTP/3.
    fn speaks(self, work: Work) -> bool {
        self != Self::Nginx || !work.is_quic()
    }
}
