//! Looks at start whether the machine can hold what the configuration asks for, and says what to set.
//! It decides from values that were read; it changes nothing and stops nobody.

use std::fmt;
use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

/// Memory mappings of one loaded isolate, measured.
const MAPPINGS_PER_ISOLATE: u64 = 14;
/// Memory mappings of a serving process without isolates: the program, its libraries, stacks, V8's cage.
const MAPPINGS_OF_PROCESS: u64 = 1_000;
/// Memory of one idle isolate, in bytes, measured.
const ISOLATE_BYTES: u64 = 1_700_000;
/// Memory of a process without isolates, in bytes.
const PROCESS_BYTES: u64 = 64 << 20;
/// Quarters of the machine's memory that serving processes share.
const WORKERS_QUARTERS: u64 = 3;
/// Descriptors that a process uses for itself.
const DESCRIPTORS_OF_PROCESS: u64 = 256;
/// From which value of `vm.max_map_count` on nobody has to think of it.
const MAPPINGS_ROUND: u64 = 65_536;

/// What this machine gives to one process, and to all of the node together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// `vm.max_map_count`: mappings of one process.
    pub mappings_max: Option<u64>,
    /// Open descriptors of one process, as its limit stands now; none if unlimited.
    pub descriptors_max: Option<u64>,
    /// As far as a process may raise that limit by itself; none if unlimited.
    pub descriptors_hard_max: Option<u64>,
    /// Memory that the node may use, in bytes: the machine's, or less by its control group.
    pub memory_bytes: Option<u64>,
}

/// What the configuration asks of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Serving processes.
    pub processes: u64,
    /// Loaded isolates of one serving process, at most.
    pub isolates_per_process: u64,
    /// Client connections of one serving process, at most.
    pub connections_per_process: u64,
    /// Memory for workers in one serving process, in bytes.
    pub worker_bytes_per_process: u64,
}

/// Something that the operator should set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advice {
    /// A process cannot map as many isolates as it may hold.
    Mappings {
        /// What it may map.
        max: u64,
        /// What the isolates would take.
        needed: u64,
        /// Isolates that fit.
        isolates: u64,
    },
    /// A process cannot open as many descriptors as it needs.
    Descriptors {
        /// What it may open.
        max: u64,
        /// What its connections would take.
        needed: u64,
        /// The limit behind the limit, if there is one.
        hard_max: Option<u64>,
    },
    /// The processes together are promised more memory than there is.
    Memory {
        /// What there is, in bytes.
        max: u64,
        /// What is promised, in bytes.
        needed: u64,
        /// What one process could be promised, in bytes.
        per_process: u64,
    },
}

/// How many loaded isolates one serving process of `processes` can hold on this machine, or none if nothing
/// that was read bounds it.
pub fn isolates_fitting(machine: &Machine, processes: u64) -> Option<u64> {
    let by_mappings = machine
        .mappings_max
        .map(|max| max.saturating_sub(MAPPINGS_OF_PROCESS) / MAPPINGS_PER_ISOLATE);
    let by_memory = machine
        .memory_bytes
        .map(|bytes| (bytes / processes.max(1)).saturating_sub(PROCESS_BYTES) / ISOLATE_BYTES);
    by_mappings.into_iter().chain(by_memory).min()
}

/// What each of `processes` can give to its workers, in bytes, or none if nobody knows how much there is. The
/// rest is for the processes themselves, the one above them, and the files that the system keeps in memory.
pub fn bytes_per_process(machine: &Machine, processes: u64) -> Option<u64> {
    let share = machine.memory_bytes? / 4 * WORKERS_QUARTERS / processes.max(1);
    Some(share.saturating_sub(PROCESS_BYTES))
}

