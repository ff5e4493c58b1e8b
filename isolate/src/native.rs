//! Memory that neither V8 nor an account reports: what the standard library behind `Intl`, a compiler or an op
//! takes. Read from the operating system, for the few executions that last.

use std::path::PathBuf;

/// A page of memory, in bytes.
const PAGE_BYTES: u64 = 4096;

/// Where `minflt` stands among the fields that follow the program's name in `stat` of proc(5).
const MINOR_FAULTS_FIELD: usize = 7;

/// Finds how many pages one thread has been given.
pub(crate) struct ThreadPages {
    stat: PathBuf,
}

impl ThreadPages {
    /// Of the calling thread.
    pub(crate) fn current() -> std::io::Result<Self> {
        let task = std::fs::read_link("/proc/thread-self")?;
        Ok(Self { stat: PathBuf::from("/proc").join(task).join("stat") })
    }

    /// Bytes of the pages that the thread was the first to touch so far; zero when it has ended.
    pub(crate) fn touched_bytes(&self) -> u64 {
        let stat = std::fs::read_to_string(&self.stat).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let faults = fields.split_ascii_whitespace().nth(MINOR_FAULTS_FIELD);
        faults.and_then(|faults| faults.parse::<u64>().ok()).unwrap_or(0) * PAGE_BYTES
    }
}

/// Memory of the process that is resident, in bytes.
pub(crate) fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touched_pages_are_seen() {
        let pages = ThreadPages::current().unwrap();
        let before = pages.touched_bytes();
        let block = vec![1_u8; 64 << 20];
        // Huge pages count as one.
        assert!(pages.touched_bytes() > before, "{}", block.len());
        assert!(resident_bytes() >= 64 << 20);
    }
}
