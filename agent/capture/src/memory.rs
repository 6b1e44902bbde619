//! Advice about memory: about what is read at random, as a large flow table is, and about what is not needed for now.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use rustix::mm::{Advice, madvise};

const PAGE_BYTES: usize = 4096;

const LINE_BYTES: usize = 64;

/// Asks for all cache lines of `value`, without waiting for them: unlike a read, which keeps what follows it from
/// completing.
#[inline]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = std::ptr::from_ref(value).cast::<i8>();
        let into_line = first.addr() % LINE_BYTES;
        for at in (0..into_line + size_of::<T>()).step_by(LINE_BYTES) {
            let line = first.wrapping_sub(into_line).wrapping_add(at);
            // SAFETY: a prefetch reads nothing and faults nowhere, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
        }
    }
    // Elsewhere it is only slower.
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (value, LINE_BYTES);
}

/// Asks the kernel to back `memory` with huge pages (MADV_HUGEPAGE), best before it is touched: with a million flows on
/// 4 KiB pages nearly every packet waits for page tables before it waits for memory.
pub fn use_huge_pages<T>(memory: &mut [T]) {
    let range = memory.as_mut_ptr_range();
    let first = (range.start as usize).next_multiple_of(PAGE_BYTES);
    let len = (range.end as usize).saturating_sub(first) & !(PAGE_BYTES - 1);
    if len == 0 {
        return;
    }
    let start = std::ptr::with_exposed_provenance_mut(first);
    // SAFETY: the pages lie inside `memory`, which is borrowed for the call; this advice changes what backs them and
    // never what they hold.
    let advised = unsafe { madvise(start, len, Advice::LinuxHugepage) };
    // A kernel without huge pages says EINVAL.
    let _ = advised;
}

/// Gives the pages of memory that holds nothing back to the kernel (MADV_DONTNEED); the next use takes new ones.
pub fn give_back<T>(memory: &mut [MaybeUninit<T>]) {
    let range = memory.as_mut_ptr_range();
    let first = (range.start as usize).next_multiple_of(PAGE_BYTES);
    let len = (range.end as usize).saturating_sub(first) & !(PAGE_BYTES - 1);
    if len == 0 {
        return;
    }
    let start = std::ptr::with_exposed_provenance_mut(first);
    // SAFETY: the pages lie inside `memory`, which is borrowed for the call and whose values are not initialised: nobody misses
    // what they hold. Memory of the allocator is private and anonymous, so it can be used again afterwards.
    let advised = unsafe { madvise(start, len, Advice::LinuxDontNeed) };
    // It stays then.
    let _ = advised;
}

/// Has the allocator give free memory back to the kernel. It holds each arena's lock meanwhile, for some milliseconds: not while
/// much is going on.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_memory_holds_stays() {
        for len in [0, 1, 4095, 4096, 5 << 20] {
            let mut memory: Vec<u8> = (0..len).map(|i| i as u8).collect();
            use_huge_pages(&mut memory);
            memory.reserve(1 << 20);
            give_back(memory.spare_capacity_mut());
            trim_heap();
            memory.first().inspect(|first| prefetch(*first));
            assert!(memory.iter().enumerate().all(|(i, byte)| *byte == i as u8));
        }
    }
}
