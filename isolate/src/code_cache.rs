//! Compiled code, kept by the content it was compiled from and shared by every isolate of the process.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

/// The SHA-256 of a module's contents.
pub(crate) type ContentHash = [u8; 32];

pub(crate) fn content_hash(contents: &[u8]) -> ContentHash {
    Sha256::digest(contents).into()
}

/// What V8 made of one source.
#[derive(Clone)]
pub(crate) struct Code {
    pub(crate) bytes: Arc<[u8]>,
    /// Whether it was made before anything was called: code made later has the functions that matter.
    pub(crate) lacks_functions: bool,
}

#[derive(Default)]
struct Kept {
    code: HashMap<ContentHash, Code>,
    order: VecDeque<ContentHash>,
    bytes: usize,
}

/// Compiled code by content. V8 makes every entry in this process; none comes from a tenant.
pub struct CodeCache {
    kept: Mutex<Kept>,
    bytes_max: usize,
}

impl CodeCache {
    /// Makes an empty cache that holds at most `bytes_max` bytes; the oldest entries go first.
    pub fn new(bytes_max: usize) -> Self {
        Self { kept: Mutex::default(), bytes_max }
    }

    pub(crate) fn get(&self, hash: &ContentHash) -> Option<Code> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).code.get(hash).cloned()
    }

    pub(crate) fn put(&self, hash: ContentHash, code: Code) {
        let bytes = code.bytes.len();
        if bytes > self.bytes_max {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = kept.code.insert(hash, code) {
            kept.bytes -= before.bytes.len();
        } else {
            kept.order.push_back(hash);
        }
        kept.bytes += bytes;
        while kept.bytes > self.bytes_max {
            let Some(oldest) = kept.order.pop_front() else { break };
            if let Some(code) = kept.code.remove(&oldest) {
                kept.bytes -= code.bytes.len();
            }
        }
    }
}
