//! What a process tree holds, from the operating system's own figures.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// What one tick of times in `/proc` is: Linux shows a hundred a second whatever it counts in.
const TICK_MS: u64 = 10;

/// Every process of a tree, by its id.
pub(crate) struct Footprint(BTreeMap<u32, Held>);

/// What processes hold, or hold more than before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Held {
    /// Proportional set size: pages shared by several processes count in parts.
    pub(crate) pss_bytes: u64,
    /// Pages that no other process has.
    pub(crate) private_bytes: u64,
    pub(crate) mappings: u64,
}

impl Footprint {
    /// Reads `/proc` for `root` and all its descendants.
    pub(crate) fn of_tree(root: u32) -> Result<Self, String> {
        let tree = tree(root).map_err(|error| format!("cannot read /proc: {error}"))?;
        // A process may end between the two looks; then it holds nothing.
        let held = tree.into_iter().filter_map(|process| Some((process, Held::of(process).ok()?)));
        let held: BTreeMap<_, _> = held.collect();
        if held.contains_key(&root) {
            Ok(Self(held))
        } else {
            Err(format!("process {root} has ended"))
        }
    }

    /// What is held more than `before`. What a process held that has ended since does not count.
    pub(crate) fn since(&self, before: &Self) -> Held {
        let mut growth = Held::default();
        for (process, now) in &self.0 {
            let then = before.0.get(process).copied().unwrap_or_default();
            growth.pss_bytes += now.pss_bytes.saturating_sub(then.pss_bytes);
            growth.private_bytes += now.private_bytes.saturating_sub(then.private_bytes);
            growth.mappings += now.mappings.saturating_sub(then.mappings);
        }
        growth
    }

    /// All of them together.
    pub(crate) fn total(&self) -> Held {
        self.since(&Self(BTreeMap::new()))
    }

    /// The most mappings that any one of them has: the kernel limits them by process.
    pub(crate) fn mappings_max(&self) -> u64 {
        self.0.values().map(|held| held.mappings).max().unwrap_or_default()
    }

    pub(crate) fn processes(&self) -> usize {
        self.0.len()
    }
}

/// The CPU time that a process and all its descendants have used so far, and those that have ended and were waited
/// for.
pub(crate) fn cpu_time_of_tree(root: u32) -> std::io::Result<Duration> {
    let ticks: u64 = tree(root)?.into_iter().map(cpu_ticks).sum();
    Ok(Duration::from_millis(ticks * TICK_MS))
}

/// User and system time of a process, and of its children that were waited for (proc_pid_stat(5), fields 14 to 17).
/// One that has ended since it was listed has none.
fn cpu_ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum()
}

impl Held {
    fn of(process: u32) -> std::io::Result<Self> {
        let rollup = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
        let maps = std::fs::read_to_string(format!("/proc/{process}/maps"))?;
        Ok(Self {
            pss_bytes: kilobytes(&rollup, "Pss:") * 1024,
            private_bytes: ["Private_Clean:", "Private_Dirty:"]
                .map(|name| kilobytes(&rollup, name) * 1024)
                .iter()
                .sum(),
            mappings: maps.lines().count() as u64,
        })
    }
}

/// A process and all its descendants.
fn tree(root: u32) -> std::io::Result<Vec<u32>> {
    let parents = parents()?;
    let of_tree = |process: &u32| {
        let mut lineage = std::iter::successors(Some(*process), |id| parents.get(id).copied());
        lineage.any(|id| id == root)
    };
    Ok(parents.keys().copied().filter(of_tree).collect())
}

/// Each process's parent.
fn parents() -> std::io::Result<BTreeMap<u32, u32>> {
    let mut parents = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(process) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // The name, in brackets, may hold spaces; state and parent follow it.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        if let Some(parent) = parent.and_then(|parent| parent.parse().ok()) {
            parents.insert(process, parent);
        }
    }
    Ok(parents)
}

/// The value of a line `NAME   123 kB`; zero without one.
pub(crate) fn kilobytes(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_kilobytes_are_read() {
        let rollup = "00400000-7fff ---p 00000000 00:00 0 [rollup]\nRss:  12 kB\nPss:    7 kB\n";
        for (name, expected) in [("Pss:", 7), ("Rss:", 12), ("Private_Dirty:", 0)] {
            assert_eq!(kilobytes(rollup, name), expected, "{name}");
        }
    }

    #[test]
    fn this_process_has_a_footprint() {
        let footprint = Footprint::of_tree(std::process::id()).unwrap();
        let held = footprint.total();
        assert!(cpu_time_of_tree(std::process::id()).is_ok());
        assert!(held.pss_bytes > 0 && held.private_bytes > 0 && held.mappings > 0, "{held:?}");
        assert_eq!(footprint.since(&footprint), Held::default());
    }
}
