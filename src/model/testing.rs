//! Tiny random llamas for tests: seconds to load, every branch of the configuration reachable, weights a function of a
//! seed. They implement the same trait as files do, so everything above the files is the real code.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::model::llama::Args;
use crate::model::source::Tensors;
use crate::model::weights::{Dtype, Flaw, LoadError, Representation, Tensor};

/// A checkpoint in memory.
pub(crate) struct Tiny {
    pub(crate) config: Value,
    pub(crate) tensors: BTreeMap<String, Tensor<'static>>,
}

/// What may be varied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) tied: bool,
    pub(crate) biased: bool,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    /// Quantised to so many bits in groups of 32; dense when `None`.
    pub(crate) bits: Option<u8>,
}

impl Shape {
    pub(crate) const PLAIN: Self = Self { tied: false, biased: false, heads: 4, kv_heads: 2, bits: None };
}

/// Tokens of a tiny vocabulary.
pub(crate) const VOCABULARY: usize = 96;
/// Tokens of a tiny context.
pub(crate) const CONTEXT: u32 = 640;

impl Tiny {
    /// A random model of this shape.
    pub(crate) fn new(shape: Shape, seed: u64) -> Self {
        let mut tiny = Self { config: Self::config(shape), tensors: BTreeMap::new() };
        let mut noise = Noise(seed);
        for expected in Args::read(&tiny).expect("a supported configuration").expected() {
            let values: usize = expected.shape.iter().product();
            let center = if expected.name.contains("norm") { 1.0 } else { 0.0 };
            let floats: Vec<f32> = (0..values).map(|_| center + 0.25 * noise.next()).collect();
            let tensor = match shape.bits {
                Some(bits) if expected.shape.len() == 2 => quantised(expected.shape, &floats, bits),
                Some(_) | None => dense(expected.shape, &floats),
            };
            tiny.tensors.insert(expected.name, tensor);
        }
        tiny
    }

    /// The configuration of a model of this shape.
    pub(crate) fn config(shape: Shape) -> Value {
        json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "vocab_size": VOCABULARY,
            "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
            "tie_word_embeddings": shape.tied, "attention_bias": shape.biased, "mlp_bias": shape.biased,
        })
    }

    /// The same numbers, stored as 32-bit floats.
    pub(crate) fn dequantised(&self) -> Self {
        let floats = |tensor: &Tensor<'_>| {
            let mut floats = vec![0.0; tensor.values()];
            tensor.to_f32(&mut floats);
            dense(tensor.shape().to_vec(), &floats)
        };
        let tensors = self.tensors.iter().map(|(name, tensor)| (name.clone(), floats(tensor))).collect();
        Self { config: self.config.clone(), tensors }
    }

    /// Makes the embedding of one token NaN: whatever sees it computes NaN.
    pub(crate) fn poison(&mut self, token: usize) {
        let name = "model.embed_tokens.weight";
        let tensor = self.tensors.get(name).expect("every model has an embedding");
        let (shape, mut floats) = (tensor.shape().to_vec(), vec![0.0; tensor.values()]);
        tensor.to_f32(&mut floats);
        let width = shape[1];
        floats[token * width..(token + 1) * width].fill(f32::NAN);
        self.tensors.insert(name.to_owned(), dense(shape, &floats));
    }
}

impl Tensors for Tiny {
    fn path(&self) -> &Path {
        Path::new("tiny")
    }

    fn config(&self) -> &Value {
        &self.config
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn shape_of(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(Tensor::shape)
    }

    fn representation_of(&self, name: &str) -> Option<Representation> {
        Some(match self.tensors.get(name)? {
            Tensor::Dense { dtype, .. } => Representation::Dense(*dtype),
            Tensor::Affine { bits, group, dtype, .. } => {
                Representation::Affine { bits: *bits, group: *group, dtype: *dtype }
            }
        })
    }

    fn tensor(&self, name: &str) -> Result<Tensor<'_>, LoadError> {
        self.tensors
            .get(name)
            .cloned()
            .ok_or_else(|| Flaw::missing(format_args!("tensor {name:?}")).within(self.path()))
    }
}

/// Numbers from −1 to 1.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

fn bytes(floats: &[f32]) -> Cow<'static, [u8]> {
    floats.iter().flat_map(|float| float.to_le_bytes()).collect::<Vec<u8>>().into()
}

fn dense(shape: Vec<usize>, floats: &[f32]) -> Tensor<'static> {
    Tensor::Dense { shape, dtype: Dtype::F32, bytes: bytes(floats) }
}

/// Groups of 32 between their smallest and largest number, 4 or 8 bits each.
fn quantised(shape: Vec<usize>, floats: &[f32], bits: u8) -> Tensor<'static> {
    let levels = f32::from((1_u16 << bits) - 1);
    let (mut packed, mut scales, mut biases) = (Vec::new(), Vec::new(), Vec::new());
    for group in floats.chunks_exact(32) {
        let low = group.iter().copied().fold(f32::INFINITY, f32::min);
        let high = group.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let scale = ((high - low) / levels).max(f32::MIN_POSITIVE);
        let integers: Vec<u8> = group.iter().map(|float| ((float - low) / scale).round() as u8).collect();
        match bits {
            4 => packed.extend(integers.chunks_exact(2).map(|pair| pair[0] | pair[1] << 4)),
            8 => packed.extend(integers),
            _ => unreachable!("tests quantise to 4 or 8 bits"),
        }
        scales.push(scale);
        biases.push(low);
    }
    let (scales, biases) = (bytes(&scales), bytes(&biases));
    Tensor::Affine { shape, bits, group: 32, packed: packed.into(), scales, biases, dtype: Dtype::F32 }
}
