//! Tests of the built binary, with real processes, signals and sockets, in one test binary. They need the `fault`
//! feature; `scripts/test` builds with it.

mod support;

mod bench;
mod chat;
mod clean;
mod completions;
mod doctor;
mod doubles;
mod drain;
mod exit;
mod health;
mod incident;
#[cfg(target_os = "linux")] // What it looks at is below /proc.
mod install;
#[cfg(target_os = "linux")] // It asks the kernel what the process has.
mod memory;
mod refusals;
mod sampling;
mod sign;
#[cfg(target_os = "linux")] // As `memory`.
mod soak;
mod structured;
mod text;
mod tls;
mod tools;
mod watchers;
