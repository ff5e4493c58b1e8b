//! A run: every question asked of every server, in turn (A B C, A B C, ...), so that whatever
//! else the machine does falls on all of them alike.

use indicatif::ProgressBar;
use serde::Serialize;

use crate::load::LoadArgs;
use crate::progress;
use crate::questions::Question;
use crate::servers::{self, Kind, RESPONDER_ANSWER, Server, Site};
use crate::window::{Measurement, Span};

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
        let progress = progress::bar(steps);
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

    fn load(
        &self,
        server: &Server,
        connections: usize,
        body_bytes: u64,
    ) -> Result<Measurement, String> {
        let load = LoadArgs {
            target: server.address,
            host: vec![server.host.clone()],
            visitors: 0,
            connections,
            body_bytes,
            span: Span {
                warmup_ms: self.plan.warmup_ms,
                window_ms: self.plan.window_ms,
                server_core: self.plan.site.core,
                load_core: self.plan.load_core,
                server: None,
            },
        };
        load.measure()
    }

    fn step(&self, what: &str) {
        progress::step(&self.progress, &format!("measuring {what}"));
    }
}
