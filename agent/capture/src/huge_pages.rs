//! Large tables that are read at random are slow on 4 KiB pages: with a million flows nearly every packet waits for page
//! tables before it waits for memory.
#![allow(unsafe_code)]

use rustix::mm::{Advice, madvise};

const PAGE_BYTES: usize = 4096;

/// Asks the kernel to back `memory` with huge pages (MADV_HUGEPAGE), best before it is touched. Only advice: where it
/// cannot be taken nothing changes but speed.
pub fn advise<T>(memory: &mut [T]) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_memory_holds_stays() {
        for len in [0, 1, 4095, 4096, 5 << 20] {
            let mut memory: Vec<u8> = (0..len).map(|i| i as u8).collect();
            advise(&mut memory);
            assert!(memory.iter().enumerate().all(|(i, byte)| *byte == i as u8));
        }
    }
}
