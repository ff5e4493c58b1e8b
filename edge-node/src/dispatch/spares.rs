//! Keeps a few blank isolates ready on one thread, made only while the thread has nothing else to do.

use std::time::Duration;

use atoll_isolate::IsolateThread;

/// How long a thread must have executed nothing before it makes a blank isolate. That takes about as long,
/// and whatever arrives meanwhile waits for it.
const IDLE_MIN: Duration = Duration::from_millis(2);

/// Makes blank isolates whenever there are fewer than `wanted`. Never ends.
pub(super) async fn keep(isolates: IsolateThread, wanted: usize) {
    if wanted == 0 {
        return;
    }
    loop {
        isolates.spare_wanted(wanted).await;
        let slices = isolates.slices();
        tokio::time::sleep(IDLE_MIN).await;
        if isolates.slices() == slices {
            isolates.make_spare();
        }
    }
}
