//! Memory that neither V8 nor an account reports: what the standard library behind `Intl`, a compiler or an op
//! takes. Read from the operating system, for the few executions that last.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

/// A page of memory, in bytes.
const PAGE_BYTES: u64 = 4096;

/// Where `minflt` stands among the fields that follow the program's name in `stat` of proc(5).
const MINOR_FAULTS_FIELD: usize = 7;

/// More than the fields up to that one take.
const TEXT_BYTES_MAX: usize = 1024;

/// Finds how many pages one thread has been given.
pub(crate) struct ThreadPages {
    /// Opened once: the thread is named by the link that only it can follow. None where the process may
    /// not look at itself.
    stat: Option<File>,
}

impl ThreadPages {
    /// Of the calling thread.
    pub(crate) fn current() -> Self {
        Self { stat: File::open("/proc/thread-self/stat").ok() }
    }

    /// Bytes of the pages that the thread was the first to touch so far; zero when it has ended.
    pub(crate) fn touched_bytes(&self) -> u64 {
        let stat = self.stat.as_ref().map(read_again).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let faults = fields.split_ascii_whitespace().nth(MINOR_FAULTS_FIELD);
        faults.and_then(|faults| faults.parse::<u64>().ok()).unwrap_or(0) * PAGE_BYTES
    }
}

/// Memory of the process that is resident, in bytes; zero where it may not look at itself.
pub(crate) fn resident_bytes() -> u64 {
    static STATM: LazyLock<Option<File>> = LazyLock::new(|| File::open("/proc/self/statm").ok());
    let statm = STATM.as_ref().map(read_again).unwrap_or_default();
    let pages = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE_BYTES
}

/// Reads what a file of proc(5) says now, which is empty when what it tells of has ended.
fn read_again(file: &File) -> String {
    let mut bytes = [0; TEXT_BYTES_MAX];
    let length = file.read_at(&mut bytes, 0).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..length]).into_owned()
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