/// Says what to set so that the machine fits the demand.
pub fn advise(machine: &Machine, demand: &Demand) -> Vec<Advice> {
    let mappings = machine.mappings_max.and_then(|max| {
        let needed = demand
            .isolates_per_process
            .saturating_mul(MAPPINGS_PER_ISOLATE)
            .saturating_add(MAPPINGS_OF_PROCESS);
        let isolates = max.saturating_sub(MAPPINGS_OF_PROCESS) / MAPPINGS_PER_ISOLATE;
        (max < needed).then_some(Advice::Mappings { max, needed, isolates })
    });
    let descriptors = machine.descriptors_max.and_then(|max| {
        let needed = demand.connections_per_process.saturating_add(DESCRIPTORS_OF_PROCESS);
        let hard_max = machine.descriptors_hard_max;
        (max < needed).then_some(Advice::Descriptors { max, needed, hard_max })
    });
    let memory = machine.memory_bytes.and_then(|max| {
        let processes = demand.processes.max(1);
        let needed =
            demand.worker_bytes_per_process.saturating_add(PROCESS_BYTES).saturating_mul(processes);
        let per_process = (max / processes).saturating_sub(PROCESS_BYTES);
        (max < needed).then_some(Advice::Memory { max, needed, per_process })
    });
    mappings.into_iter().chain(descriptors).chain(memory).collect()
}

/// What to do about it, with the numbers.
impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mappings { max, needed, isolates } => write!(
                f,
                "vm.max_map_count is {max}, enough for {isolates} isolates in a process: \
                 run `sysctl -w vm.max_map_count={}`",
                needed.next_multiple_of(MAPPINGS_ROUND)
            ),
            Self::Descriptors { max, needed, hard_max } => {
                let bound = match hard_max {
                    Some(hard_max) if hard_max < needed => "hard limit",
                    _ => "limit",
                };
                write!(
                    f,
                    "a process may open {max} files and connections and needs {needed}: raise the \
                     {bound}, with `LimitNOFILE={needed}` in the service's unit or `ulimit -n {needed}`"
                )
            }
            Self::Memory { max, needed, per_process } => write!(
                f,
                "the processes may use {} MiB together and are promised {} MiB: give the node more \
                 memory, or each process at most {} MiB for workers",
                max >> 20,
                needed >> 20,
                per_process >> 20
            ),
        }
    }
}

impl Machine {
    /// Reads what `/proc`, `/sys` and the process's limits say. What cannot be read is not known.
    pub fn read() -> Self {
        let descriptors = getrlimit(Resource::Nofile);
        let text = |path: &str| fs::read_to_string(path).ok();
        let memory = text("/proc/meminfo").and_then(|text| mem_total_bytes(&text));
        let groups = text("/proc/self/cgroup").unwrap_or_default();
        let group_limits = group_limit_files(&groups)
            .into_iter()
            .filter_map(|file| text(&file))
            .filter_map(|text| text.trim().parse::<u64>().ok());
        Self {
            mappings_max: text("/proc/sys/vm/max_map_count")
                .and_then(|text| text.trim().parse().ok()),
            descriptors_max: descriptors.current,
            descriptors_hard_max: descriptors.maximum,
            memory_bytes: memory.into_iter().chain(group_limits).min(),
        }
    }
}

