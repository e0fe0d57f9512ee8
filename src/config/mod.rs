//! What the operator asked for: raw arguments in, validated settings out. It owns every default and every unit, and
//! collects every mistake before it reports; it refuses to know any other module of ours.

pub mod args;
pub mod home;
mod listen;
pub mod mistakes;
mod names;
pub mod resolve;
pub mod settings;
pub mod show;
pub mod sources;
