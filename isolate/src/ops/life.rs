//! Ops about an invocation's life: what keeps it going, what ends it, what it logs.

use std::cell::RefCell;
use std::rc::Rc;

use deno_core::error::JsError;
use deno_core::{OpState, op2, v8};

use super::invocations;
use crate::exception::exception_of;
use crate::invocation::Answer;
use crate::outcome::{LogLevel, Outcome};

/// The handler of an event without a response has come to its end.
#[op2(fast)]
pub(crate) fn op_invocation_handled(state: &mut OpState, #[smi] key: u32) {
    invocations(state).answer(key, Answer::Done);
}

#[op2(fast)]
pub(crate) fn op_wait_until_begun(state: &mut OpState, #[smi] key: u32) {
    invocations(state).wait_until_begun(key);
}

#[op2(fast)]
pub(crate) fn op_wait_until_over(state: &mut OpState, #[smi] key: u32) {
    invocations(state).wait_until_over(key);
}

#[op2(fast)]
pub(crate) fn op_invocation_pass_through(state: &mut OpState, #[smi] key: u32) {
    invocations(state).with(key, |invocation| invocation.pass_through = true);
}

#[op2(fast)]
pub(crate) fn op_invocation_fail<'a>(
    scope: &mut v8::PinScope<'a, '_>,
    state: Rc<RefCell<OpState>>,
    #[smi] key: u32,
    error: v8::Local<'a, v8::Value>,
) {
    let invocations = invocations(&state.borrow());
    let exception = exception_of(&JsError::from_v8_exception(scope, error));
    invocations.answer(key, Answer::Failed(Outcome::Exception, exception));
}

#[op2(fast)]
pub(crate) fn op_report_error<'a>(
    scope: &mut v8::PinScope<'a, '_>,
    state: Rc<RefCell<OpState>>,
    #[smi] key: u32,
    error: v8::Local<'a, v8::Value>,
) {
    let invocations = invocations(&state.borrow());
    // To write down a stack takes long: not for what is dropped.
    if invocations.takes_exception(key) {
        let exception = exception_of(&JsError::from_v8_exception(scope, error));
        invocations.report(key, exception);
    }
}

#[op2(fast)]
pub(crate) fn op_log(
    state: &mut OpState,
    #[smi] key: u32,
    #[smi] level: u32,
    #[string] message: String,
) {
    let level = match level {
        0 => LogLevel::Debug,
        1 => LogLevel::Log,
        2 => LogLevel::Warn,
        _ => LogLevel::Error,
    };
    let message = message.strip_suffix('\n').unwrap_or(&message).to_owned();
    invocations(state).log(key, level, message);
}

/// Resolves to true when the client leaves, to false when the invocation ends without that.
#[op2]
pub(crate) async fn op_invocation_wait_left(state: Rc<RefCell<OpState>>, #[smi] key: u32) -> bool {
    let waiter = invocations(&state.borrow()).wait_left(key);
    match waiter {
        Some(waiter) => waiter.await.unwrap_or(false),
        None => false,
    }
}

/// Resolves when the invocation has ended.
#[op2]
pub(crate) async fn op_invocation_ended(state: Rc<RefCell<OpState>>, #[smi] key: u32) {
    let waiter = invocations(&state.borrow()).wait_ended(key);
    if let Some(waiter) = waiter {
        // The sender is dropped only together with the whole instance.
        let _ = waiter.await;
    }
}
