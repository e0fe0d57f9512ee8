//! What operators and schedulers run beside the server: certificates, manifests, probes and watchers, the doctor, the
//! bench. Each reports and exits, and the guardian alone heals. It refuses to know the engine, HTTP's server side and models: a monitor shares nothing with what it watches.

pub mod bench;
pub mod canary;
pub mod certs;
mod definitions;
pub mod doctor;
pub mod drift;
pub mod fallback;
pub mod guardian;
pub mod install;
mod installed;
mod integrity;
mod look;
pub mod manifest;
pub mod parity_smoke;
pub mod probe;
mod serving;
mod state;
mod supervisor;
mod target;
mod turn;
mod watch;
