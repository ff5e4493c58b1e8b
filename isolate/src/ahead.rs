//! Compiles scripts before anybody calls them: an idle thread does it, in an isolate where nothing is ever run.

use std::cell::{Cell as StdCell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::boundary::{Cell, CellOptions, Compile, module_code};
use crate::code_cache::{Code, CodeCache};
use crate::loader::{LateLoader, module_url};
use crate::memory::{Memory, MemoryAccount};
use crate::ops::late;
use crate::script::{ModuleKind, Script};

/// Scripts that wait to be compiled; those that come then are compiled when they are called.
const WAITING_MAX: usize = 8_192;

/// The longest source that is compiled with all its functions, in bytes: each isolate holds what it loads.
const WHOLE_BYTES_MAX: usize = 16 << 10;

/// The longest source that is compiled ahead, in bytes: a thread is busy with it for some milliseconds.
const BYTES_MAX: usize = 512 << 10;

/// How long a thread goes on before it looks whether there is something else to do.
const TURN_MAX: Duration = Duration::from_millis(2);

/// Scripts that are compiled in one isolate: V8 holds on to their sources.
const SCRIPTS_PER_ISOLATE: u32 = 64;

/// What is compiled next.
enum Next {
    /// One of the runtime's scripts that are loaded late.
    Late,
    Deployed(Arc<Script>),
}

/// The scripts of a process that wait to be compiled.
#[derive(Default)]
pub(crate) struct Ahead(Mutex<VecDeque<Arc<Script>>>);

impl Ahead {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Arc<Script>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, script: Arc<Script>) {
        let mut waiting = self.waiting();
        if waiting.len() < WAITING_MAX {
            waiting.push_back(script);
        }
    }

    fn is_empty(&self) -> bool {
        !late::has_ahead() && self.waiting().is_empty()
    }

    /// Takes what is compiled next.
    fn next(&self) -> Option<Next> {
        if late::has_ahead() {
            return Some(Next::Late);
        }
        self.waiting().pop_front().map(Next::Deployed)
    }
}

/// Where one thread compiles.
pub(crate) struct Compiler {
    isolate: RefCell<Option<(Cell, u32)>>,
    memory: Memory,
    /// Counted apart: nobody's code runs.
    slices: Rc<StdCell<u64>>,
}

impl Compiler {
    pub(crate) fn new(memory: Memory) -> Self {
        Self { isolate: RefCell::default(), memory, slices: Rc::default() }
    }

    /// Whether there is something to compile, and memory to do it in.
    pub(crate) fn is_wanted(&self, ahead: &Ahead) -> bool {
        !ahead.is_empty() && !self.memory.pressed()
    }

    /// Compiles for a short while: the runtime's own late scripts first. Says whether there was anything to compile.
    pub(crate) fn turn(&self, ahead: &Ahead, cache: &CodeCache) -> bool {
        let begun = Instant::now();
        let mut isolate = self.isolate.borrow_mut();
        let mut did = false;
        while begun.elapsed() < TURN_MAX {
            let next = self.is_wanted(ahead).then(|| ahead.next()).flatten();
            let Some(next) = next else {
                *isolate = None;
                break;
            };
            did = true;
            if isolate.as_ref().is_some_and(|(_, compiled)| *compiled == SCRIPTS_PER_ISOLATE) {
                *isolate = None;
            }
            let (cell, compiled) = isolate.get_or_insert_with(|| (self.blank(), 0));
            *compiled += 1;
            match next {
                Next::Late => cell.compile_late(),
                Next::Deployed(script) => compile(cell, &script, cache),
            }
        }
        did
    }

    fn blank(&self) -> Cell {
        Cell::new(CellOptions {
            loader: Rc::new(LateLoader::default()),
            account: MemoryAccount::open(&self.memory),
            inspector: false,
            slices: self.slices.clone(),
        })
    }
}

fn compile(cell: &mut Cell, script: &Script, cache: &CodeCache) {
    for (index, module) in script.modules.iter().enumerate() {
        let is_fit = module.kind == ModuleKind::EsModule && module.bytes.len() <= BYTES_MAX;
        let (true, Some(hash)) = (is_fit, script.hash_at(index)) else { continue };
        let (Ok(url), Ok(source)) = (module_url(&module.name), std::str::from_utf8(&module.bytes))
        else {
            continue;
        };
        if cache.get(&hash).is_some() {
            continue;
        }
        let whole = module.bytes.len() <= WHOLE_BYTES_MAX;
        let how = if whole { Compile::Whole } else { Compile::Outermost };
        // What does not compile fails when it is loaded, with the reason.
        if let Some(code) = cell.with(|runtime| module_code(runtime, url.as_str(), source, how)) {
            cache.put(hash, Code { bytes: code.into(), lacks_functions: !whole });
        }
    }
}
