//! A worker's request to a pool: attempts, each at another origin, as long as nothing is done twice by them.

use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use atoll_router::origins::Vantage;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;

use super::checks;
use super::clients::OriginClients;
use super::live::{LivePool, UnderWay, Whence};
use crate::held_body::HeldBody;
use crate::observe::{Metrics, OriginEvent};
use crate::outbound::{
    Outbound, OutboundError, ReqBody, ResBody, Resendable, ServerSocket, Stage, Unanswered,
};

/// Where a request goes that a pool is for, and from where.
pub(crate) struct Upstream {
    pub(crate) pool: Arc<LivePool>,
    pub(crate) clients: Rc<OriginClients>,
    pub(crate) whence: Whence,
    pub(crate) metrics: Arc<Metrics>,
}

/// No origin answered a request.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct PoolError(String);

/// What one attempt gives: the status, and whatever comes with it.
type Attempted<T> = Result<(StatusCode, T), Unanswered>;

impl Upstream {
    /// Sends a request to an origin of the pool, and to another one if that does nothing twice.
    pub(crate) async fn send(
        &self,
        request: Request<ReqBody>,
    ) -> Result<Response<ResBody>, PoolError> {
        let (parts, body) = request.into_parts();
        let body = Resendable::new(body);
        let is_idempotent = parts.method.is_idempotent();
        let may_resend = |stage| match stage {
            Stage::Connecting => body.is_whole(),
            Stage::Sending => is_idempotent && body.is_whole(),
            // Its time is over.
            Stage::Waiting => false,
        };
        let attempt = async |client: Outbound, parts: Parts| {
            let response = client.attempt(parts, &body).await?;
            Ok((response.status(), response))
        };
        let (response, under_way) = self.attempts(&parts, attempt, may_resend).await?;
        Ok(response.map(|body| HeldBody::new(body, under_way).boxed_unsync()))
    }

    /// Asks an origin of the pool for a WebSocket, as [`Outbound::websocket`]. The request is under way until what
    /// comes last is dropped.
    pub(crate) async fn websocket(
        &self,
        request: Request<()>,
    ) -> Result<(Response<ResBody>, Option<ServerSocket>, UnderWay), PoolError> {
        let (parts, ()) = request.into_parts();
        let attempt = async |client: Outbound, parts: Parts| {
            let answer = client.websocket(Request::from_parts(parts, ())).await;
            let (response, socket) = answer.map_err(|error| {
                let is_late = matches!(error, OutboundError::ResponseTimeout { .. });
                Unanswered { error, stage: if is_late { Stage::Waiting } else { Stage::Sending } }
            })?;
            Ok((response.status(), (response, socket)))
        };
        // A handshake is a GET without a body.
        let may_resend = |stage| stage != Stage::Waiting;
        let ((response, socket), under_way) = self.attempts(&parts, attempt, may_resend).await?;
        Ok((response, socket, under_way))
    }

    async fn attempts<T>(
        &self,
        parts: &Parts,
        attempt: impl AsyncFn(Outbound, Parts) -> Attempted<T>,
        may_resend: impl Fn(Stage) -> bool,
    ) -> Result<(T, UnderWay), PoolError> {
        let Self { pool, clients, whence, metrics } = self;
        pool.touch();
        checks::keep(pool, clients, metrics);
        let vantage = Vantage {
            country: whence.country.as_deref(),
            continent: whence.continent.as_deref(),
            region: clients.region.as_deref(),
        };
        let mut tried = Vec::new();
        let mut failures = Failures::of(pool);
        while let Some(under_way) = pool.begin(&vantage, &tried) {
            let (at, began) = (under_way.at, Instant::now());
            tried.push(at);
            let mut parts = parts.clone();
            parts.uri = pool.addressed(&parts.uri, at);
            match attempt(clients.of(pool, at), parts).await {
                Ok((status, answer)) => {
                    pool.answered(at, status.as_u16(), began.elapsed(), metrics);
                    return Ok((answer, under_way));
                }
                Err(Unanswered { error, stage }) => {
                    let event = match stage {
                        Stage::Connecting => OriginEvent::Unreachable,
                        Stage::Sending | Stage::Waiting => OriginEvent::Lost,
                    };
                    pool.unanswered(at, event, &error.to_string(), metrics);
                    failures.note(at, &error);
                    if !may_resend(stage) {
                        return Err(failures.not_sent_again(stage));
                    }
                }
            }
        }
        Err(failures.all())
    }
}

/// What is told when no origin answered.
struct Failures<'a> {
    pool: &'a LivePool,
    told: String,
}

impl<'a> Failures<'a> {
    fn of(pool: &'a LivePool) -> Self {
        Self { pool, told: String::new() }
    }

    fn note(&mut self, at: usize, error: &OutboundError) {
        let separator = if self.told.is_empty() { "" } else { "; " };
        let address = &self.pool.pool.origins[at].address;
        let _ = write!(self.told, "{separator}{address}: {error}");
    }

    fn all(self) -> PoolError {
        PoolError(format!(
            "no origin of the pool for {} answers: {}",
            self.pool.pool.host, self.told
        ))
    }

    fn not_sent_again(self, stage: Stage) -> PoolError {
        let why = match stage {
            Stage::Waiting => "the time for an answer is over",
            Stage::Connecting | Stage::Sending => "the origin may have acted upon it",
        };
        let host = &self.pool.pool.host;
        PoolError(format!(
            "an origin of the pool for {host} gave no response, and the request is not sent again, \
             since {why}: {}",
            self.told
        ))
    }
}
