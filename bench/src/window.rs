//! The stretch of time that load is measured in, and what load generators see in it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::footprint;
use crate::histogram::Histogram;
use crate::machine::CoreTimes;

/// How long after the window a client may take to finish what it has begun.
const GRACE: Duration = Duration::from_secs(10);

/// What one window showed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// Right responses completed inside the window, or whatever else was asked for.
    pub(crate) requests: u64,
    /// Wrong or failed responses, in the warm-up too.
    pub(crate) errors: u64,
    /// What the first error said.
    pub(crate) first_error: Option<String>,
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Share of the window in which the server's core was busy, with whatever ran there.
    pub(crate) server_core_busy: f64,
    /// Share of the window in which the generator's core was busy.
    pub(crate) load_core_busy: f64,
    /// Microseconds of the server's CPU time a request, the kernel's part for it included; absent where the server's
    /// process is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) server_cpu_us: Option<f64>,
}

/// When is measured, and on which cores.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, clap::Args)]
pub(crate) struct Span {
    /// Milliseconds of load before the measurement.
    #[arg(long)]
    pub(crate) warmup_ms: u64,
    /// Milliseconds measured.
    #[arg(long)]
    pub(crate) window_ms: u64,
    /// The server's core: its busy share is measured.
    #[arg(long)]
    pub(crate) server_core: usize,
    /// The generator's core: its busy share is measured.
    #[arg(long)]
    pub(crate) load_core: usize,
    /// The server's process: the CPU time of it and its descendants is measured.
    #[arg(long)]
    pub(crate) server: Option<u32>,
}

/// A span that has begun. All clients of a generator share it.
pub(crate) struct Window {
    span: Span,
    start: Instant,
    end: Instant,
    tally: Mutex<Tally>,
}

struct Tally {
    histogram: Histogram,
    errors: u64,
    first_error: Option<String>,
}

impl Window {
    /// Begins with the warm-up.
    pub(crate) fn begin(span: Span) -> Arc<Self> {
        let start = Instant::now() + Duration::from_millis(span.warmup_ms);
        let end = start + Duration::from_millis(span.window_ms);
        let tally = Tally { histogram: Histogram::new(), errors: 0, first_error: None };
        Arc::new(Self { span, start, end, tally: Mutex::new(tally) })
    }

    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Something that began at `begun` was right and complete now; answers when that is.
    pub(crate) fn record(&self, begun: Instant) -> Instant {
        let done = Instant::now();
        if done >= self.start && done < self.end {
            self.tally().histogram.record(done - begun);
        }
        done
    }

    pub(crate) fn error(&self, message: String) {
        let mut tally = self.tally();
        tally.errors += 1;
        tally.first_error.get_or_insert(message);
    }

    /// Waits until the window is over and the clients have ended.
    pub(crate) async fn watch(&self, clients: Vec<JoinHandle<()>>) -> std::io::Result<Measurement> {
        tokio::time::sleep_until(self.start.into()).await;
        let before = CoreTimes::read()?;
        let server_before = self.server_cpu()?;
        tokio::time::sleep_until(self.end.into()).await;
        let after = CoreTimes::read()?;
        let server_cpu = self.server_cpu()?.zip(server_before);
        let server_cpu = server_cpu.map(|(after, before)| after.saturating_sub(before));
        for client in clients {
            if tokio::time::timeout_at((self.end + GRACE).into(), client).await.is_err() {
                self.error("what was begun did not end".to_owned());
            }
        }
        let tally = self.tally();
        let micros = |fraction| tally.histogram.quantile(fraction).as_nanos() as f64 / 1_000.0;
        let requests = tally.histogram.total();
        Ok(Measurement {
            requests,
            errors: tally.errors,
            first_error: tally.first_error.clone(),
            requests_per_second: requests as f64 * 1_000.0 / self.span.window_ms as f64,
            p50_us: micros(0.5),
            p99_us: micros(0.99),
            server_core_busy: after.busy_since(&before, self.span.server_core),
            load_core_busy: after.busy_since(&before, self.span.load_core),
            server_cpu_us: server_cpu.map(|time| time.as_secs_f64() * 1e6 / requests.max(1) as f64),
        })
    }

    fn server_cpu(&self) -> std::io::Result<Option<Duration>> {
        self.span.server.map(footprint::cpu_time_of_tree).transpose()
    }

    /// One thread runs every client, so the lock is never waited for.
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
