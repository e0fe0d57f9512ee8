//! Llama: pre-norm blocks of grouped-query attention with rotary positions and a gated feed-forward, as in SmolLM2,
//! Llama 2 and 3, and Mistral, whose layers may see a sliding window only.

use serde::Deserialize;
use serde_json::Value;

use crate::cache::KvCache;
use crate::kernels::{self, Angles, Coding, Heads, KeyValues, Rope, RopeScaling, attention};
use crate::mlx::{Array, Result};
use crate::model::loader::Loader;
use crate::model::registry::Expected;
use crate::model::source::Tensors;
use crate::model::weights::Flaw;
use crate::model::{LoadFailure, Model, Sequence};
use crate::nn::{Embedding, Linear, RmsNorm, SwiGlu};

/// Largest size that a configuration may name: beyond every model, and far from overflow.
const SIZE_MAX: usize = 1 << 20;
/// Most layers that a configuration may name.
const LAYERS_MAX: usize = 1 << 10;
/// The largest tensor, and the one whose type activations have.
pub(crate) const EMBEDDING: &str = "model.embed_tokens";
/// The head of a model that does not tie it to its embedding.
const HEAD: &str = "lm_head";
/// Layers that see everything, and layers that see `sliding_window` positions, in `layer_types`.
const LAYER_TYPES: [&str; 2] = ["full_attention", "sliding_attention"];

/// The configuration, with every unsupported option already refused.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Args {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    /// Where newer configurations keep both of the above.
    rope_parameters: Option<Value>,
    #[serde(default)]
    rope_traditional: bool,
    /// Absent: tied when there is no head.
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    hidden_act: Option<String>,
    sliding_window: Option<usize>,
    /// One of [`LAYER_TYPES`] for each layer. Absent: those of a `mistral` slide if there is a window.
    layer_types: Option<Vec<String>>,
    /// Resolved from the fields above.
    #[serde(skip, default = "unscaled")]
    scaling: RopeScaling,
}

/// The model.
#[derive(Debug)]
pub(crate) struct Llama {
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    /// `None`: the embedding backwards.
    head: Option<Linear>,
    rope: Rope,
}

#[derive(Debug)]
struct Block {
    attention: Attention,
    mlp: SwiGlu,
}

#[derive(Debug)]
struct Attention {
    norm: RmsNorm,
    /// Outputs: queries, keys, values.
    qkv: Linear,
    output: Linear,
    heads: Heads,
    /// Positions that a token sees, itself included; `None`: all.
    window: Option<usize>,
}

impl Attention {
    /// `x + output(attention(qkv(norm(x))))`.
    fn forward(&self, x: &Array, rope: (&Rope, &Angles), spans: &mut [kernels::Sequence<'_>]) -> Result<Array> {
        let qkv = self.qkv.normed(&self.norm, x)?; // [1, T, (H + 2K)·D]
        let mixed = attention(&qkv, self.heads, rope, spans)?; // [1, T, H·D]
        self.output.add_to(x, &mixed)
    }
}

impl Model for Llama {
    fn caches(&self, coding: Coding, tokens: usize) -> Vec<KvCache> {
        self.blocks.iter().map(|block| KvCache::new(block.attention.window, coding, tokens)).collect()
    }

