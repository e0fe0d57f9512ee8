//! What operators and schedulers run beside the server: certificates, probes, the doctor, the bench. Each
//! reports and exits. It refuses to know the engine, HTTP's server side and models: a monitor shares nothing with what it watches.

pub mod bench;
pub mod certs;
pub mod doctor;
pub mod probe;
mod target;
