//! An invocation's connections to the internet: few at once, and further fetches wait in line. A body that is
//! still to be read counts as open.

use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::body::BodyResource;

/// After how long the first fetch in line looks whether bodies that nobody reads hold every connection.
const STALL_CHECK: Duration = Duration::from_millis(100);

/// One connection that is open; dropping it lets the next fetch in.
pub(crate) type Connection = OwnedSemaphorePermit;

/// The connections of one invocation.
#[derive(Clone)]
pub(crate) struct Connections {
    free: Arc<Semaphore>,
    max: usize,
}

impl Connections {
    pub(crate) fn new(max: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(max)), max }
    }

    /// Waits for a connection. The number of subrequests bounds the line. `bodies` gives the bodies that came
    /// in, oldest first: when unread ones hold every connection, nothing could ever move, and the oldest is
    /// closed.
    pub(crate) async fn open(
        self,
        bodies: impl Fn() -> Vec<Weak<BodyResource>>,
    ) -> Option<Connection> {
        let mut opening = std::pin::pin!(self.free.clone().acquire_owned());
        loop {
            if let Ok(opened) = tokio::time::timeout(STALL_CHECK, opening.as_mut()).await {
                return opened.ok();
            }
            let held: Vec<Rc<BodyResource>> = bodies()
                .iter()
                .filter_map(Weak::upgrade)
                .filter(|body| body.holds_connection())
                .collect();
            if held.len() == self.max && !held.iter().any(|body| body.is_read()) {
                held[0].shut();
            }
        }
    }
}
