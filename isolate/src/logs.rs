//! How much one invocation may write to the console.

use crate::outcome::{LogLevel, LogLine};

/// What a line counts for besides its text, in bytes: empty lines cost something too.
const LINE_EXTRA_BYTES: usize = 32;

/// Console output that is still admitted.
pub(crate) struct LogBudget {
    left: usize,
    max: usize,
    full: bool,
}

impl LogBudget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { left: bytes_max, max: bytes_max, full: false }
    }

    /// Lets a line through. In place of the first that does not fit comes a note; then there is nothing.
    pub(crate) fn admit(&mut self, line: LogLine) -> Option<LogLine> {
        if self.full {
            return None;
        }
        if let Some(left) = self.left.checked_sub(line.message.len() + LINE_EXTRA_BYTES) {
            self.left = left;
            return Some(line);
        }
        self.full = true;
        let message =
            format!("Log truncated: an invocation may write {} bytes to the console.", self.max);
        Some(LogLine { level: LogLevel::Warn, message, timestamp_ms: line.timestamp_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_past_the_limit_leave_one_note() {
        let mut budget = LogBudget::new(100);
        let mut admitted = Vec::new();
        for message in ["a", "b", "cccccccccccccccccccccccccccccccccccccccc", "d"] {
            let message = message.to_owned();
            admitted.extend(budget.admit(LogLine {
                level: LogLevel::Log,
                message,
                timestamp_ms: 0,
            }));
        }
        let messages: Vec<&str> = admitted.iter().map(|line| line.message.as_str()).collect();
        let note = "Log truncated: an invocation may write 100 bytes to the console.";
        assert_eq!(messages, ["a", "b", note]);
    }
}
