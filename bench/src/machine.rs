//! What a result must say of the machine and the source it was made with.

use std::process::Command;

use serde::Serialize;

/// The machine and the moment of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    /// UTC, RFC 3339.
    pub(crate) date: String,
    /// The source's commit, with `-dirty` when files differ from it.
    pub(crate) commit: String,
    pub(crate) command: String,
}

impl Machine {
    /// Reads what it can; what is unknown is called so.
    pub(crate) fn here() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let models = || cpuinfo.lines().filter_map(|line| line.strip_prefix("model name"));
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        Self {
            cpu: models()
                .next()
                .map_or_else(unknown, |name| name.trim_start_matches(['\t', ' ', ':']).to_owned()),
            cores: models().count(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| unknown(), |release| release.trim().to_owned()),
            date: output("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
            commit: output("git", &["describe", "--always", "--dirty", "--exclude=*"]),
            command: format!("cargo run --release -p atoll-bench -- {}", arguments.join(" ")),
        }
    }

    /// As items of a Markdown list.
    pub(crate) fn lines(&self) -> String {
        let Self { cpu, cores, kernel, date, commit, command } = self;
        format!(
            "- commit {commit}, {date}\n- {cpu}, {cores} cores, Linux {kernel}\n- `{command}`\n"
        )
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn output(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => unknown(),
    }
}

/// Each core's busy and total time since boot, in clock ticks, by core number.
pub(crate) struct CoreTimes(Vec<(u64, u64)>);

impl CoreTimes {
    /// Reads `/proc/stat`.
    pub(crate) fn read() -> std::io::Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let cores = stat.lines().filter(|line| {
            line.strip_prefix("cpu")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        });
        let times = cores.map(|line| {
            let ticks: Vec<u64> =
                line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
            // The fourth and fifth fields are idle and waiting for I/O; those after the eighth
            // (guest time) are counted in the first already.
            let total: u64 = ticks.iter().take(8).sum();
            let idle: u64 = ticks.iter().skip(3).take(2).sum();
            (total - idle, total)
        });
        Ok(Self(times.collect()))
    }

    /// The share of the time since `before` in which `core` was busy; zero for an unknown core.
    pub(crate) fn busy_since(&self, before: &Self, core: usize) -> f64 {
        match (self.0.get(core), before.0.get(core)) {
            (Some(now), Some(then)) if now.1 > then.1 => {
                (now.0 - then.0) as f64 / (now.1 - then.1) as f64
            }
            _ => 0.0,
        }
    }
}
