//! A run: every question asked of every server, in turn (A B C, A B C, ...), so that whatever
//! else the machine does falls on all of them alike.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::load::Measurement;
use crate::process::on_core;
use crate::questions::Question;
use crate::servers::{self, Kind, RESPONDER_ANSWER, Server, Site};

/// Connections of the generator's own ceiling.
const CEILING_CONNECTIONS: usize = 64;

/// What to measure, and how.
pub(crate) struct Plan {
    pub(crate) site: Site,
    pub(crate) questions: Vec<&'static Question>,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) rounds: usize,
    pub(crate) window_ms: u64,
    pub(crate) warmup_ms: u64,
    pub(crate) connections: Option<usize>,
    pub(crate) load_core: usize,
}

/// Everything that a run measured.
#[derive(Serialize)]
pub(crate) struct Measured {
    pub(crate) rounds: usize,
    pub(crate) window_ms: u64,
    pub(crate) warmup_ms: u64,
    pub(crate) versions: Vec<(Kind, String)>,
    /// The generator against a responder that does nothing.
    pub(crate) ceiling: Vec<Measurement>,
    pub(crate) questions: Vec<Asked>,
}

/// One question and what each server made of it.
#[derive(Serialize)]
pub(crate) struct Asked {
    pub(crate) question: &'static str,
    pub(crate) compared: &'static str,
    pub(crate) connections: usize,
    /// Bytes of one response's body.
    pub(crate) body_bytes: u64,
    pub(crate) servers: Vec<(Kind, Vec<Measurement>)>,
}

/// A plan under way.
pub(crate) struct Run {
    plan: Plan,
    versions: Vec<(Kind, String)>,
    progress: ProgressBar,
}

impl Run {
    /// Finds every server before the first measurement.
    pub(crate) fn new(plan: Plan) -> Result<Self, String> {
        let versions = plan.kinds.iter().map(|&kind| {
            let version = servers::version(&plan.site, kind)?;
            Ok((kind, version))
        });
        let versions = versions.collect::<Result<_, String>>()?;
        let steps = plan.rounds * (1 + plan.questions.len() * plan.kinds.len());
        let progress = if std::io::stderr().is_terminal() {
            ProgressBar::new(steps as u64).with_style(
                ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} (about {eta} left)")
                    .expect("the template is well-formed"),
            )
        } else {
            ProgressBar::hidden()
        };
        Ok(Self { plan, versions, progress })
    }

    pub(crate) fn measure(self) -> Result<Measured, String> {
        let mut ceiling = Vec::new();
        for _ in 0..self.plan.rounds {
            self.step("the load generator's ceiling");
            let server = self.plan.site.start_responder()?;
            let bytes = RESPONDER_ANSWER.len() as u64;
            ceiling.push(self.load(&server, CEILING_CONNECTIONS, bytes)?);
        }
        let questions = self.plan.questions.iter().map(|question| self.ask(question));
        let questions = questions.collect::<Result<_, _>>()?;
        self.progress.finish_and_clear();
        Ok(Measured {
            rounds: self.plan.rounds,
            window_ms: self.plan.window_ms,
            warmup_ms: self.plan.warmup_ms,
            versions: self.versions,
            ceiling,
            questions,
        })
    }

    fn ask(&self, question: &'static Question) -> Result<Asked, String> {
        let connections = self.plan.connections.unwrap_or(question.connections);
        let mut servers: Vec<_> = self.plan.kinds.iter().map(|&kind| (kind, vec![])).collect();
        for _ in 0..self.plan.rounds {
            for (kind, measurements) in &mut servers {
                self.step(&format!("{} on {}", question.name, kind.name()));
                let server = self.plan.site.start(*kind, question)?;
                measurements.push(self.load(&server, connections, question.answer.bytes())?);
            }
        }
        Ok(Asked {
            question: question.name,
            compared: question.compared,
            connections,
            body_bytes: question.answer.bytes(),
            servers,
        })
    }

    /// Runs the load generator, in a process of its own on its own core.
    fn load(
        &self,
        server: &Server,
        connections: usize,
        body_bytes: u64,
    ) -> Result<Measurement, String> {
        let this = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = on_core(self.plan.load_core, this);
        command.args(["load", "--host", &server.host]);
        for (option, value) in [
            ("--target", server.address.to_string()),
            ("--connections", connections.to_string()),
            ("--warmup-ms", self.plan.warmup_ms.to_string()),
            ("--window-ms", self.plan.window_ms.to_string()),
            ("--body-bytes", body_bytes.to_string()),
            ("--server-core", self.plan.site.core.to_string()),
            ("--load-core", self.plan.load_core.to_string()),
        ] {
            command.arg(option).arg(value);
        }
        let output = command
            .output()
            .map_err(|error| format!("cannot start the load generator: {error}"))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(format!("the load generator failed: {stderr}"));
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("the load generator's answer is unreadable: {error}"))
    }

    fn step(&self, what: &str) {
        self.progress.inc(1);
        if self.progress.is_hidden() {
            eprintln!("measuring {what}");
        } else {
            self.progress.set_message(what.to_owned());
        }
    }
}