/// The machine's memory out of `/proc/meminfo`.
fn mem_total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The files that may hold a memory limit of the control groups in `/proc/self/cgroup`: those of the group
/// and of all above it, in the second version of control groups and in the first. A file that is absent or
/// says `max` limits nothing; neither does the huge number by which the first version says the same.
fn group_limit_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let ancestors = Path::new(group.trim_start_matches('/')).ancestors();
        files
            .extend(ancestors.map(|group| {
                Path::new(root).join(group).join(file).to_string_lossy().into_owned()
            }));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    const ROOMY: Machine = Machine {
        mappings_max: Some(1_048_576),
        descriptors_max: Some(1_048_576),
        descriptors_hard_max: Some(1_048_576),
        memory_bytes: Some(64 * GIB),
    };

    const DEMAND: Demand = Demand {
        processes: 2,
        isolates_per_process: 5_000,
        connections_per_process: 10_000,
        worker_bytes_per_process: 3 * GIB,
    };

    #[test]
    fn isolates_fit_by_the_scarcer_of_mappings_and_memory() {
        let check = |mappings_max, memory_bytes, processes, expected| {
            let machine = Machine { mappings_max, memory_bytes, ..ROOMY };
            assert_eq!(isolates_fitting(&machine, processes), expected);
        };
        check(None, None, 1, None);
        check(Some(65_530), None, 1, Some(4_609));
        check(Some(65_530), Some(4 * GIB), 1, Some(2_486));
        check(Some(65_530), Some(4 * GIB), 2, Some(1_223));
        check(Some(65_530), Some(64 * GIB), 0, Some(4_609));
        check(Some(100), Some(0), 1, Some(0));
    }

    #[test]
    fn advice_says_what_to_set() {
        let check = |machine: Machine, demand: Demand, expected: &[&str]| {
            let advice: Vec<_> = advise(&machine, &demand).iter().map(Advice::to_string).collect();
            assert_eq!(advice, expected);
        };
        check(ROOMY, DEMAND, &[]);
        let unknown = Machine {
            mappings_max: None,
            descriptors_max: None,
            descriptors_hard_max: None,
            memory_bytes: None,
        };
        check(unknown, DEMAND, &[]);
        check(
            Machine { mappings_max: Some(65_530), ..ROOMY },
            DEMAND,
            &["vm.max_map_count is 65530, enough for 4609 isolates in a process: run `sysctl -w \
               vm.max_map_count=131072`"],
        );
        check(
            Machine { descriptors_max: Some(1024), descriptors_hard_max: Some(4096), ..ROOMY },
            DEMAND,
            &[
                "a process may open 1024 files and connections and needs 10256: raise the hard limit, \
               with `LimitNOFILE=10256` in the service's unit or `ulimit -n 10256`",
            ],
        );
        check(
            Machine { descriptors_max: Some(1024), ..ROOMY },
            Demand { connections_per_process: 1_000, ..DEMAND },
            &[
                "a process may open 1024 files and connections and needs 1256: raise the limit, with \
               `LimitNOFILE=1256` in the service's unit or `ulimit -n 1256`",
            ],
        );
        check(
            Machine { memory_bytes: Some(4 * GIB), ..ROOMY },
            DEMAND,
            &[
                "the processes may use 4096 MiB together and are promised 6272 MiB: give the node more \
               memory, or each process at most 1984 MiB for workers",
            ],
        );
        let absurd = Demand {
            processes: u64::MAX,
            isolates_per_process: u64::MAX,
            connections_per_process: u64::MAX,
            worker_bytes_per_process: u64::MAX,
        };
        assert_eq!(advise(&ROOMY, &absurd).len(), 3);
    }

    #[test]
    fn the_machines_memory_is_read() {
        let check = |text: &str, expected| assert_eq!(mem_total_bytes(text), expected, "{text}");
        check("MemTotal:       24611072 kB\nMemFree: 1 kB\n", Some(24_611_072 * 1024));
        check("MemFree: 1 kB\n", None);
        check("MemTotal: many\n", None);
        check("MemTotal: 18446744073709551615 kB", None);
    }

    #[test]
    fn limits_of_all_groups_above_count() {
        let check = |groups: &str, expected: &[&str]| {
            assert_eq!(group_limit_files(groups), expected, "{groups}");
        };
        check(
            "0::/system.slice/atoll.service\n",
            &[
                "/sys/fs/cgroup/system.slice/atoll.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ],
        );
        check(
            "5:devices:/x\n4:cpu,memory:/a\n",
            &[
                "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            ],
        );
        check("0::/\n", &["/sys/fs/cgroup/memory.max"]);
        check("nonsense\n", &[]);
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::read();
        assert!(machine.mappings_max.is_some_and(|max| max > 1_000), "{machine:?}");
        assert!(machine.memory_bytes.is_some_and(|bytes| bytes > 1 << 20), "{machine:?}");
    }
}
