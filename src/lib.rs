//! sanctum-mlx (code map and invariants are written when the modules stand).

pub mod config;
pub mod engine;
pub mod job;
pub mod lifecycle;
pub mod platform;
pub mod telemetry;
