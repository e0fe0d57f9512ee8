//! The edge in one process: real sockets, the real engine thread over a backend that speaks a script, times scaled down.
//! A test's name carries the id of the guarantee that it shows.

mod bounds;
mod calls;
mod chat;
mod client;
mod completions;
mod drain;
mod limits;
mod overload;
mod page;
mod script;
pub(super) mod site;
mod stopwatch;
mod tls;
mod tokens;
