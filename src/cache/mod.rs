//! What a layer remembers of the tokens it has seen. It refuses to know models: a model only appends and reads.

mod contiguous;

pub use contiguous::{GROWTH_TOKENS, KvCache};
