//! What a model needs of a checkpoint, whatever file it came from. `weights::Checkpoint` implements it for files; tests
//! implement it for tiny random models.

use std::path::Path;

use serde_json::Value;

use crate::model::weights::{Checkpoint, LoadError, Representation, Tensor};

/// Named tensors and a configuration, in Hugging Face's names and row order.
pub trait Tensors {
    /// The file or folder, for messages.
    fn path(&self) -> &Path;

    /// The configuration, as in `config.json`.
    fn config(&self) -> &Value;

    /// The names of all tensors; a quantised one has one name.
    fn names(&self) -> Vec<&str>;

    /// The logical shape of a tensor, quantised or not.
    fn shape_of(&self, name: &str) -> Option<&[usize]>;

    /// How a tensor is stored.
    fn representation_of(&self, name: &str) -> Option<Representation>;

    /// A tensor's data.
    ///
    /// # Errors
    /// There is no such tensor, or its data cannot be read.
    fn tensor(&self, name: &str) -> Result<Tensor<'_>, LoadError>;

    /// Hears that what was read so far has been copied.
    fn release(&self) {}
}

impl Tensors for Checkpoint {
    fn path(&self) -> &Path {
        self.path()
    }

    fn config(&self) -> &Value {
        self.config()
    }

    fn names(&self) -> Vec<&str> {
        self.names().collect()
    }

    fn shape_of(&self, name: &str) -> Option<&[usize]> {
        self.shape_of(name)
    }

    fn representation_of(&self, name: &str) -> Option<Representation> {
        self.representation_of(name)
    }

    fn tensor(&self, name: &str) -> Result<Tensor<'_>, LoadError> {
        self.tensor(name)
    }

    fn release(&self) {
        self.release();
    }
}
