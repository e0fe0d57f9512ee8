//! A GGUF file of the `llama` architecture, told as Hugging Face tells it: tensor names, the order of rows in the q and
//! k projections, and a `config.json` made of the metadata. Tensors it has no name for keep their own, so that the
//! model refuses them as unused.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::model::weights::error::Flaw;
use crate::model::weights::gguf::Gguf;
use crate::model::weights::gguf::blocks::RowOrder;
use crate::model::weights::gguf::metadata::Metadata;
use crate::model::weights::gguf::rope;
use crate::model::weights::gguf::tensors::{Storage, TensorEntry};
use crate::model::weights::tensor::Dtype;

/// `general.architecture` of the files that are understood.
const ARCHITECTURE: &str = "llama";
/// Base of the rotary frequencies where the file names none.
const ROPE_THETA_DEFAULT: f64 = 10_000.0;

/// Parts of a layer: GGUF's name and ours.
const LAYER_PARTS: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// A tensor of the file under its Hugging Face name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Where it lies.
    pub entry: TensorEntry,
    /// How its rows are stored.
    pub order: RowOrder,
}

/// What the file holds, in Hugging Face's words.
#[derive(Debug, Clone, PartialEq)]
pub struct Llama {
    /// As a `config.json` would have it.
    pub config: Value,
    /// By Hugging Face name.
    pub tensors: BTreeMap<String, Named>,
}

/// The shape of the attention, needed to order rows and to write the config.
struct Heads {
    queries: u32,
    keys: u32,
    dim: u32,
}

impl Llama {
    /// Reads the configuration and names the tensors.
    ///
    /// # Errors
    /// Another architecture, a missing or impossible hyper-parameter, or q and k rows that are not whole heads.
    pub fn read(gguf: &Gguf, file: &[u8]) -> Result<Self, Flaw> {
        let metadata = &gguf.metadata;
        let architecture =
            metadata.text("general.architecture")?.ok_or_else(|| Flaw::missing("key \"general.architecture\""))?;
        if architecture != ARCHITECTURE {
            return Err(Flaw::unsupported(
                "key \"general.architecture\"",
                format_args!("{architecture:?}"),
                "\"llama\"",
            ));
        }
        if metadata.u32("llama.expert_count")?.unwrap_or(0) > 0 {
            return Err(Flaw::unsupported("key \"llama.expert_count\"", "a mixture of experts", "0"));
        }
        let heads = Heads::read(metadata)?;
        let mut tensors = BTreeMap::new();
        let mut factors = None;
        for entry in &gguf.tensors {
            if entry.name == rope::NAME {
                factors = Some(frequency_factors(entry, file)?);
                continue;
            }
            let order = heads.order_of(entry)?;
            let name = hugging_face_name(&entry.name).unwrap_or_else(|| entry.name.clone());
            let named = Named { entry: entry.clone(), order };
            if tensors.insert(name, named).is_some() {
                return Err(Flaw::Duplicate { what: format!("tensor {:?}", entry.name) });
            }
        }
        let config = config(metadata, &heads, &tensors, factors.as_deref(), file)?;
        Ok(Self { config, tensors })
    }
}

impl Heads {
    fn read(metadata: &Metadata) -> Result<Self, Flaw> {
        let queries = positive(metadata, "llama.attention.head_count")?;
        let keys = match metadata.value("llama.attention.head_count_kv") {
            Some(_) => positive(metadata, "llama.attention.head_count_kv")?,
            None => queries,
        };
        let hidden = positive(metadata, "llama.embedding_length")?;
        let dim = match metadata.value("llama.attention.key_length") {
            Some(_) => positive(metadata, "llama.attention.key_length")?,
            None => hidden / queries,
        };
        if dim == 0 || !dim.is_multiple_of(2) {
            return Err(Flaw::unexpected("key \"llama.attention.head_count\"", "heads of an even number of rows", dim));
        }
        let rotated = metadata.u32("llama.rope.dimension_count")?.unwrap_or(dim);
        if rotated != dim {
            let supported = format!("{dim}, the rows of a head");
            return Err(Flaw::unsupported("key \"llama.rope.dimension_count\"", rotated, supported));
        }
        Ok(Self { queries, keys, dim })
    }

    fn order_of(&self, entry: &TensorEntry) -> Result<RowOrder, Flaw> {
        let is_rotated = |part: &str| entry.name.starts_with("blk.") && entry.name.contains(part);
        let heads = match () {
            () if is_rotated(".attn_q.") => self.queries,
            () if is_rotated(".attn_k.") => self.keys,
            () => return Ok(RowOrder::Plain),
        };
        let rows = u64::from(heads) * u64::from(self.dim);
        // A bias has one dimension, and its values are ordered as the rows of the weight are.
        let found = entry.shape[0] as u64;
        if entry.shape.len() > 2 || found != rows {
            let expected = format_args!("{heads} heads of {} rows", self.dim).to_string();
            return Err(Flaw::unexpected(format_args!("tensor {:?}, shape", entry.name), expected, found));
        }
        Ok(RowOrder::Interleaved { head_rows: self.dim as usize })
    }
}

/// `blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj.weight`.
fn hugging_face_name(name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.').filter(|(_, kind)| ["weight", "bias"].contains(kind))?;
    let module = match stem {
        "token_embd" => "model.embed_tokens".to_owned(),
        "output_norm" => "model.norm".to_owned(),
        "output" => "lm_head".to_owned(),
        _ => {
            let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
            // Only the plain decimal form, so that no two names become one.
            let layer = layer.parse::<u32>().ok().filter(|number| number.to_string() == layer)?;
            let (_, ours) = LAYER_PARTS.iter().find(|(theirs, _)| *theirs == part)?;
            format!("model.layers.{layer}.{ours}")
        }
    };
    Some(format!("{module}.{kind}"))
}

