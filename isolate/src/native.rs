//! Memory that neither V8 nor an account reports: what the standard library behind `Intl`, a compiler or an op
//! takes. Read from the operating system, for the few executions that last.

use std::path::{Path, PathBuf};

/// A page of memory, in bytes.
const PAGE_BYTES: u64 = 4096;

/// Where `minflt` stands among the fields that follow the program's name in `stat` of proc(5).
const MINOR_FAULTS_FIELD: usize = 7;

/// Finds how many pages one thread has been given.
pub(crate) struct ThreadPages {
    /// None where a sandbox keeps it out of reach: nothing is seen then.
    stat: Option<PathBuf>,
}

impl ThreadPages {
    /// Of the calling thread.
    pub(crate) fn current() -> Self {
        // Its first word is the thread's number. Following a link is more than a sandbox may allow.
        let stat = std::fs::read_to_string("/proc/thread-self/stat").ok();
        let number = stat.as_deref().and_then(|stat| stat.split_ascii_whitespace().next());
        Self { stat: number.map(|number| Path::new("/proc/self/task").join(number).join("stat")) }
    }

    /// Bytes of the pages that the thread was the first to touch so far; zero when it has ended.
    pub(crate) fn touched_bytes(&self) -> u64 {
        let stat = self.stat.as_deref().and_then(|path| std::fs::read_to_string(path).ok());
        let stat = stat.unwrap_or_default();
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
        let pages = ThreadPages::current();
        let before = pages.touched_bytes();
        let block = vec![1_u8; 64 << 20];
        // Huge pages count as one.
        assert!(pages.touched_bytes() > before, "{}", block.len());
        assert!(resident_bytes() >= 64 << 20);
    }
}
