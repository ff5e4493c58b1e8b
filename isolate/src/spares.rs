//! What an idle thread does for the cold starts to come. It makes blank isolates: created from the snapshot,
//! their globals in place, waiting for a script; most of a cold start's time goes into that. And it keeps the
//! compiled code of scripts that have been called a few times, so that their next load compiles nothing.

use std::cell::{Cell as StdCell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::boundary::{
    CallError, Cell, CellOptions, Compile, Entries, install_entries, module_code,
};
use crate::inspector::Inspector;
use crate::instance::{Inner, IsolateThread, State};
use crate::loader::LateLoader;
use crate::memory::{Memory, MemoryAccount};

/// Blank isolates that one thread keeps at most, whatever it is asked for.
const SPARES_MAX: usize = 64;

/// Calls after which a script's functions that matter have been compiled.
const CALLS_BEFORE_CODE: u32 = 3;

/// Instances whose code is to be kept; the oldest is forgotten for another.
const NEW_CODE_MAX: usize = 256;

/// Instances whose code of the runtime's late scripts is to be kept; others are left out.
const LATE_CODE_MAX: usize = 64;

/// An instance whose script's code is not in the cache yet.
struct NewCode {
    instance: Weak<Inner>,
    loader: Rc<LateLoader>,
}

/// An isolate that no script has been loaded into.
pub(crate) struct Blank {
    pub(crate) cell: Cell,
    pub(crate) account: Arc<MemoryAccount>,
    pub(crate) entries: Entries,
    pub(crate) loader: Rc<LateLoader>,
    pub(crate) inspector: Option<Inspector>,
}

impl Blank {
    fn make(
        memory: &Memory,
        slices: &Rc<StdCell<u64>>,
        inspected: bool,
    ) -> Result<Self, CallError> {
        let loader = Rc::new(LateLoader::default());
        let account = MemoryAccount::open(memory);
        let mut cell = Cell::new(CellOptions {
            loader: loader.clone(),
            account: account.clone(),
            inspector: inspected,
            slices: slices.clone(),
        });
        let inspector = inspected.then(|| cell.with(|runtime| Inspector::of(runtime)));
        let entries = cell.with(|runtime| install_entries(runtime, inspector.as_ref()))?;
        Ok(Self { cell, account, entries, loader, inspector })
    }
}

/// The blank isolates of one thread.
pub(crate) struct Spares {
    shelf: RefCell<Vec<Blank>>,
    memory: Memory,
    slices: Rc<StdCell<u64>>,
    taken: Notify,
    new_code: RefCell<VecDeque<NewCode>>,
    late_code: RefCell<Vec<Weak<Inner>>>,
}

impl IsolateThread {
    /// Isolates that are made and wait for a script.
    pub fn spares(&self) -> usize {
        self.spares.len()
    }

    /// Makes an isolate ahead of need; the next instance that is loaded takes it. Takes a few milliseconds.
    /// Must be called on the thread itself, between slices.
    pub fn make_spare(&self) {
        self.spares.make();
    }

    /// Drops the isolates that wait for a script, to give their memory back.
    pub fn drop_spares(&self) {
        drop(self.spares.shelf.take());
    }

    /// Waits until there are fewer than `wanted` spare isolates.
    pub async fn spare_wanted(&self, wanted: usize) {
        while self.spares() >= wanted.min(SPARES_MAX) {
            self.spares.taken.notified().await;
        }
    }

    /// Keeps the compiled code of one script that has been called often enough, or of what one instance has loaded of
    /// the runtime's late scripts. Says whether there was any.
    /// Must be called on the thread itself, between slices.
    pub fn keep_code(&self) -> bool {
        self.spares.keep_code() || self.spares.keep_late_code()
    }

    /// Compiles some of what [`crate::Engine::compile_ahead`] was given, for a few milliseconds. Says whether there
    /// was anything. Must be called on the thread itself, between slices.
    pub fn compile_ahead(&self) -> bool {
        self.compiler.turn(&self.ahead, &self.code_cache)
    }

    /// Whether there is anything to compile ahead, and memory to do it in.
    pub fn has_ahead(&self) -> bool {
        self.compiler.is_wanted(&self.ahead)
    }

    /// How often the thread has entered an isolate: it stands still while the thread is idle.
    pub fn slices(&self) -> u64 {
        self.spares.slices.get()
    }
}

/// The instance, if it lives, was called often enough that its code is worth keeping, and has nothing to do.
fn settled(instance: &Weak<Inner>) -> Option<Rc<Inner>> {
    instance.upgrade().filter(|instance| {
        let invocations = &instance.invocations;
        instance.state() == State::Live
            && invocations.len() == 0
            && invocations.begun() >= CALLS_BEFORE_CODE
    })
}

impl Spares {
    /// A thread's shelf, empty yet. What is put there counts against `memory`.
    pub(crate) fn new(memory: Memory) -> Self {
        Self {
            shelf: RefCell::default(),
            memory,
            slices: Rc::default(),
            taken: Notify::new(),
            new_code: RefCell::default(),
            late_code: RefCell::default(),
        }
    }

    /// What all isolates of the process hold together.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Notes that the instance's script was compiled here, and that its code is worth keeping.
    pub(crate) fn note_new_code(&self, instance: Weak<Inner>, loader: Rc<LateLoader>) {
        let mut waiting = self.new_code.borrow_mut();
        if waiting.len() == NEW_CODE_MAX {
            waiting.pop_front();
        }
        waiting.push_back(NewCode { instance, loader });
    }

    /// Notes that the instance has loaded scripts of the runtime of which the process has little code.
    pub(crate) fn note_late_code(&self, instance: Weak<Inner>) {
        let mut waiting = self.late_code.borrow_mut();
        waiting.retain(|known| known.strong_count() > 0 && !known.ptr_eq(&instance));
        if waiting.len() < LATE_CODE_MAX {
            waiting.push(instance);
        }
    }

    fn keep_late_code(&self) -> bool {
        let mut waiting = self.late_code.borrow_mut();
        let found = waiting.iter().position(|instance| settled(instance).is_some());
        let instance = found.and_then(|index| settled(&waiting.swap_remove(index)));
        drop(waiting);
        if let Some(instance) = &instance {
            instance.keep_late_code();
        }
        instance.is_some()
    }

    fn keep_code(&self) -> bool {
        let mut waiting = self.new_code.borrow_mut();
        waiting.retain(|new| new.instance.strong_count() > 0);
        let found = waiting.iter().position(|new| settled(&new.instance).is_some());
        let Some(new) = found.and_then(|index| waiting.remove(index)) else { return false };
        drop(waiting);
        let (Some(instance), Some(loader)) = (settled(&new.instance), new.loader.script()) else {
            return false;
        };
        instance.inside(|runtime| {
            loader.keep_code(|url, source| module_code(runtime, url, source, Compile::Outermost))
        });
        true
    }

    fn len(&self) -> usize {
        self.shelf.borrow().len()
    }

    /// Makes one more, unless there are enough or memory is short.
    fn make(&self) {
        if self.len() < SPARES_MAX
            && !self.memory.pressed()
            && let Ok(blank) = Blank::make(&self.memory, &self.slices, false)
        {
            self.shelf.borrow_mut().push(blank);
        }
    }

    /// An isolate with a debugger's door. There is no use in making one ahead.
    pub(crate) fn inspected(&self) -> Result<Blank, CallError> {
        Blank::make(&self.memory, &self.slices, true)
    }

    /// A blank isolate: a spare one if there is any.
    pub(crate) fn take(&self) -> Result<Blank, CallError> {
        let spare = self.shelf.borrow_mut().pop();
        match spare {
            Some(blank) => {
                self.taken.notify_one();
                Ok(blank)
            }
            None => Blank::make(&self.memory, &self.slices, false),
        }
    }
}
