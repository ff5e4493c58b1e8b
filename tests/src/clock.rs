//! Bounded waiting.

use std::time::{Duration, Instant};

/// The longest that a test waits for a thing to become true.
pub const WAIT_MAX: Duration = Duration::from_secs(30);
/// The pause between two looks.
pub const POLL: Duration = Duration::from_millis(25);

/// Looks again and again until `look` finds something, at most for [`WAIT_MAX`].
///
/// # Panics
/// Panics with `what` when nothing is found in time.
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(WAIT_MAX, what, look).await
}

/// The same, for what takes its time by its nature.
///
/// # Panics
/// Panics with `what` when nothing is found in time.
pub async fn eventually_within<T>(
    most: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let give_up = Instant::now() + most;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < give_up, "not within {most:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}
