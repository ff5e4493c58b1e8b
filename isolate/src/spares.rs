//! What an idle thread does for the cold starts to come. It makes blank isolates: created from the snapshot,
//! their globals in place, waiting for a script; most of a cold start's time goes into that. And it keeps the
//! compiled code of scripts that have been called a few times, so that their next load compiles nothing.

use std::cell::{Cell as StdCell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use tokio::sync::Notify;

use crate::boundary::{
    BufferAccount, CallError, Cell, CellOptions, Entries, install_entries, module_code,
};
use crate::inspector::Inspector;
use crate::instance::{Inner, IsolateThread, State};
use crate::limits::Limits;
use crate::loader::LateLoader;

/// Blank isolates that one thread keeps at most, whatever it is asked for.
const SPARES_MAX: usize = 64;

/// Calls after which a script's functions that matter have been compiled.
const CALLS_BEFORE_CODE: u32 = 3;

/// Instances whose code is to be kept; the oldest is forgotten for another.
const NEW_CODE_MAX: usize = 256;

/// An instance whose script's code is not in the cache yet.
struct NewCode {
    instance: Weak<Inner>,
    loader: Rc<LateLoader>,
}

/// What an isolate's heap and buffers are created for. Only a script with these limits may have it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sizes {
    heap_bytes_max: usize,
    buffer_bytes_max: usize,
}

impl From<&Limits> for Sizes {
    fn from(limits: &Limits) -> Self {
        Self { heap_bytes_max: limits.heap_bytes_max, buffer_bytes_max: limits.buffer_bytes_max }
    }
}

/// An isolate that no script has been loaded into.
pub(crate) struct Blank {
    pub(crate) cell: Cell,
    pub(crate) entries: Entries,
    pub(crate) loader: Rc<LateLoader>,
    pub(crate) inspector: Option<Inspector>,
    sizes: Sizes,
}

impl Blank {
    fn make(sizes: Sizes, slices: &Rc<StdCell<u64>>, inspected: bool) -> Result<Self, CallError> {
        let loader = Rc::new(LateLoader::default());
        let mut cell = Cell::new(CellOptions {
            loader: loader.clone(),
            heap_bytes_max: sizes.heap_bytes_max,
            buffers: BufferAccount::new(sizes.buffer_bytes_max),
            inspector: inspected,
            slices: slices.clone(),
        });
        let inspector = inspected.then(|| cell.with(|runtime| Inspector::of(runtime)));
        let entries = cell.with(|runtime| install_entries(runtime, inspector.as_ref()))?;
        Ok(Self { cell, entries, loader, inspector, sizes })
    }
}

/// The blank isolates of one thread.
pub(crate) struct Spares {
    shelf: RefCell<Vec<Blank>>,
    /// What the last script was loaded with: the next one's limits are most likely the same.
    sizes: StdCell<Sizes>,
    slices: Rc<StdCell<u64>>,
    taken: Notify,
    new_code: RefCell<VecDeque<NewCode>>,
}

impl Default for Spares {
    fn default() -> Self {
        Self {
            shelf: RefCell::default(),
            sizes: StdCell::new((&Limits::default()).into()),
            slices: Rc::default(),
            taken: Notify::new(),
            new_code: RefCell::default(),
        }
    }
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

    /// Keeps the compiled code of one script that has been called often enough. Says whether there was one.
    /// Must be called on the thread itself, between slices.
    pub fn keep_code(&self) -> bool {
        self.spares.keep_code()
    }

    /// How often the thread has entered an isolate: it stands still while the thread is idle.
    pub fn slices(&self) -> u64 {
        self.spares.slices.get()
    }
}

impl Spares {
    /// Notes that the instance's script was compiled here, and that its code is worth keeping.
    pub(crate) fn note_new_code(&self, instance: Weak<Inner>, loader: Rc<LateLoader>) {
        let mut waiting = self.new_code.borrow_mut();
        if waiting.len() == NEW_CODE_MAX {
            waiting.pop_front();
        }
        waiting.push_back(NewCode { instance, loader });
    }

    fn keep_code(&self) -> bool {
        let ready = |new: &NewCode| {
            new.instance.upgrade().filter(|instance| {
                instance.state() == State::Live && instance.invocations.len() == 0
            })
        };
        let mut waiting = self.new_code.borrow_mut();
        waiting.retain(|new| new.instance.strong_count() > 0);
        let found = waiting.iter().position(|new| {
            ready(new).is_some_and(|instance| instance.invocations.begun() >= CALLS_BEFORE_CODE)
        });
        let Some(new) = found.and_then(|index| waiting.remove(index)) else { return false };
        drop(waiting);
        let (Some(instance), Some(loader)) = (ready(&new), new.loader.script()) else {
            return false;
        };
        instance
            .inside(|runtime| loader.keep_code(|url, source| module_code(runtime, url, source)));
        true
    }

    fn len(&self) -> usize {
        self.shelf.borrow().len()
    }

    /// Makes one more, unless there are enough.
    fn make(&self) {
        let sizes = self.sizes.get();
        // Those made for other limits would never be taken.
        let outdated: Vec<Blank> =
            self.shelf.borrow_mut().extract_if(.., |spare| spare.sizes != sizes).collect();
        drop(outdated);
        if self.len() < SPARES_MAX
            && let Ok(blank) = Blank::make(sizes, &self.slices, false)
        {
            self.shelf.borrow_mut().push(blank);
        }
    }

    /// An isolate with a debugger's door. There is no use in making one ahead.
    pub(crate) fn inspected(&self, limits: &Limits) -> Result<Blank, CallError> {
        Blank::make(limits.into(), &self.slices, true)
    }

    /// A blank isolate for a script with these limits: a spare one if there is any.
    pub(crate) fn take(&self, limits: &Limits) -> Result<Blank, CallError> {
        let sizes = Sizes::from(limits);
        self.sizes.set(sizes);
        let spare = self.shelf.borrow_mut().pop_if(|spare| spare.sizes == sizes);
        match spare {
            Some(blank) => {
                self.taken.notify_one();
                Ok(blank)
            }
            None => Blank::make(sizes, &self.slices, false),
        }
    }
}
