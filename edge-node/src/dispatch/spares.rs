//! What one thread does while it has nothing else to do: it keeps a few blank isolates ready, compiles what was
//! deployed, and keeps the compiled code of the scripts that it has called.

use std::time::Duration;

use atoll_isolate::IsolateThread;

/// How long a thread must have executed nothing before it makes a blank isolate. That takes about as long,
/// and whatever arrives meanwhile waits for it.
const IDLE_MIN: Duration = Duration::from_millis(2);

/// How often a thread with all the isolates it wants looks whether there is code to keep.
const CODE_CHECK: Duration = Duration::from_millis(250);

/// How long to wait when no isolate could be made, and while others call.
const RETRY: Duration = Duration::from_millis(20);

/// Makes blank isolates whenever there are fewer than `wanted`, compiles ahead, and keeps code. Never ends.
pub(super) async fn keep(isolates: IsolateThread, wanted: usize) {
    loop {
        if !isolates.has_ahead() {
            // Ends early when a blank isolate is taken; running out of time is as good.
            let _ = tokio::time::timeout(CODE_CHECK, isolates.spare_wanted(wanted)).await;
        }
        let slices = isolates.slices();
        tokio::time::sleep(IDLE_MIN).await;
        if isolates.slices() != slices {
            if isolates.has_ahead() {
                tokio::time::sleep(RETRY).await;
            }
            continue;
        }
        let spares = isolates.spares();
        if spares < wanted {
            isolates.make_spare();
        }
        if isolates.spares() == spares && !isolates.compile_ahead() {
            // There are enough, or memory is too short for another.
            isolates.keep_code();
            tokio::time::sleep(RETRY).await;
        }
    }
}
