//! Fits the configuration to the machine: how much memory each serving process gets, how many isolates that
//! holds, and what the operator should set for more.

use crate::config::{MemoryConfig, NodeConfig};
use crate::observe::Metrics;
use crate::preflight::{Advice, Demand, Machine, advise, bytes_per_process, isolates_fitting};

/// Connections of one front thread that the machine should have descriptors for.
const CONNECTIONS_PER_THREAD: u64 = 16_384;

/// The configuration on this machine.
pub(crate) struct Fit {
    /// Memory of each process, decided.
    pub(crate) memory: MemoryConfig,
    advice: Vec<Advice>,
    /// In all processes, if anything bounds it.
    isolates: Option<u64>,
}

impl Fit {
    /// Looks at the machine. Whoever calls it has raised the limits that a process may raise for itself.
    pub(crate) fn of(config: &NodeConfig, processes: usize, threads: usize) -> Self {
        Self::on(&Machine::read(), config, processes as u64, threads as u64)
    }

    fn on(machine: &Machine, config: &NodeConfig, processes: u64, threads: u64) -> Self {
        let mut memory = config.memory.clone();
        let decided = memory.process_bytes_max.or_else(|| {
            let share = bytes_per_process(machine, processes)?;
            Some(share.max(config.limits.memory_bytes_max))
        });
        memory.process_bytes_max = decided;
        let demand = Demand {
            processes,
            isolates_per_process: config.limits.isolates_max.into(),
            connections_per_process: threads.div_ceil(processes.max(1)) * CONNECTIONS_PER_THREAD,
            worker_bytes_per_process: decided.unwrap_or(0),
        };
        let isolates = isolates_fitting(machine, processes).map(|fitting| {
            fitting.min(config.limits.isolates_max.into()).saturating_mul(processes)
        });
        Self { memory, advice: advise(machine, &demand), isolates }
    }

    /// Logs what the operator should set.
    pub(crate) fn warn(&self) {
        for advice in &self.advice {
            tracing::warn!("{advice}");
        }
    }

    /// Shows how many isolates the node can hold.
    pub(crate) fn show(&self, metrics: &Metrics) {
        if let Some(isolates) = self.isolates {
            let isolates = i64::try_from(isolates).unwrap_or(i64::MAX);
            let help = "Isolates that the node can hold on this machine";
            metrics.add_gauge("isolates_fit", help, move || isolates);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn memory_is_what_the_key_says_or_the_machine_gives() {
        let check = |memory_bytes, key: Option<u64>, processes, expected: Option<u64>| {
            let machine = Machine {
                mappings_max: None,
                descriptors_max: None,
                descriptors_hard_max: None,
                memory_bytes,
            };
            let mut config = NodeConfig::default();
            config.memory.process_bytes_max = key.map(|mib| mib * MIB);
            let fit = Fit::on(&machine, &config, processes, 2);
            assert_eq!(fit.memory.process_bytes_max, expected.map(|mib| mib * MIB));
            // What is chosen by the machine is never more than it has.
            assert!(fit.advice.is_empty() != key.is_some_and(|key| key > 4_096));
        };
        check(Some(8_192 * MIB), None, 2, Some(3_008));
        check(Some(8_192 * MIB), None, 1, Some(6_080));
        check(Some(8_192 * MIB), Some(512), 2, Some(512));
        check(Some(8_192 * MIB), Some(9_000), 1, Some(9_000));
        check(Some(512 * MIB), None, 2, Some(128));
        check(None, None, 2, None);
    }
}
