//! sanctum-mlx (code map and invariants are written when the modules stand).

pub mod cache;
pub mod client;
pub mod api;
pub mod config;
pub mod engine;
pub mod http;
pub mod hub;
pub mod job;
pub mod kernels;
pub mod lifecycle;
pub mod mlx;
pub mod model;
pub mod nn;
pub mod ops;
pub mod platform;
pub mod runner;
pub mod sample;
pub mod telemetry;
pub mod text;

// Unit tests include `tests/it/support`, which names the crate as an integration test does.
#[cfg(test)]
extern crate self as sanctum_mlx;
