//! The op that reads a body to its end. What has come counts as the isolate's memory from then on, and others on the
//! thread have their turn meanwhile: there may be any amount of it, at once.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use deno_core::{OpState, Resource, ResourceId, op2};
use deno_error::JsErrorBox;

use crate::memory::MemoryAccount;

/// The most that one read asks for, in bytes.
const READ_BYTES_MAX: usize = 64 << 10;

/// What is read before others on the thread have their turn, in bytes: a millisecond or two of undoing its coding.
const TURN_BYTES_MAX: usize = 1 << 20;

/// What an announced length is believed, in bytes.
const ANNOUNCED_BYTES_MAX: u64 = 1 << 20;

/// Bytes that count against an account for as long as they are collected.
struct Collected {
    account: Arc<MemoryAccount>,
    bytes: Vec<u8>,
    counted: usize,
}

impl Collected {
    fn new(account: Arc<MemoryAccount>) -> Self {
        Self { account, bytes: Vec::new(), counted: 0 }
    }

    /// Makes room for so many bytes more.
    fn reserve(&mut self, more: usize) -> Result<(), JsErrorBox> {
        let needed = self.bytes.len().saturating_add(more);
        if needed <= self.counted {
            return Ok(());
        }
        // Twice as many, or as much of that as there is room for: each step copies what there is.
        let mut size = needed.max(self.counted.saturating_mul(2));
        while !self.account.take_buffer(size - self.counted) {
            if size == needed {
                return Err(JsErrorBox::range_error(
                    "the body is larger than the memory that is left for it",
                ));
            }
            size = needed + (size - needed) / 2;
        }
        self.counted = size;
        self.bytes.reserve_exact(size - self.bytes.len());
        Ok(())
    }
}

impl Drop for Collected {
    fn drop(&mut self) {
        self.account.give_buffer(self.counted);
    }
}

async fn read_to_end(
    resource: Rc<dyn Resource>,
    account: Arc<MemoryAccount>,
) -> Result<Vec<u8>, JsErrorBox> {
    let mut collected = Collected::new(account);
    let announced = resource.size_hint().0.min(ANNOUNCED_BYTES_MAX);
    collected.reserve(usize::try_from(announced).unwrap_or(0))?;
    let mut in_turn = 0;
    loop {
        let more = resource.clone().read(READ_BYTES_MAX).await?;
        if more.is_empty() {
            return Ok(std::mem::take(&mut collected.bytes));
        }
        collected.reserve(more.len())?;
        collected.bytes.extend_from_slice(&more);
        in_turn += more.len();
        if in_turn >= TURN_BYTES_MAX {
            in_turn = 0;
            tokio::task::yield_now().await;
        }
    }
}

#[op2]
#[buffer]
pub(crate) async fn op_body_bytes(
    state: Rc<RefCell<OpState>>,
    #[smi] rid: ResourceId,
) -> Result<Vec<u8>, JsErrorBox> {
    let (resource, account) = {
        let state = state.borrow();
        let resource = state.resource_table.get_any(rid).map_err(JsErrorBox::from_err)?;
        (resource, state.borrow::<Arc<MemoryAccount>>().clone())
    };
    read_to_end(resource, account).await
}
