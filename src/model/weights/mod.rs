//! A model on disk, as one uniform view: tensors under their Hugging Face names in one of two representations, the
//! configuration as a `config.json` has it, the text side, the stop tokens. It owns every check that can be made
//! without computing: what is opened here has sound headers, and data inside its files. It refuses to know arrays and
//! model families; bytes only, so all of it can be checked before MLX is touched.
//!
//! A folder in the layout of Hugging Face or MLX is read by `folder` and `safetensors`, a `.gguf` file by `gguf`.

mod error;
mod facts;
mod files;
mod folder;
pub mod gguf;
mod quantisation;
pub mod safetensors;
mod tensor;
mod text_source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::platform::mapping::Mapping;

pub use error::{Flaw, LoadError};
pub use facts::GenerationDefaults;
pub use gguf::vocabulary::Vocabulary;
pub use tensor::{Dtype, Representation, Tensor};
pub use text_source::TextSource;

/// A model that has been opened: everything but the data is read and checked.
#[derive(Debug)]
pub struct Checkpoint {
    /// The folder or the `.gguf` file.
    path: PathBuf,
    /// As `config.json` has it.
    config: Value,
    /// What a generation does where a request says nothing.
    defaults: GenerationDefaults,
    /// Tokens that end an answer, ascending.
    stop_tokens: Vec<u32>,
    /// Most tokens of a prompt and its answer.
    context_tokens: u32,
    /// Tokenizer and template.
    text: TextSource,
    /// Where each tensor is.
    tensors: Tensors,
}

/// The two sources of tensors.
#[derive(Debug)]
enum Tensors {
    Gguf { mapping: Mapping, named: BTreeMap<String, gguf::llama::Named> },
    Folder(folder::Tensors),
}

