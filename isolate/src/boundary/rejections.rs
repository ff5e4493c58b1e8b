//! Promises that were rejected and that nobody handles. V8 tells of them as they come; they are reported when
//! the slice is over, so that its microtasks may still attach a handler.
//!
//! Deno's core would keep them for the next turn of its event loop. Here most slices need no such turn.

use std::cell::RefCell;
use std::rc::Rc;

use deno_core::v8;

/// Rejections of one slice that are kept; an invocation reports far fewer.
const REJECTIONS_MAX: usize = 256;

struct Rejection {
    promise: v8::Global<v8::Promise>,
    reason: v8::Global<v8::Value>,
    /// The async context, by which JS finds the invocation.
    context: v8::Global<v8::Value>,
}

/// What one isolate's promises were rejected with and nobody has handled yet.
#[derive(Default)]
pub(super) struct Rejections(RefCell<Vec<Rejection>>);

impl Rejections {
    /// Calls `report` with the reason and the async context of each rejection that nobody has handled. What
    /// `report` rejects in its turn waits for the next time. Says whether there were any.
    pub(super) fn report(
        &self,
        mut report: impl FnMut(&v8::Global<v8::Value>, &v8::Global<v8::Value>),
    ) -> bool {
        let taken = self.0.take();
        for Rejection { reason, context, .. } in &taken {
            report(reason, context);
        }
        !taken.is_empty()
    }
}

/// Has V8 tell of rejections here from now on.
pub(super) fn track(isolate: &mut v8::Isolate, rejections: Rc<Rejections>) {
    isolate.set_slot(rejections);
    isolate.set_promise_reject_callback(rejected);
}

unsafe extern "C" fn rejected(message: v8::PromiseRejectMessage) {
    // SAFETY: V8 passes a message of the isolate that is current, from within its execution.
    v8::callback_scope!(unsafe scope, &message);
    let promise = v8::Global::new(scope, message.get_promise());
    match message.get_event() {
        v8::PromiseRejectEvent::PromiseRejectWithNoHandler => {
            let Some(reason) = message.get_value() else { return };
            let context = scope.get_continuation_preserved_embedder_data();
            let (reason, context) =
                (v8::Global::new(scope, reason), v8::Global::new(scope, context));
            let Some(rejections) = scope.get_slot::<Rc<Rejections>>() else { return };
            let mut rejections = rejections.0.borrow_mut();
            if rejections.len() < REJECTIONS_MAX {
                rejections.push(Rejection { promise, reason, context });
            }
        }
        v8::PromiseRejectEvent::PromiseHandlerAddedAfterReject => {
            if let Some(rejections) = scope.get_slot::<Rc<Rejections>>() {
                let mut rejections = rejections.0.borrow_mut();
                // Mostly it is the newest.
                if let Some(place) = rejections.iter().rposition(|kept| kept.promise == promise) {
                    rejections.remove(place);
                }
            }
        }
        v8::PromiseRejectEvent::PromiseRejectAfterResolved
        | v8::PromiseRejectEvent::PromiseResolveAfterResolved => {}
    }
}
