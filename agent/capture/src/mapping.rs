//! Memory shared with the kernel: mapped once, unmapped on drop.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// A mapping of `len` bytes. It hands out pointers, not slices: the kernel writes to it at any time.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is owned by this value alone and not tied to the thread that made it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `len` bytes of a socket or map at `offset`, shared with the kernel and populated.
    pub(crate) fn of_fd(fd: impl AsFd, len: usize, offset: u64) -> io::Result<Mapping> {
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a null hint lets the kernel choose a free range, so no existing memory is replaced.
        let start = unsafe {
            mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags, fd, offset)
        }?;
        Mapping::from_raw(start, len)
    }

    /// `len` zeroed bytes of our own, populated so that the first frames meet no page fault.
    pub(crate) fn anonymous(len: usize) -> io::Result<Mapping> {
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: as above.
        let start =
            unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags) }?;
        Mapping::from_raw(start, len)
    }

    fn from_raw(start: *mut core::ffi::c_void, len: usize) -> io::Result<Mapping> {
        let start = NonNull::new(start.cast::<u8>()).ok_or_else(|| io::Error::other("mmap returned null"))?;
        Ok(Mapping { start, len })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// A pointer to `T` at byte `offset`.
    ///
    /// # Panics
    /// When `T` would not lie inside the mapping or not be aligned: offsets come from the kernel once, at set-up.
    pub(crate) fn at<T>(&self, offset: usize) -> *mut T {
        let end = offset.checked_add(size_of::<T>());
        assert!(end.is_some_and(|end| end <= self.len), "offset {offset} outside a mapping of {}", self.len);
        // SAFETY: `offset` is inside the mapping, checked above.
        let pointer = unsafe { self.start.as_ptr().add(offset) }.cast::<T>();
        assert!(pointer.is_aligned(), "offset {offset} not aligned");
        pointer
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by this value, and pointers into it do not outlive their owner.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}
