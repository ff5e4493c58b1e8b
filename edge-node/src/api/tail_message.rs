//! What a live tail sends, and which invocations its filters let through.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::report::{Event, InvocationReport};
use atoll_isolate::Outcome;

/// One entry of `filters`. All entries must let an invocation through.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Filter {
    SamplingRate {
        sampling_rate: f64,
    },
    Outcome {
        outcome: Vec<String>,
    },
    Method {
        method: Vec<String>,
    },
    Header {
        header: HeaderFilter,
    },
    ClientIp {
        client_ip: Vec<String>,
    },
    Query {
        query: String,
    },
    Version {
        #[serde(rename = "scriptVersion")]
        script_version: String,
    },
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct HeaderFilter {
    key: String,
    query: Option<String>,
}

impl Filter {
    /// Whether the report passes. `own` is the address of whoever made the tail; `random` decides
    /// about sampling, from 0 to below 1.
    pub(super) fn passes(
        &self,
        report: &InvocationReport,
        own: Option<IpAddr>,
        random: f64,
    ) -> bool {
        match self {
            Self::SamplingRate { sampling_rate } => random < *sampling_rate,
            Self::Outcome { outcome } => {
                outcome.iter().any(|wanted| wanted == outcome_name(report.outcome))
            }
            Self::Method { method } => match &report.event {
                Event::Fetch { method: sent, .. } | Event::Rule { method: sent, .. } => {
                    method.iter().any(|wanted| wanted.eq_ignore_ascii_case(sent))
                }
                Event::Scheduled { .. } => false,
            },
            Self::Header { header } => header.passes(report),
            Self::ClientIp { client_ip } => match &report.event {
                Event::Fetch { client_ip: Some(ip), .. } => client_ip.iter().any(|wanted| {
                    if wanted == "self" { own == Some(*ip) } else { wanted.parse() == Ok(*ip) }
                }),
                _ => false,
            },
            Self::Query { query } => {
                report.logs.iter().any(|line| line.message.contains(query.as_str()))
            }
            Self::Version { script_version } => report.version.as_str() == script_version,
        }
    }
}

impl HeaderFilter {
    fn passes(&self, report: &InvocationReport) -> bool {
        let Event::Fetch { headers, .. } = &report.event else { return false };
        headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(&self.key)).any(|(_, value)| {
            self.query.as_ref().is_none_or(|query| value.contains(query.as_str()))
        })
    }
}

/// Cloudflare's name of an outcome.
fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Exception => "exception",
        Outcome::ExceededCpu => "exceededCpu",
        Outcome::ExceededMemory => "exceededMemory",
        Outcome::Canceled => "canceled",
        Outcome::ExceededWall | Outcome::Overloaded | Outcome::RateLimited | Outcome::Internal => {
            "unknown"
        }
    }
}

/// The message about one invocation.
pub(super) fn message(report: &InvocationReport) -> Value {
    let logs = report.logs.iter().map(|line| {
        json!({ "message": [line.message], "level": line.level, "timestamp": line.timestamp_ms })
    });
    let exceptions = report.exceptions.iter().map(|exception| {
        json!({
            "name": exception.name,
            "message": exception.message,
            "stack": exception.stack,
            "timestamp": exception.timestamp_ms,
        })
    });
    json!({
        "outcome": outcome_name(report.outcome),
        "scriptName": report.worker.worker,
        "scriptVersion": { "id": report.version },
        "exceptions": exceptions.collect::<Vec<_>>(),
        "logs": logs.collect::<Vec<_>>(),
        "diagnosticsChannelEvents": [],
        "truncated": false,
        "executionModel": "stateless",
        "eventTimestamp": report.started_ms,
        "cpuTime": report.cpu_us / 1_000,
        "wallTime": report.wall_us / 1_000,
        "event": event_json(&report.event),
    })
}

