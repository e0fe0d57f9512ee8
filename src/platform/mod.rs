//! One thin file per facility of the operating system, each a safe API over FFI. It owns every system call that std does
//! not offer; it refuses to know anything else of ours. One of the three places where `unsafe` may stand.

pub mod allocator;
pub mod child;
pub mod clock;
pub mod executable;
pub mod files;
pub mod host;
pub mod mapping;
pub mod objects;
pub mod power;
pub mod pressure;
pub mod process;
pub mod rlimits;
pub mod signals;
pub mod threads;
