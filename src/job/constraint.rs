//! What restricts the tokens of an answer while it is generated: a grammar, or a budget. It is made at the edge, where text
//! is known, and asked on the inference thread, which knows token ids only.

use std::sync::Arc;

/// Which tokens may come next: bit `t % 32` of word `t / 32` is set if token t may.
pub type Mask = Arc<[u32]>;

/// The restriction of one row. It is called by the inference thread, which must not compute meanwhile: `accept` hands over
/// and returns, and `mask` waits for what was computed since, while the device was busy.
pub trait Constraint: Send + std::fmt::Debug {
    /// The row's next token is this one.
    fn accept(&mut self, token: u32);

    /// Which tokens may come next; `None` if all may.
    ///
    /// # Errors
    /// Why the row cannot go on; other rows are not touched.
    fn mask(&mut self) -> Result<Option<Mask>, String>;
}
