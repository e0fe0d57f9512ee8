//! What a layer remembers of the tokens it has seen. It owns the forms of that and what all of them can do; it refuses to
//! know models: a model only appends and reads, and never asks which form it got.

mod kv;

pub use kv::{GROWTH_TOKENS, KvCache};

// Whoever has caches made chooses how they are coded, and knows no kernels.
pub use crate::kernels::{Bits, Coding};
use crate::mlx::Result;

/// What a layer remembers of one sequence, as those see it who keep it and begin others with it.
///
/// Not every form can go back to an earlier token: what a window has left behind is gone, and a recurrent state is only what
/// it is. Both can go back to where a snapshot was taken.
pub trait State: Sized {
    /// The longest beginning, of at most `tokens` tokens, that another sequence can be begun with; 0 if there is none.
    fn cut(&self, tokens: usize) -> usize;

    /// A state of its own that has seen the first `tokens` tokens, which are as many as `cut` says, and has room for `room` in
    /// all. Lazy.
    ///
    /// # Errors
    /// The memory was refused.
    fn fork(&self, tokens: usize, room: usize) -> Result<Self>;

    /// Sees to it that it can be cut to what it has seen by now, whatever it sees next; earlier snapshots may go.
    fn snapshot(&mut self);
}

/// The longest beginning, of at most `tokens` tokens, that all layers' states can be cut to.
pub fn cut<S: State>(layers: &[S], tokens: usize) -> usize {
    let each = |tokens: usize| layers.iter().fold(tokens, |tokens, layer| layer.cut(tokens));
    let mut tokens = tokens;
    // A layer that can be cut to less may ask less of those before it; each round but the last is shorter.
    while each(tokens) < tokens {
        tokens = each(tokens);
    }
    tokens
}
