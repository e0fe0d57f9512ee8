//! The HTTP client of probes, chat and bench: blocking, plain or mutual TLS, every wait bounded. It owns how we talk to
//! a server as its users do; it refuses to know the engine and our own server's insides, so that what watches shares
//! nothing with what it watches.

mod http;
pub mod sse;
pub mod wire;

pub use http::{Client, ClientError, Identity, Reply, Stream};
