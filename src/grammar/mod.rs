//! Structured output: what an answer must look like, as masks over a model's tokens. llguidance does the parsing; this
//! module says what of it may be asked for, at which cost, and on which thread. It knows text and token ids, and refuses to
//! know HTTP and arrays: a row gets its masks as a [`Constraint`](crate::job::Constraint).
//!
//! A model has one [`Vocabulary`]. A request is compiled once ([`compile()`], on a thread that may block, within a
//! [`Budget`]), and each of its rows follows the result ([`Worker::constraint`]), alone or behind its thinking
//! ([`After`]). The masks of all rows are computed on one thread, while the device computes their logits.
//!
//! Invariants: what cannot be restricted as asked is refused by name and not skipped; a mask allows at least one token,
//! and none that is neither text nor an end of the answer; a row whose grammar fails, fails alone.

pub mod budget;

mod after;
mod compile;
mod error;
mod lark;
mod marker;
mod matcher;
mod pool;
mod schema;
mod shape;
mod vocabulary;
mod worker;

// One name for each thing that `http` and `app` use; how it is divided into files is nobody else's business.
pub use crate::grammar::after::{After, Beginning, ThinkingBudget};
pub use crate::grammar::budget::Budget;
pub use crate::grammar::compile::{Compiled, Wanted, compile};
pub use crate::grammar::error::{Fault, GrammarError, Source};
pub use crate::grammar::marker::Marker;
pub use crate::grammar::pool::Pool;
pub use crate::grammar::vocabulary::{Vocabulary, VocabularyError};
pub use crate::grammar::worker::Worker;

#[cfg(test)]
mod tests;
