//! Gives up root's capabilities: those in force, those that could be taken up again, and those that a
//! program could bring back.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

use super::Measure;

/// Numbers that the kernel's interface has room for.
const CAPABILITIES_MAX: u32 = 64;

/// Leaves the calling thread without capabilities.
pub(super) fn drop_all() -> Measure {
    // A user who has none cannot shrink the bounding set either, and loses nothing by it.
    match capabilities(None) {
        Ok(sets) if sets.permitted.is_empty() && sets.inheritable.is_empty() => Measure::Applied,
        Ok(_) => Measure::of(drop_each()),
        Err(error) => Measure::Refused(error.to_string()),
    }
}

fn drop_each() -> Result<(), Errno> {
    for number in 0..CAPABILITIES_MAX {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // The kernel knows no capability from this number on.
            Err(Errno::INVAL) => break,
            // Without the right to shrink that set, the others are emptied all the same: no program can
            // be executed later to take anything from it.
            Err(Errno::PERM) => break,
            Err(error) => return Err(error),
        }
    }
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}
