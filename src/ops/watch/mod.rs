//! What all watchers share: their plan, the kinds of events, alerts, and the tick. Each watcher checks one failure mode
//! on its own channel; nothing here knows which.

pub(crate) mod alert;
pub(crate) mod event;
pub(crate) mod plan;
pub(crate) mod tick;
