//! Which architectures exist, and whether a checkpoint is one of them: a pure check of its configuration, names and shapes
//! before MLX is touched, so that a bad model is refused before anything is bound.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::model::llama::{self, Llama};
use crate::model::loader::Loader;
use crate::model::source::Tensors;
use crate::model::weights::{Flaw, LoadError};
use crate::model::{LoadFailure, Model};

/// Every `model_type` that [`check`] accepts.
pub const SUPPORTED: [&str; 2] = ["llama", "mistral"];

/// Names listed in a message before the rest is counted.
const NAMES_TOLD_MAX: usize = 4;

/// A tensor that an architecture reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Its name in the checkpoint.
    pub(crate) name: String,
    /// Its logical shape.
    pub(crate) shape: Vec<usize>,
}

/// A checkpoint that was checked against its architecture.
#[derive(Debug, Clone)]
pub struct Plan {
    architecture: Architecture,
    /// Most tokens of prompt and answer together that the model was made for.
    pub context_tokens: u32,
    /// Width of the logits: rows of the head, whatever the tokenizer says.
    pub logit_width: u32,
    /// Elements of a head of keys and values.
    pub head_width: usize,
    /// Tensors that will be loaded; progress is counted by them.
    pub tensors: usize,
}

#[derive(Debug, Clone)]
enum Architecture {
    Llama(llama::Args),
}

/// Checks everything that can be known without reading a weight.
///
/// # Errors
/// The architecture is not supported, an option of it is not, or a tensor is missing, superfluous or misshapen.
pub fn check(source: &dyn Tensors) -> Result<Plan, LoadError> {
    plan(source).map_err(|flaw| flaw.within(source.path()))
}

fn plan(source: &dyn Tensors) -> Result<Plan, Flaw> {
    let config = source.config();
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or("absent");
    if !SUPPORTED.contains(&model_type) {
        let supported = format!("one of {}", SUPPORTED.join(", "));
        return Err(Flaw::unsupported("model_type", model_type, supported));
    }
    let args = llama::Args::read(source)?;
    let expected = args.expected();
    compare(source, &expected, &args.unused())?;
    Ok(Plan {
        context_tokens: args.context_tokens(),
        logit_width: args.logit_width(),
        head_width: args.head_width(),
        tensors: expected.len(),
        architecture: Architecture::Llama(args),
    })
}

impl Plan {
    /// Loads the model, tensor by tensor; `progress` hears each tensor's name after it is in memory.
    ///
    /// # Errors
    /// A file cannot be read, or MLX refused.
    pub fn load(&self, source: &dyn Tensors, progress: &dyn Fn(&str)) -> Result<Box<dyn Model>, LoadFailure> {
        match &self.architecture {
            Architecture::Llama(args) => {
                let loader = Loader::new(source, progress, &format!("{}.weight", llama::EMBEDDING));
                Ok(Box::new(Llama::load(args, &loader)?))
            }
        }
    }
}

/// Every expected tensor is there in its shape, and nothing else is, but what is listed as unused.
fn compare(source: &dyn Tensors, expected: &[Expected], unused: &[&str]) -> Result<(), Flaw> {
    for Expected { name, shape } in expected {
        let Some(found) = source.shape_of(name) else { return Err(Flaw::missing(format!("tensor {name:?}"))) };
        if found != shape {
            let [expected, found] = [shape.as_slice(), found].map(|shape| format!("shape {shape:?}"));
            return Err(Flaw::unexpected(format!("tensor {name:?}"), expected, found));
        }
    }
    let known: BTreeSet<&str> = expected.iter().map(|tensor| tensor.name.as_str()).collect();
    let strangers: Vec<&str> = source
        .names()
        .into_iter()
        .filter(|name| !known.contains(name) && !unused.iter().any(|unused| name.ends_with(unused)))
        .collect();
    if strangers.is_empty() {
        return Ok(());
    }
    let told = strangers.iter().take(NAMES_TOLD_MAX).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    let rest = strangers.len().saturating_sub(NAMES_TOLD_MAX);
    let found = if rest > 0 { format!("{told} and {rest} more") } else { told };
    Err(Flaw::unexpected("tensors", "only those that the architecture uses", found))
}
