//! The engine: one thread that admits, steps and publishes. It owns the queue, the rows and the terminal event of every
//! job; it refuses to know `mlx_rs`, strings, status codes and model names.

pub mod backend;
mod command;
pub mod handle;
mod pace;
