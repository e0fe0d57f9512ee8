//! What the process tells about itself: log lines. It refuses to know requests.

pub mod logs;
