//! Asks the system not to fall asleep by itself. On macOS it is an assertion of IOKit's power management, as
//! `caffeinate -i` makes one; elsewhere servers do not fall asleep, and it is nothing. It refuses to know when.

/// Whether this system can be asked.
pub const CAN_ASK: bool = cfg!(target_os = "macos");

#[cfg(target_os = "macos")]
pub use apple::Awake;
#[cfg(not(target_os = "macos"))]
pub use elsewhere::Awake;

#[cfg(target_os = "macos")]
#[allow(unsafe_code)]
mod apple {
    use std::ffi::{CStr, c_char, c_void};

    /// `kCFStringEncodingUTF8`.
    const UTF8: u32 = 0x0800_0100;
    /// `kIOPMAssertionLevelOn`.
    const ON: u32 = 255;
    /// `kIOPMAssertPreventUserIdleSystemSleep`: the display may sleep, the system may not.
    const KIND: &CStr = c"PreventUserIdleSystemSleep";
    /// Shown by `pmset -g assertions`.
    const NAME: &CStr = c"sanctum-mlx is generating";

    #[link(name = "CoreFoundation", kind = "framework")]
    unsafe extern "C" {
        fn CFStringCreateWithCString(allocator: *const c_void, text: *const c_char, encoding: u32) -> *const c_void;
        fn CFRelease(object: *const c_void);
    }

    #[link(name = "IOKit", kind = "framework")]
    unsafe extern "C" {
        fn IOPMAssertionCreateWithName(kind: *const c_void, level: u32, name: *const c_void, id: *mut u32) -> i32;
        fn IOPMAssertionRelease(id: u32) -> i32;
    }

    /// The system stays awake while this lives.
    #[derive(Debug)]
    pub struct Awake(u32);

    impl Awake {
        /// Asks; `None` if the system refuses.
        #[must_use]
        pub fn ask() -> Option<Self> {
            let (kind, name) = (Text::of(KIND)?, Text::of(NAME)?);
            let mut id = 0;
            // SAFETY: both strings live until the end of this function, and `id` is ours to be written.
            let status = unsafe { IOPMAssertionCreateWithName(kind.0, ON, name.0, &raw mut id) };
            (status == 0).then_some(Self(id))
        }
    }

    impl Drop for Awake {
        fn drop(&mut self) {
            // SAFETY: the id is of an assertion that we made and that nobody else releases.
            unsafe { IOPMAssertionRelease(self.0) };
        }
    }

    /// A string of Core Foundation's.
    struct Text(*const c_void);

    impl Text {
        fn of(text: &CStr) -> Option<Self> {
            // SAFETY: the text ends with a zero and is copied; no allocator means the default one.
            let object = unsafe { CFStringCreateWithCString(std::ptr::null(), text.as_ptr(), UTF8) };
            (!object.is_null()).then_some(Self(object))
        }
    }

    impl Drop for Text {
        fn drop(&mut self) {
            // SAFETY: we made it and hold the only count of it that is ours.
            unsafe { CFRelease(self.0) };
        }
    }
}

#[cfg(not(target_os = "macos"))]
mod elsewhere {
    /// There is nothing to hold.
    #[derive(Debug)]
    pub struct Awake;

    impl Awake {
        /// Nothing is asked.
        #[must_use]
        pub fn ask() -> Option<Self> {
            None
        }
    }
}
