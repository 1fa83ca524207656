//! The heap of the process: what was freed is given back to the machine.

/// How much freed memory an arena of the heap keeps at its end, and from what size a block is mapped by itself, bytes.
///
/// Frames and buffers of the usual size (1 MiB) stay below, so that they are used again and not mapped anew each time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_MAX: libc::c_int = 8 << 20;

/// From now on, large blocks that are freed go back to the machine, and so does what becomes free at an arena's end; to be called once, early.
///
/// glibc raises both of its thresholds by itself: once a block of 30 MB has been freed, each arena (eight for each processor) keeps up
/// to 60 MB for ever. One client with one large request could so leave a broker 110 MB larger; with thresholds that stand, 35 to 60 MB.
///
/// Does nothing where the heap is not glibc's.
pub fn give_back_what_is_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for parameter in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        #[expect(unsafe_code, reason = "a library call that no crate wraps")]
        // SAFETY: it takes numbers only.
        let taken = unsafe { libc::mallopt(parameter, KEPT_MAX) };
        debug_assert_eq!(taken, 1, "glibc takes them from 0 to 32 MiB");
    }
}
