//! Cron lines of a worker.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use croner::parser::{CronParser, Seconds};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiState;
use super::auth::Target;
use super::body::JsonBody;
use super::envelope::{Answer, ApiError, Envelope};
use super::time::iso8601;
use crate::registry::StoredSchedule;

/// Cron lines of one worker.
const SCHEDULES_MAX: usize = 250;
const CRON_BYTES_MAX: usize = 256;

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/accounts/{account}/workers/scripts/{worker}/schedules", get(list).put(replace))
}

async fn list(State(state): State<ApiState>, Target(target): Target) -> Answer {
    schedules_json(state.registry(move |registry| registry.schedules(&target)).await?)
}

#[derive(Deserialize)]
struct Line {
    cron: String,
}

async fn replace(
    State(state): State<ApiState>,
    Target(target): Target,
    JsonBody(lines): JsonBody<Vec<Line>>,
) -> Answer {
    if lines.len() > SCHEDULES_MAX {
        return Err(ApiError::invalid(format!("a worker has at most {SCHEDULES_MAX} cron lines")));
    }
    let crons: Vec<String> = lines.into_iter().map(|line| line.cron).collect();
    crons.iter().try_for_each(|cron| check(cron))?;
    let stored = state
        .registry(move |registry| {
            registry.replace_schedules(&target, &crons)?;
            registry.schedules(&target)
        })
        .await?;
    schedules_json(stored)
}

/// Five fields, without seconds or a year.
fn check(cron: &str) -> Result<(), ApiError> {
    let invalid = |why: String| ApiError::invalid(format!("cron line {cron:?}: {why}"));
    if cron.len() > CRON_BYTES_MAX {
        return Err(invalid(format!("it has more than {CRON_BYTES_MAX} bytes")));
    }
    if cron.split_whitespace().count() != 5 {
        return Err(invalid("it has other than five fields".to_owned()));
    }
    let parser = CronParser::builder().seconds(Seconds::Disallowed).build();
    parser.parse(cron).map_err(|e| invalid(e.to_string()))?;
    Ok(())
}

fn schedules_json(schedules: Vec<StoredSchedule>) -> Answer {
    let schedules = schedules.iter().map(|schedule| {
        let created = iso8601(schedule.created_ms);
        json!({ "cron": schedule.cron, "created_on": created, "modified_on": created })
    });
    Envelope::new(json!({ "schedules": schedules.collect::<Vec<Value>>() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cron_lines_have_five_fields() {
        for (cron, fits) in [
            ("* * * * *", true),
            ("*/5 0-6 L * MON#1", true),
            ("0 0 15W * *", true),
            ("* * * * * *", false),
            ("@daily", false),
            ("61 * * * *", false),
            ("", false),
        ] {
            assert_eq!(check(cron).is_ok(), fits, "{cron}");
        }
    }
}
