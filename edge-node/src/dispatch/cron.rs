//! Fires cron lines when they come due. Misses are not made up for: a node that was down starts afresh.

use std::sync::Arc;
use std::time::Duration;

use croner::Cron;
use croner::parser::CronParser;
use tokio::sync::watch;
use tracing::warn;

use super::thread::Job;
use crate::registry::{Schedule, Snapshot};

/// The longest sleep between two looks at the clock, so that a changed clock is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// Fires until the registry is gone. `fire` hands a job to some thread and says whether it was taken.
pub async fn run_crons(mut snapshots: watch::Receiver<Arc<Snapshot>>, fire: impl Fn(Job) -> bool) {
    let mut last = chrono_now();
    loop {
        let schedules = parsed(&snapshots.borrow_and_update().schedules);
        let next = schedules
            .iter()
            .filter_map(|(cron, _)| cron.find_next_occurrence(&last, false).ok())
            .min();
        let wait =
            next.map_or(SLEEP_MAX, |due| (due - chrono_now()).to_std().unwrap_or(Duration::ZERO));
        tokio::select! {
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
                continue;
            }
            () = tokio::time::sleep(wait.min(SLEEP_MAX)) => {}
        }
        let Some(due) = next.filter(|due| *due <= chrono_now()) else { continue };
        for (cron, schedule) in &schedules {
            if cron.is_time_matching(&due).unwrap_or(false) {
                let job = Job::Scheduled {
                    worker: schedule.worker.clone(),
                    cron: schedule.cron.clone(),
                    scheduled_ms: u64::try_from(due.timestamp_millis()).unwrap_or(0),
                };
                if !fire(job) {
                    warn!(worker = %schedule.worker.worker, cron = schedule.cron, "cron line skipped: every thread is busy");
                }
            }
        }
        last = due;
    }
}

fn chrono_now() -> chrono::DateTime<chrono::Utc> {
    chrono::Utc::now()
}

fn parsed(schedules: &[Schedule]) -> Vec<(Cron, Schedule)> {
    let parser = CronParser::new();
    // The API refuses lines that do not parse.
    schedules
        .iter()
        .filter_map(|schedule| Some((parser.parse(&schedule.cron).ok()?, schedule.clone())))
        .collect()
}