fn event_json(event: &Event) -> Value {
    match event {
        Event::Fetch { url, method, headers, status, .. } => {
            let headers: serde_json::Map<String, Value> = headers
                .iter()
                .map(|(name, value)| (name.clone(), shown_header(name, value).into()))
                .collect();
            let mut event = json!({ "request": { "url": url, "method": method, "headers": headers, "cf": {} } });
            if let Some(status) = status {
                event["response"] = json!({ "status": status });
            }
            event
        }
        Event::Rule { url, method } => {
            json!({ "type": "rule", "request": { "url": url, "method": method, "headers": {}, "cf": {} } })
        }
        Event::Scheduled { cron, scheduled_ms } => {
            json!({ "cron": cron, "scheduledTime": scheduled_ms })
        }
    }
}

/// Credentials do not travel in a tail.
fn shown_header<'a>(name: &str, value: &'a str) -> &'a str {
    let sensitive = ["authorization", "cookie", "set-cookie", "proxy-authorization"];
    match sensitive.iter().any(|secret| name.eq_ignore_ascii_case(secret)) {
        true => "REDACTED",
        false => value,
    }
}

/// The message about reports that a slow reader lost.
pub(super) fn missed(count: u64) -> Value {
    json!({
        "outcome": "unknown",
        "exceptions": [],
        "logs": [],
        "eventTimestamp": crate::registry::now_ms(),
        "event": {
            "type": "overload",
            "message": format!("this tail is too slow: {count} invocations are not shown"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{AccountId, VersionId, WorkerName, WorkerRef};
    use atoll_isolate::{LogLevel, LogLine};

    fn report() -> InvocationReport {
        InvocationReport {
            id: "id".into(),
            worker: WorkerRef { account: AccountId::new("a"), worker: WorkerName::new("w") },
            version: VersionId::new("v1"),
            event: Event::Fetch {
                url: "http://x/".into(),
                method: "GET".into(),
                headers: vec![
                    ("X-Kind".into(), "blue car".into()),
                    ("Authorization".into(), "Bearer s".into()),
                ],
                client_ip: Some([1, 2, 3, 4].into()),
                status: Some(200),
            },
            outcome: Outcome::ExceededCpu,
            exceptions: Vec::new(),
            logs: vec![LogLine {
                level: LogLevel::Warn,
                message: "hello there".into(),
                timestamp_ms: 5,
            }],
            started_ms: 4,
            cpu_us: 3_500,
            wall_us: 2_000,
        }
    }

    #[test]
    fn filters_let_through_what_they_name() {
        for (filter, passes) in [
            (json!({ "sampling_rate": 0.6 }), true),
            (json!({ "sampling_rate": 0.5 }), false),
            (json!({ "outcome": ["ok", "exceededCpu"] }), true),
            (json!({ "outcome": ["ok"] }), false),
            (json!({ "method": ["get"] }), true),
            (json!({ "method": ["POST"] }), false),
            (json!({ "header": { "key": "x-kind" } }), true),
            (json!({ "header": { "key": "x-kind", "query": "blue" } }), true),
            (json!({ "header": { "key": "x-kind", "query": "red" } }), false),
            (json!({ "client_ip": ["1.2.3.4"] }), true),
            (json!({ "client_ip": ["self"] }), true),
            (json!({ "client_ip": ["4.3.2.1"] }), false),
            (json!({ "query": "there" }), true),
            (json!({ "query": "nowhere" }), false),
            (json!({ "scriptVersion": "v1" }), true),
            (json!({ "scriptVersion": "v2" }), false),
        ] {
            let parsed: Filter = serde_json::from_value(filter.clone()).unwrap();
            let found = parsed.passes(&report(), Some([1, 2, 3, 4].into()), 0.55);
            assert_eq!(found, passes, "{filter}");
        }
        assert!(serde_json::from_value::<Filter>(json!({ "nonsense": 1 })).is_err());
    }

    #[test]
    fn messages_have_the_shape_that_clients_print() {
        let message = message(&report());
        assert_eq!(message["outcome"], "exceededCpu");
        assert_eq!(message["logs"][0]["message"], json!(["hello there"]));
        assert_eq!(message["logs"][0]["level"], "warn");
        assert_eq!(message["event"]["request"]["headers"]["X-Kind"], "blue car");
        assert_eq!(message["event"]["request"]["headers"]["Authorization"], "REDACTED");
        assert_eq!(message["event"]["response"]["status"], 200);
        assert!(message["exceptions"].as_array().unwrap().is_empty());
    }
}
