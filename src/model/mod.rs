//! Models: reading their weights, and one file per `model_type`.

pub mod weights;
