//! Notes of requests: taken in some nanoseconds where they are answered, and worked off many at a time, so that what
//! has to be looked up for each is looked up in a row. It knows nothing of what is made of them.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// So many notes of one worker's rules are worked off by whoever takes the last. No more wait than these and those of
/// one request, which has one for each layer.
pub(super) const NOTES_MAX: usize = 256;

/// What is noted of one request by one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// The rule's place.
    pub(super) rule: u16,
    /// The variant's place; those who got nothing come after the variants.
    pub(super) variant: u8,
    /// The hash of the unit that saw the variant.
    pub(super) unit: Option<u64>,
    pub(super) fared: Option<Fared>,
}

/// How a request fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fared {
    /// Whether it was answered with a status of 500 or more.
    pub(super) is_error: bool,
    /// The bucket that its latency falls into.
    pub(super) latency: u16,
}

/// Notes that wait.
#[derive(Default)]
pub(super) struct Notes(Mutex<Vec<Note>>);

impl Notes {
    /// Has notes put to those that wait. When there are enough, all that wait are for the caller to work off.
    pub(super) fn take(&self, put: impl FnOnce(&mut Vec<Note>)) -> Option<Vec<Note>> {
        let mut waiting = self.lock();
        put(&mut waiting);
        if waiting.len() < NOTES_MAX {
            return None;
        }
        Some(std::mem::replace(&mut *waiting, Vec::with_capacity(NOTES_MAX)))
    }

    /// Gives all that wait to be worked off.
    pub(super) fn drain(&self) -> Vec<Note> {
        std::mem::take(&mut *self.lock())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Note>> {
        // A list of notes is sound whoever panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_given_once() {
        let note = Note { rule: 0, variant: 1, unit: Some(7), fared: None };
        let notes = Notes::default();
        assert_eq!(notes.take(|_| ()), None);
        for _ in 1..NOTES_MAX {
            assert_eq!(notes.take(|waiting| waiting.push(note)), None);
        }
        assert_eq!(notes.take(|waiting| waiting.push(note)), Some(vec![note; NOTES_MAX]));
        assert!(notes.is_empty());
        assert_eq!(notes.take(|waiting| waiting.extend([note; 2])), None);
        assert_eq!(notes.drain(), [note; 2]);
        assert!(notes.is_empty());
    }

    #[test]
    fn a_note_is_small() {
        assert!(size_of::<Note>() <= 24);
    }
}