    fn hidden(&self, tokens: &Array, sequences: &mut [Sequence<'_>]) -> Result<Array> {
        assert!(sequences.iter().all(|sequence| sequence.caches.len() == self.blocks.len()), "one cache a layer");
        let count: usize = sequences.iter().map(|sequence| sequence.count).sum();
        assert_eq!(count, tokens.size(), "every token belongs to a sequence");
        let spans: Vec<(usize, usize)> =
            sequences.iter().map(|sequence| (sequence.caches[0].tokens(), sequence.count)).collect();
        let angles = self.rope.angles(&spans);
        let mut x = self.embedding.forward(tokens)?; // [1, T, width]
        for (layer, block) in self.blocks.iter().enumerate() {
            let spans = sequences.iter_mut().map(|Sequence { caches, count }| {
                let cache: &mut dyn KeyValues = &mut caches[layer];
                kernels::Sequence { cache, count: *count }
            });
            x = block.attention.forward(&x, (&self.rope, &angles), &mut spans.collect::<Vec<_>>())?;
            x = block.mlp.forward(&x)?;
        }
        Ok(x)
    }

    fn head(&self, hidden: &Array) -> Result<Array> {
        match &self.head {
            Some(head) => head.normed(&self.norm, hidden),
            None => self.embedding.as_head(&self.norm, hidden),
        }
    }
}

impl Llama {
    /// Loads what [`Args::expected`] names.
    pub(crate) fn load(args: &Args, loader: &Loader<'_>) -> std::result::Result<Self, LoadFailure> {
        let embedding = loader.embedding(EMBEDDING)?;
        let head = (!args.tied()).then(|| loader.linear(&[HEAD], false)).transpose()?;
        let blocks = (0..args.num_hidden_layers).map(|layer| Block::load(args, loader, layer));
        let blocks = blocks.collect::<std::result::Result<Vec<_>, _>>()?;
        let norm = loader.norm("model.norm", args.rms_norm_eps)?;
        let rope = Rope::new(args.head_dim(), args.theta(), args.scaling, args.rope_traditional);
        Ok(Self { embedding, blocks, norm, head, rope })
    }
}

impl Block {
    fn load(args: &Args, loader: &Loader<'_>, layer: usize) -> std::result::Result<Self, LoadFailure> {
        let linear = |names: &[&str], biased: bool| {
            let names: Vec<String> = names.iter().map(|name| format!("model.layers.{layer}.{name}")).collect();
            loader.linear(&names.iter().map(String::as_str).collect::<Vec<_>>(), biased)
        };
        let norm = |name: &str| loader.norm(&format!("model.layers.{layer}.{name}"), args.rms_norm_eps);
        let heads = Heads { queries: args.num_attention_heads, keys: args.kv_heads(), width: args.head_dim() };
        Ok(Self {
            attention: Attention {
                norm: norm("input_layernorm")?,
                qkv: linear(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], args.attention_bias)?,
                output: linear(&["self_attn.o_proj"], args.attention_bias)?,
                heads,
                window: args.window(layer),
            },
            mlp: SwiGlu::new(
                norm("post_attention_layernorm")?,
                linear(&["mlp.gate_proj", "mlp.up_proj"], args.mlp_bias)?,
                linear(&["mlp.down_proj"], args.mlp_bias)?,
            ),
        })
    }
}

impl Args {
    /// Reads the configuration and refuses what this file does not do.
    pub(crate) fn read(source: &dyn Tensors) -> std::result::Result<Self, Flaw> {
        let config = source.config();
        let mut args: Self = serde_json::from_value(config.clone())
            .map_err(|error| Flaw::unexpected("config", "the options of a llama model", error))?;
        args.tie_word_embeddings.get_or_insert(source.shape_of(&format!("{HEAD}.weight")).is_none());
        if let Some(Value::Object(parameters)) = args.rope_parameters.take() {
            args.rope_theta = parameters.get("rope_theta").and_then(Value::as_f64).or(args.rope_theta);
            args.rope_scaling.get_or_insert(Value::Object(parameters));
        }
        args.scaling = args.rope_scaling.as_ref().map_or(Ok(RopeScaling::None), scaling)?;
        args.check()?;
        Ok(args)
    }

