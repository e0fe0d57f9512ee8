//! sanctum-mlx (code map and invariants are written when the modules stand).

pub mod client;
pub mod config;
pub mod engine;
pub mod job;
pub mod lifecycle;
pub mod model;
pub mod ops;
pub mod platform;
pub mod telemetry;
pub mod text;

// Unit tests include `tests/it/support`, which names the crate as an integration test does.
#[cfg(test)]
extern crate self as sanctum_mlx;
