//! Blocks that architectures share: projections, norms, embeddings and the gated feed-forward. They hold weights and call
//! `kernels`; they refuse to know which model they are part of and how its weights were stored.

mod embedding;
mod linear;
mod mlp;
mod norm;

pub use embedding::Embedding;
pub use linear::Linear;
pub use mlp::SwiGlu;
pub use norm::RmsNorm;
