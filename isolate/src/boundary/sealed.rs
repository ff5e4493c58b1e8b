//! Bytes that nobody can change any more, mapped into memory: processes that map the same ones share them.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;

/// What makes a file in memory as immutable as a constant: nobody can write to it, or cut or grow it.
const SEALS: libc::c_int = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;

/// The contents of a sealed file in memory.
#[derive(Debug)]
pub struct SealedMemory {
    start: NonNull<u8>,
    bytes: usize,
}

impl SealedMemory {
    /// Maps a file that `memfd_create` made and that is sealed against writing, shrinking and growing. The
    /// descriptor is not needed afterwards.
    ///
    /// # Errors
    /// If it is not sealed, or cannot be mapped.
    pub fn map(file: OwnedFd) -> io::Result<Self> {
        let mut file = File::from(file);
        // SAFETY: the call takes no pointer; the descriptor is open.
        let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
        if seals == -1 || seals & SEALS != SEALS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file is not sealed"));
        }
        // A confined process may not ask for a file's other attributes.
        let bytes = usize::try_from(file.seek(SeekFrom::End(0))?).map_err(io::Error::other)?;
        if bytes == 0 {
            return Ok(Self { start: NonNull::dangling(), bytes });
        }
        let (read, private) = (libc::PROT_READ, libc::MAP_PRIVATE);
        // SAFETY: the kernel chooses the place, so that no memory in use is replaced; the file is open and as
        // long as the mapping.
        let mapped =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, read, private, file.as_raw_fd(), 0) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start =
            NonNull::new(mapped.cast()).ok_or_else(|| io::Error::other("mapped at zero"))?;
        Ok(Self { start, bytes })
    }
}

// SAFETY: the memory belongs to this value alone, is only read, and is the same from every thread.
unsafe impl Send for SealedMemory {}
// SAFETY: as above; nothing is changed through a shared reference.
unsafe impl Sync for SealedMemory {}

impl AsRef<[u8]> for SealedMemory {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the mapping has this many bytes until it is dropped, and a start that fits any slice where
        // there are none. The seals, which cannot be taken off, keep everyone from changing or cutting the file;
        // the mapping is private and cannot be written to.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for SealedMemory {
    fn drop(&mut self) {
        if self.bytes > 0 {
            // SAFETY: `map` made this mapping, and no slice of it outlives the value.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::FromRawFd;

    use super::*;

    fn memory(contents: &[u8], seals: libc::c_int) -> OwnedFd {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: the name is a C string; what comes back is checked below.
        let fd = unsafe { libc::memfd_create(c"test".as_ptr(), flags) };
        assert!(fd >= 0);
        // SAFETY: it was just opened, and nothing else has it.
        let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.write_all(contents).unwrap();
        // SAFETY: the call takes no pointer; the descriptor is open.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) }, 0);
        file.into()
    }

    #[test]
    fn only_what_nobody_can_change_is_mapped() {
        let sealed = memory(b"contents", SEALS);
        let again = sealed.try_clone().unwrap();
        let mapped = SealedMemory::map(sealed).unwrap();
        assert_eq!(mapped.as_ref(), b"contents");
        assert!(File::from(again).set_len(0).is_err());
        assert_eq!(SealedMemory::map(memory(b"", SEALS)).unwrap().as_ref(), b"");
        for missing in [libc::F_SEAL_WRITE, libc::F_SEAL_SHRINK, libc::F_SEAL_GROW] {
            assert!(SealedMemory::map(memory(b"x", SEALS & !missing)).is_err());
        }
        assert!(SealedMemory::map(File::open("/proc/self/exe").unwrap().into()).is_err());
    }
}
