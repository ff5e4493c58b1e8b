//! Fires cron lines when they come due. Misses are not made up for: a node that was down starts afresh.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use croner::Cron;
use croner::parser::CronParser;
use tokio::sync::watch;
use tokio::sync::watch::error::RecvError;
use tracing::warn;

use super::thread::Job;
use crate::registry::{Schedule, Section, Snapshot};

/// The longest sleep between two looks at the clock, so that a changed clock is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// Fires until the registry is gone. `fire` hands a job to some thread and says whether it was taken.
pub async fn run_crons(mut snapshots: watch::Receiver<Arc<Snapshot>>, fire: impl Fn(Job) -> bool) {
    let mut last = Utc::now();
    let mut lines = Lines::default();
    loop {
        lines.follow(&snapshots.borrow_and_update().schedules);
        let next = lines.next_after(&last);
        let wait =
            next.map_or(SLEEP_MAX, |due| (due - Utc::now()).to_std().unwrap_or(Duration::ZERO));
        tokio::select! {
            changed = lines.changed(&mut snapshots) => {
                if changed.is_err() {
                    return;
                }
                continue;
            }
            () = tokio::time::sleep(wait.min(SLEEP_MAX)) => {}
        }
        let Some(due) = next.filter(|due| *due <= Utc::now()) else { continue };
        for schedule in lines.due(&due) {
            let job = Job::Scheduled {
                worker: schedule.worker.clone(),
                cron: schedule.cron.clone(),
                scheduled_ms: u64::try_from(due.timestamp_millis()).unwrap_or(0),
            };
            if !fire(job) {
                warn!(worker = %schedule.worker.worker, cron = schedule.cron, "cron line skipped: every thread is busy");
            }
        }
        last = due;
    }
}

/// Cron lines, parsed.
#[derive(Default)]
pub struct Lines {
    source: Section<Schedule>,
    parsed: Vec<(Cron, Arc<Schedule>)>,
}

impl Lines {
    /// Takes over lines, unless they are the same as before. Leaves out those that do not parse; the API refuses
    /// such.
    pub fn follow(&mut self, schedules: &Section<Schedule>) {
        if self.source.is(schedules) {
            return;
        }
        let parser = CronParser::new();
        let line = |line: &Arc<Schedule>| Some((parser.parse(&line.cron).ok()?, line.clone()));
        self.source = schedules.clone();
        self.parsed = schedules.iter().filter_map(line).collect();
    }

    /// Waits until there are other lines.
    ///
    /// # Errors
    /// When there will be no more snapshots.
    pub async fn changed(
        &self,
        snapshots: &mut watch::Receiver<Arc<Snapshot>>,
    ) -> Result<(), RecvError> {
        snapshots.wait_for(|snapshot| !self.source.is(&snapshot.schedules)).await.map(drop)
    }

    /// The first time after `last` at which any line comes due.
    pub fn next_after(&self, last: &DateTime<Utc>) -> Option<DateTime<Utc>> {
        let next = |(cron, _): &(Cron, Arc<Schedule>)| cron.find_next_occurrence(last, false).ok();
        self.parsed.iter().filter_map(next).min()
    }

    /// The lines that come due at this time.
    pub fn due(&self, due: &DateTime<Utc>) -> impl Iterator<Item = &Schedule> {
        let due = *due;
        let comes_due = move |(cron, _): &&(Cron, _)| cron.is_time_matching(&due).unwrap_or(false);
        self.parsed.iter().filter(comes_due).map(|(_, line)| &**line)
    }
}