impl Checkpoint {
    /// Opens a model folder, a `.gguf` file, or a folder that holds exactly one `.gguf` file and no safetensors.
    ///
    /// # Errors
    /// A file is missing, damaged or not supported; the message names it and what is wrong.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        if !path.is_dir() {
            return Self::open_gguf(path);
        }
        match files::only_gguf(path)? {
            Some(file) => Self::open_gguf(&file),
            None => Self::open_folder(path),
        }
    }

    fn open_gguf(path: &Path) -> Result<Self, LoadError> {
        let mapping = Mapping::open(path).map_err(LoadError::io(path))?;
        let flawed = |flaw: Flaw| flaw.within(path);
        let gguf = gguf::parse(&mapping).map_err(flawed)?;
        let llama = gguf::llama::Llama::read(&gguf, &mapping).map_err(flawed)?;
        let vocabulary = Vocabulary::read(&gguf, &mapping).map_err(flawed)?;
        Ok(Self {
            path: path.to_owned(),
            defaults: GenerationDefaults::default(),
            stop_tokens: vocabulary.eos.into_iter().collect(),
            context_tokens: facts::context_tokens(&llama.config).map_err(flawed)?,
            config: llama.config,
            text: TextSource::Gguf(Box::new(vocabulary)),
            tensors: Tensors::Gguf { mapping, named: llama.tensors },
        })
    }

    fn open_folder(path: &Path) -> Result<Self, LoadError> {
        let config_path = path.join("config.json");
        let config = files::json_object(&config_path)?;
        let generation_path = path.join("generation_config.json");
        let generation = files::optional_json_object(&generation_path)?;
        let in_config = |flaw: Flaw| flaw.within(&config_path);
        let in_generation = |flaw: Flaw| flaw.within(&generation_path);
        let mut stop_tokens = facts::stop_tokens(&config).map_err(in_config)?;
        stop_tokens.extend(facts::stop_tokens(&generation).map_err(in_generation)?);
        stop_tokens.sort_unstable();
        stop_tokens.dedup();
        let schemes = quantisation::Schemes::read(&config).map_err(in_config)?;
        Ok(Self {
            path: path.to_owned(),
            defaults: GenerationDefaults::read(&generation).map_err(in_generation)?,
            stop_tokens,
            context_tokens: facts::context_tokens(&config).map_err(in_config)?,
            text: TextSource::read(path)?,
            tensors: Tensors::Folder(folder::Tensors::open(path, &schemes)?),
            config,
        })
    }

    /// The folder or `.gguf` file that was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration, as `config.json` has it; made of the metadata for GGUF.
    #[must_use]
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Every tensor's name, in ascending order. A quantised one is there once, under the name of its weight.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (gguf, folder) = match &self.tensors {
            Tensors::Gguf { named, .. } => (Some(named.keys()), None),
            Tensors::Folder(tensors) => (None, Some(tensors.names())),
        };
        gguf.into_iter().flatten().chain(folder.into_iter().flatten()).map(String::as_str)
    }

    /// A tensor's logical shape, slowest dimension first.
    #[must_use]
    pub fn shape_of(&self, name: &str) -> Option<&[usize]> {
        match &self.tensors {
            Tensors::Gguf { named, .. } => named.get(name).map(|named| named.entry.shape.as_slice()),
            Tensors::Folder(tensors) => tensors.shape_of(name),
        }
    }

    /// How a tensor is represented. For GGUF's `Q4_0` and `Q8_0` the type of scales and biases may turn out wider.
    #[must_use]
    pub fn representation_of(&self, name: &str) -> Option<Representation> {
        match &self.tensors {
            Tensors::Gguf { named, .. } => {
                named.get(name).map(|named| gguf::blocks::representation(named.entry.storage))
            }
            Tensors::Folder(tensors) => tensors.representation_of(name),
        }
    }

    /// A tensor's bytes; converted for GGUF's quantised types, borrowed from the file otherwise.
    ///
    /// # Errors
    /// There is no tensor of this name.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>, LoadError> {
        let tensor = match &self.tensors {
            Tensors::Gguf { mapping, named } => {
                named.get(name).map(|named| gguf::blocks::present(mapping, &named.entry, named.order))
            }
            Tensors::Folder(tensors) => tensors.tensor(name),
        };
        tensor.ok_or_else(|| Flaw::missing(format_args!("tensor {name:?}")).within(&self.path))
    }

    /// Lets go of the pages of the files that were read so far.
    pub fn release(&self) {
        match &self.tensors {
            Tensors::Gguf { mapping, .. } => mapping.release(),
            Tensors::Folder(tensors) => tensors.release(),
        }
    }

    /// Bytes of all tensors as they lie in the files.
    #[must_use]
    pub fn bytes_total(&self) -> u64 {
        match &self.tensors {
            Tensors::Gguf { named, .. } => named.values().map(|named| named.entry.range.len() as u64).sum(),
            Tensors::Folder(tensors) => tensors.bytes_total(),
        }
    }

    /// How most of the bytes are stored: `Q4_1`, `affine-4bit-g64`, `bf16`.
    #[must_use]
    pub fn quantisation(&self) -> String {
        let mut bytes_of = BTreeMap::<String, u64>::new();
        match &self.tensors {
            Tensors::Gguf { named, .. } => {
                for named in named.values() {
                    *bytes_of.entry(named.entry.storage.to_string()).or_default() += named.entry.range.len() as u64;
                }
            }
            Tensors::Folder(tensors) => tensors.count_bytes(&mut bytes_of),
        }
        bytes_of.into_iter().max_by_key(|(_, bytes)| *bytes).map_or_else(String::new, |(label, _)| label)
    }

    /// Tokenizer and chat template.
    #[must_use]
    pub fn text_source(&self) -> &TextSource {
        &self.text
    }

    /// Tokens that end an answer, ascending: of the config and of the generation config.
    #[must_use]
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stop_tokens
    }

    /// Most tokens of a prompt and its answer together.
    #[must_use]
    pub fn context_tokens(&self) -> u32 {
        self.context_tokens
    }

    /// What a generation does where a request says nothing.
    #[must_use]
    pub fn generation_defaults(&self) -> &GenerationDefaults {
        &self.defaults
    }
}

#[cfg(test)]
mod tests;