fn config(
    metadata: &Metadata,
    heads: &Heads,
    tensors: &BTreeMap<String, Named>,
    factors: Option<&[f32]>,
    file: &[u8],
) -> Result<Value, Flaw> {
    let vocabulary = match metadata.u32("llama.vocab_size")? {
        Some(size) => size as usize,
        None => metadata.texts("tokenizer.ggml.tokens", file)?.map_or(0, |tokens| tokens.len()),
    };
    let epsilon_key = "llama.attention.layer_norm_rms_epsilon";
    let epsilon = metadata.float(epsilon_key)?.ok_or_else(|| Flaw::missing(format_args!("key {epsilon_key:?}")))?;
    let theta = metadata.float("llama.rope.freq_base")?.unwrap_or(ROPE_THETA_DEFAULT);
    let has = |name: &str| tensors.contains_key(name);
    let mut config = json!({
        "model_type": ARCHITECTURE,
        "hidden_size": positive(metadata, "llama.embedding_length")?,
        "num_hidden_layers": positive(metadata, "llama.block_count")?,
        "num_attention_heads": heads.queries,
        "num_key_value_heads": heads.keys,
        "head_dim": heads.dim,
        "intermediate_size": positive(metadata, "llama.feed_forward_length")?,
        "max_position_embeddings": positive(metadata, "llama.context_length")?,
        "vocab_size": vocabulary,
        "rms_norm_eps": epsilon,
        "rope_theta": theta,
        "hidden_act": "silu",
        "tie_word_embeddings": !has("lm_head.weight"),
        "attention_bias": has("model.layers.0.self_attn.q_proj.bias"),
        "mlp_bias": has("model.layers.0.mlp.gate_proj.bias"),
    });
    let entries = config.as_object_mut().expect("an object was written above");
    let scaling = match factors {
        Some(factors) => rope::scaling(factors, theta)?,
        None => None,
    };
    match scaling.map_or_else(|| linear_or_yarn(metadata), |scaling| Ok(Some(scaling)))? {
        Some(scaling) => drop(entries.insert("rope_scaling".to_owned(), scaling)),
        None => drop(entries.insert("rope_scaling".to_owned(), Value::Null)),
    }
    special_tokens(metadata, entries)?;
    Ok(config)
}

/// The scaling that the metadata names, as Hugging Face writes it.
fn linear_or_yarn(metadata: &Metadata) -> Result<Option<Value>, Flaw> {
    let key = "llama.rope.scaling.type";
    let factor = metadata.float("llama.rope.scaling.factor")?;
    let original = metadata.u32("llama.rope.scaling.original_context_length")?;
    match (metadata.text(key)?.unwrap_or("none"), factor) {
        ("none", _) => Ok(None),
        ("linear", Some(factor)) => Ok(Some(json!({ "rope_type": "linear", "factor": factor }))),
        ("yarn", Some(factor)) => Ok(Some(json!({
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
        }))),
        ("linear" | "yarn", None) => Err(Flaw::missing("key \"llama.rope.scaling.factor\"")),
        (other, _) => {
            let found = format!("{other:?}");
            Err(Flaw::unsupported(format_args!("key {key:?}"), found, "\"none\", \"linear\" or \"yarn\""))
        }
    }
}

fn special_tokens(metadata: &Metadata, config: &mut Map<String, Value>) -> Result<(), Flaw> {
    for (theirs, ours) in
        [("tokenizer.ggml.bos_token_id", "bos_token_id"), ("tokenizer.ggml.eos_token_id", "eos_token_id")]
    {
        if let Some(id) = metadata.u32(theirs)? {
            config.insert(ours.to_owned(), id.into());
        }
    }
    Ok(())
}

fn positive(metadata: &Metadata, key: &str) -> Result<u32, Flaw> {
    let what = || format!("key {key:?}");
    match metadata.u32(key)? {
        Some(0) => Err(Flaw::unexpected(what(), "an integer above 0", 0)),
        Some(number) => Ok(number),
        None => Err(Flaw::missing(what())),
    }
}

fn frequency_factors(entry: &TensorEntry, file: &[u8]) -> Result<Vec<f32>, Flaw> {
    if entry.storage != Storage::F32 || entry.shape.len() != 1 {
        let found = format!("{} {:?}", entry.storage, entry.shape);
        return Err(Flaw::unexpected(format_args!("tensor {:?}", entry.name), "one dimension of F32", found));
    }
    let bytes = &file[entry.range.clone()];
    Ok(bytes.chunks_exact(Dtype::F32.width()).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_those_of_hugging_face() {
        for (theirs, ours) in [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output_norm.weight", "model.norm.weight"),
            ("output.weight", "lm_head.weight"),
            ("blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"),
            ("blk.29.attn_q.bias", "model.layers.29.self_attn.q_proj.bias"),
            ("blk.7.ffn_down.weight", "model.layers.7.mlp.down_proj.weight"),
        ] {
            assert_eq!(hugging_face_name(theirs).as_deref(), Some(ours));
        }
    }

    #[test]
    fn names_of_nothing_known_have_no_counterpart() {
        for name in
            ["blk.00.attn_q.weight", "blk.x.attn_q.weight", "blk.0.attn_q", "blk.0.attn_rot.weight", "weight", ""]
        {
            assert_eq!(hugging_face_name(name), None, "{name}");
        }
    }
}