    fn check(&self) -> std::result::Result<(), Flaw> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.kv_heads()),
            ("vocab_size", self.vocab_size),
            ("head_dim", self.head_dim()),
        ];
        for (name, size) in sizes {
            if !(1..=SIZE_MAX).contains(&size) {
                return Err(Flaw::unexpected(name, format!("1 to {SIZE_MAX}"), size));
            }
        }
        if self.num_hidden_layers > LAYERS_MAX {
            return Err(Flaw::unexpected("num_hidden_layers", format!("1 to {LAYERS_MAX}"), self.num_hidden_layers));
        }
        if !self.num_attention_heads.is_multiple_of(self.kv_heads()) {
            let expected = format!("a divisor of num_attention_heads {}", self.num_attention_heads);
            return Err(Flaw::unexpected("num_key_value_heads", expected, self.kv_heads()));
        }
        if !self.head_dim().is_multiple_of(2) {
            return Err(Flaw::unexpected("head_dim", "an even number", self.head_dim()));
        }
        if self.max_position_embeddings == 0 {
            return Err(Flaw::unexpected("max_position_embeddings", "at least 1", 0));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0) {
            return Err(Flaw::unexpected("rms_norm_eps", "a small positive number", self.rms_norm_eps));
        }
        if !(self.theta().is_finite() && self.theta() > 0.0) {
            return Err(Flaw::unexpected("rope_theta", "a positive number", self.theta()));
        }
        match self.hidden_act.as_deref() {
            Some("silu") | None => {}
            Some(other) => return Err(Flaw::unsupported("hidden_act", other, "silu")),
        }
        self.check_windows()
    }

    fn check_windows(&self) -> std::result::Result<(), Flaw> {
        if self.sliding_window == Some(0) {
            return Err(Flaw::unexpected("sliding_window", "at least 1", 0));
        }
        let Some(types) = &self.layer_types else {
            // Whoever made such a model meant it, or those who run it ignore it: it cannot be told apart.
            return match self.sliding_window.filter(|window| *window < self.max_position_embeddings) {
                Some(_) if self.model_type != "mistral" => Err(Flaw::missing("layer_types beside sliding_window")),
                Some(_) | None => Ok(()),
            };
        };
        if types.len() != self.num_hidden_layers {
            return Err(Flaw::unexpected("layer_types", format!("{} layers", self.num_hidden_layers), types.len()));
        }
        match types.iter().find(|kind| !LAYER_TYPES.contains(&kind.as_str())) {
            Some(other) => Err(Flaw::unsupported("layer_types", other, LAYER_TYPES.join(" or "))),
            None if self.sliding_window.is_none() && types.iter().any(|kind| kind == LAYER_TYPES[1]) => {
                Err(Flaw::missing("sliding_window"))
            }
            None => Ok(()),
        }
    }

    /// Positions that a token sees in this layer; `None`: all.
    fn window(&self, layer: usize) -> Option<usize> {
        let slides = self.layer_types.as_ref().is_none_or(|types| types[layer] == LAYER_TYPES[1]);
        self.sliding_window.filter(|window| slides && *window < self.max_position_embeddings)
    }

    fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or_else(|| self.hidden_size / self.num_attention_heads.max(1))
    }

    fn theta(&self) -> f64 {
        self.rope_theta.unwrap_or(10_000.0)
    }

    fn tied(&self) -> bool {
        self.tie_word_embeddings.unwrap_or(false)
    }

    /// Elements of a head of keys.
    pub(crate) fn head_width(&self) -> usize {
        self.head_dim()
    }

    /// Most tokens that the model was made for.
    pub(crate) fn context_tokens(&self) -> u32 {
        u32::try_from(self.max_position_embeddings).unwrap_or(u32::MAX)
    }

    /// Rows of the head.
    pub(crate) fn logit_width(&self) -> u32 {
        u32::try_from(self.vocab_size).expect("sizes are bounded")
    }

    /// Every tensor that is read.
    pub(crate) fn expected(&self) -> Vec<Expected> {
        let (width, inner) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim(), self.kv_heads() * self.head_dim());
        let mut expected = vec![
            Expected { name: format!("{EMBEDDING}.weight"), shape: vec![self.vocab_size, width] },
            Expected { name: "model.norm.weight".into(), shape: vec![width] },
        ];
        if !self.tied() {
            expected.push(Expected { name: format!("{HEAD}.weight"), shape: vec![self.vocab_size, width] });
        }
        for layer in 0..self.num_hidden_layers {
            let mut linear = |name: &str, outputs: usize, inputs: usize, biased: bool| {
                let name = format!("model.layers.{layer}.{name}");
                if biased {
                    expected.push(Expected { name: format!("{name}.bias"), shape: vec![outputs] });
                }
                expected.push(Expected { name: format!("{name}.weight"), shape: vec![outputs, inputs] });
            };
            linear("self_attn.q_proj", q, width, self.attention_bias);
            linear("self_attn.k_proj", kv, width, self.attention_bias);
            linear("self_attn.v_proj", kv, width, self.attention_bias);
            linear("self_attn.o_proj", width, q, self.attention_bias);
            linear("mlp.gate_proj", inner, width, self.mlp_bias);
            linear("mlp.up_proj", inner, width, self.mlp_bias);
            linear("mlp.down_proj", width, inner, self.mlp_bias);
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                expected.push(Expected { name: format!("model.layers.{layer}.{norm}.weight"), shape: vec![width] });
            }
        }
        expected
    }

    /// Endings of tensors that checkpoints carry and nobody reads.
    pub(crate) fn unused(&self) -> Vec<&'static str> {
        let mut unused = vec!["rotary_emb.inv_freq"];
        if self.tied() {
            unused.push("lm_head.weight");
        }
        unused
    }
}

fn unscaled() -> RopeScaling {
    RopeScaling::None
}

/// The scaling that `rope_scaling` names.
fn scaling(options: &Value) -> std::result::Result<RopeScaling, Flaw> {
    if options.is_null() {
        return Ok(RopeScaling::None);
    }
    let number = |name: &str| match options.get(name).and_then(Value::as_f64) {
        Some(number) if number.is_finite() && number > 0.0 => Ok(number),
        Some(number) => Err(Flaw::unexpected(format!("rope_scaling.{name}"), "a positive number", number)),
        None => Err(Flaw::missing(format!("rope_scaling.{name}"))),
    };
    match options.get("rope_type").or_else(|| options.get("type")).and_then(Value::as_str) {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: number("factor")? }),
        Some("llama3") => Ok(RopeScaling::Llama3 {
            factor: number("factor")?,
            low_factor: number("low_freq_factor")?,
            high_factor: number("high_freq_factor")?,
            context: number("original_max_position_embeddings")?,
        }),
        Some(other) => Err(Flaw::unsupported("rope_scaling.rope_type", other, "default, linear or llama3")),
    }
}
