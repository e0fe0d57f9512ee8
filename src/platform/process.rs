//! The end of the process and facts about it. It owns `_exit`: no destructor and no atexit handler runs after it, because
//! MLX's static destructors crash or dead-lock when a thread of its own is still alive (L14).

/// Ends the process at once with `code`.
#[allow(unsafe_code)]
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes no pointer and never returns; skipping destructors is its purpose here.
    unsafe { libc::_exit(code) }
}
