//! What the process tells about itself: log lines and metrics. It refuses to know requests and who counts.

pub mod binary;
pub mod companions;
pub mod logs;
pub mod metrics;
pub mod misses;
pub mod rotated;
pub mod speed;
