//! What can go wrong with a log, told by what is known of the append that failed.

use std::sync::Arc;

/// Every failure of a `ChangeLog`.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The append's expectation did not hold. Nothing was written.
    #[error("another append came first, read the log and try again")]
    Conflict,
    /// The engine could not be reached in time. Nothing was written; the caller may try again.
    #[error("the log cannot be reached ({0}), nothing was written")]
    Unavailable(Arc<str>),
    /// The engine was reached and did not answer in time. Whether the append was written is unknown
    /// until the log is read, or the same append is tried again with the same id.
    #[error("the log did not answer in time ({0}), whether it was written is unknown")]
    OutcomeUnknown(Arc<str>),
    /// The payload is larger than the engine takes. Nothing was written.
    #[error("payload of {bytes} bytes exceeds what the log takes")]
    TooLarge {
        /// The payload's bytes.
        bytes: usize,
    },
    /// The engine refused it, such as for want of a permission or of space. Nothing was written.
    #[error("the log refused it: {0}")]
    Refused(Arc<str>),
    /// A newer holder of the lease has appended. Nothing was written.
    #[error("fence {fence} is stale, a later holder of the lease has {newest}")]
    StaleFence {
        /// The append's own fence.
        fence: u64,
        /// The newest one that the log has seen on the subject.
        newest: u64,
    },
    /// There is no such log, and this handle makes none.
    #[error("there is no log {0}")]
    Absent(Arc<str>),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// The engine failed in a way that none of the others says.
    #[error("the log failed: {0}")]
    Failed(Arc<str>),
}

impl LogError {
    /// Whether the append may have been written all the same.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::OutcomeUnknown(_) | Self::Failed(_))
    }
}
