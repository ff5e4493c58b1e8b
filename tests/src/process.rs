//! What the operating system says about the processes of a node.

use std::fs;
use std::process::Command;

/// A process, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process(u32);

impl Process {
    /// A process and everything below it, as far as they live.
    pub(crate) fn tree(root: u32) -> Vec<Self> {
        let mut tree = vec![root];
        let mut next = 0;
        while let Some(&id) = tree.get(next) {
            let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
            for task in tasks {
                let children = fs::read_to_string(task.path().join("children"));
                let children = children.unwrap_or_default();
                tree.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
            }
            next += 1;
        }
        tree.into_iter().map(Self).filter(|process| process.lives()).collect()
    }

    /// Its id.
    pub fn id(self) -> u32 {
        self.0
    }

    /// The arguments that it was started with, by spaces.
    pub fn command(self) -> String {
        let line = fs::read_to_string(format!("/proc/{}/cmdline", self.0)).unwrap_or_default();
        line.replace('\0', " ")
    }

    /// Whether it serves requests, and nothing else: the node's other processes come and go.
    pub fn serves(self) -> bool {
        self.command().contains("serving-process")
    }

    /// Its resident memory in bytes, with its share of what several processes have in common, such as the
    /// program itself; 0 when it has ended.
    pub fn resident_bytes(self) -> u64 {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.0));
        let rollup = rollup.unwrap_or_default();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kibibytes.unwrap_or(0) * 1024
    }

    /// Its open file descriptors.
    pub fn descriptors(self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.0)).into_iter().flatten().count()
    }

    /// Sends it a signal (`KILL`, `TERM`).
    ///
    /// # Panics
    /// Panics when it has ended already.
    pub fn signal(self, name: &str) {
        let kill = format!("kill -{name} {}", self.0);
        let status = Command::new("sh").args(["-c", &kill]).status();
        assert!(status.is_ok_and(|status| status.success()), "{kill} fails");
    }

    /// Zombies have ended, although they still have a place in the table.
    pub(crate) fn lives(self) -> bool {
        self.status("State:").is_some_and(|state| !state.starts_with(['Z', 'X']))
    }

    fn status(self, field: &str) -> Option<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        let value = status.lines().find_map(|line| line.strip_prefix(field))?;
        Some(value.trim().to_owned())
    }
}
