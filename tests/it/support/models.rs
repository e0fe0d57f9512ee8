//! Models for tests: a tiny llama with random weights as a GGUF file and as a folder, the default model converted to a
//! folder, and damage done to any of them by seed. The writers share nothing with the readers that they test, so that
//! a common mistake cannot hide.

// Included by several test binaries, none of which uses all of it.
#![allow(dead_code)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
use sanctum_mlx::model::weights::{Checkpoint, Dtype, Representation, Tensor, TextSource, Vocabulary};
use serde_json::{Value, json};

/// The default model's file.
pub fn default_gguf() -> PathBuf {
    let folder = default_model();
    let files = std::fs::read_dir(&folder).expect("a folder that was made by scripts/setup");
    let mut paths = files.filter_map(|entry| Some(entry.ok()?.path()));
    paths.find(|path| path.extension().is_some_and(|end| end == "gguf")).expect("a .gguf file; run scripts/setup")
}

/// Where the default model is: `<home>/models/default`, as `scripts/setup` leaves it.
pub fn default_model() -> PathBuf {
    let home = std::env::var_os("SANCTUM_MLX_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".sanctum-mlx")));
    let folder = home.expect("a home folder").join("models/default");
    assert!(folder.is_dir(), "{} is not there; run scripts/setup", folder.display());
    folder
}

/// A small generator of random numbers (SplitMix64): the same seed gives the same model and the same damage.
pub struct Random(pub u64);

impl Random {
    /// Any 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound as u64) as usize
    }

    /// A number from −`scale` to `scale`.
    fn around_zero(&mut self, scale: f32) -> f32 {
        (self.below(2_000_001) as f32 / 1_000_000.0 - 1.0) * scale
    }
}

/// One metadata value of a GGUF file, of the types that writers use.
pub enum Meta {
    /// Type 4.
    U32(u32),
    /// Type 6.
    F32(f32),
    /// Type 7.
    Bool(bool),
    /// Type 8.
    Text(String),
    /// Type 9 of type 8.
    Texts(Vec<String>),
    /// Type 9 of type 5.
    I32s(Vec<i32>),
}

/// A GGUF file under construction.
#[derive(Default)]
pub struct GgufWriter {
    keys: Vec<(String, Meta)>,
    /// Name, dimensions with the fastest first, type code, data.
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

/// Tensors lie at multiples of this.
const ALIGNMENT: usize = 32;

impl GgufWriter {
    /// Adds a key.
    pub fn key(mut self, key: &str, value: Meta) -> Self {
        self.keys.push((key.to_owned(), value));
        self
    }

    /// Adds a tensor; `code` is GGUF's number of its type.
    pub fn tensor(&mut self, name: &str, dimensions: &[u64], code: u32, data: Vec<u8>) {
        self.tensors.push((name.to_owned(), dimensions.to_vec(), code, data));
    }

    /// The bytes before the data: magic, metadata, tensor table.
    fn head(&self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            push_text(&mut out, key);
            push_meta(&mut out, value);
        }
        let mut offset = 0;
        for (name, dimensions, code, data) in &self.tensors {
            push_text(&mut out, name);
            out.extend((dimensions.len() as u32).to_le_bytes());
            dimensions.iter().for_each(|extent| out.extend(extent.to_le_bytes()));
            out.extend(code.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += data.len().next_multiple_of(ALIGNMENT);
        }
        out
    }

    /// The file, and how many of its bytes come before the data.
    pub fn bytes(&self) -> (Vec<u8>, usize) {
        let mut out = self.head();
        let head = out.len();
        for (_, _, _, data) in &self.tensors {
            out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
            out.extend(data);
        }
        (out, head)
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn push_meta(out: &mut Vec<u8>, value: &Meta) {
    let mut push = |code: u32, bytes: &[u8]| {
        out.extend(code.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        Meta::U32(number) => push(4, &number.to_le_bytes()),
        Meta::F32(number) => push(6, &number.to_le_bytes()),
        Meta::Bool(truth) => push(7, &[u8::from(*truth)]),
        Meta::Text(text) => {
            push(8, &[]);
            push_text(out, text);
        }
        Meta::Texts(texts) => {
            push(9, &[&8_u32.to_le_bytes()[..], &(texts.len() as u64).to_le_bytes()].concat());
            texts.iter().for_each(|text| push_text(out, text));
        }
        Meta::I32s(numbers) => {
            push(9, &[&5_u32.to_le_bytes()[..], &(numbers.len() as u64).to_le_bytes()].concat());
            numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
        }
    }
}

/// The tiny model: every storage type is used somewhere, and its tokenizer is byte-level BPE like the default's.
pub mod tiny {
    /// Width of the hidden state.
    pub const HIDDEN: u64 = 64;
    /// Layers.
    pub const LAYERS: u32 = 2;
    /// Heads of 16 rows each.
    pub const HEADS: u32 = 4;
    /// Heads of keys and values.
    pub const HEADS_KV: u32 = 2;
    /// Width of the feed-forward part.
    pub const FEED_FORWARD: u64 = 96;
    /// Long enough for streams that outlive any test.
    pub const CONTEXT: u64 = 131_072;
    /// Three control tokens, 256 bytes, a few merges.
    pub const VOCABULARY: u64 = 264;
}

/// A tiny llama as a GGUF file: its bytes, and how many of them come before the data.
pub fn tiny_gguf(seed: u64) -> (Vec<u8>, usize) {
    let rows = |heads: u32| u64::from(heads) * tiny::HIDDEN / u64::from(tiny::HEADS);
    let mut random = Random(seed);
    let mut writer = tiny_metadata();
    let mut add = |name: String, dimensions: &[u64], code: u32| {
        let data = random_tensor(&mut random, dimensions.iter().product(), code);
        writer.tensor(&name, dimensions, code, data);
    };
    let (f32, f16, q4_0, q4_1, q8_0) = (0, 1, 2, 3, 8);
    add("token_embd.weight".to_owned(), &[tiny::HIDDEN, tiny::VOCABULARY], q8_0);
    for layer in 0..tiny::LAYERS {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        add(name("attn_norm"), &[tiny::HIDDEN], f32);
        add(name("attn_q"), &[tiny::HIDDEN, rows(tiny::HEADS)], q4_1);
        add(name("attn_k"), &[tiny::HIDDEN, rows(tiny::HEADS_KV)], q4_0);
        add(name("attn_v"), &[tiny::HIDDEN, rows(tiny::HEADS_KV)], q8_0);
        add(name("attn_output"), &[tiny::HIDDEN, tiny::HIDDEN], f16);
        add(name("ffn_norm"), &[tiny::HIDDEN], f32);
        add(name("ffn_gate"), &[tiny::HIDDEN, tiny::FEED_FORWARD], q4_1);
        add(name("ffn_up"), &[tiny::HIDDEN, tiny::FEED_FORWARD], q4_0);
        add(name("ffn_down"), &[tiny::FEED_FORWARD, tiny::HIDDEN], f32);
    }
    add("output_norm.weight".to_owned(), &[tiny::HIDDEN], f32);
    writer.bytes()
}

fn tiny_metadata() -> GgufWriter {
    let number = |number: u64| Meta::U32(number as u32);
    let text = |text: &str| Meta::Text(text.to_owned());
    let (tokens, merges) = tiny_vocabulary();
    let kinds = (0..tokens.len()).map(|id| if id < 3 { 3 } else { 1 }).collect();
    let template = "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n\
                    {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    GgufWriter::default()
        .key("general.architecture", text("llama"))
        .key("general.name", text("tiny"))
        .key("llama.block_count", number(tiny::LAYERS.into()))
        .key("llama.context_length", number(tiny::CONTEXT))
        .key("llama.embedding_length", number(tiny::HIDDEN))
        .key("llama.feed_forward_length", number(tiny::FEED_FORWARD))
        .key("llama.attention.head_count", number(tiny::HEADS.into()))
        .key("llama.attention.head_count_kv", number(tiny::HEADS_KV.into()))
        .key("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5))
        .key("llama.rope.freq_base", Meta::F32(10_000.0))
        .key("llama.vocab_size", number(tiny::VOCABULARY))
        .key("tokenizer.ggml.model", text("gpt2"))
        .key("tokenizer.ggml.pre", text("smollm"))
        .key("tokenizer.ggml.tokens", Meta::Texts(tokens))
        .key("tokenizer.ggml.token_type", Meta::I32s(kinds))
        .key("tokenizer.ggml.merges", Meta::Texts(merges))
        .key("tokenizer.ggml.add_bos_token", Meta::Bool(false))
        .key("tokenizer.ggml.bos_token_id", number(1))
        .key("tokenizer.ggml.eos_token_id", number(2))
        .key("tokenizer.ggml.unknown_token_id", number(0))
        .key("tokenizer.chat_template", text(template))
}

fn tiny_vocabulary() -> (Vec<String>, Vec<String>) {
    let mut tokens: Vec<String> = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned).into();
    tokens.extend((0..=u8::MAX).map(|byte| byte_level(byte).to_string()));
    let merges = ["Ġ t", "h e", "Ġt he", "i n", "e r"];
    tokens.extend(merges.map(|merge| merge.replace(' ', "")));
    assert_eq!(tokens.len() as u64, tiny::VOCABULARY);
    (tokens, merges.map(str::to_owned).into())
}

/// The character that stands for a byte in byte-level BPE: itself if it prints, otherwise one from 256 upwards.
fn byte_level(byte: u8) -> char {
    let prints = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if prints(byte) {
        return char::from(byte);
    }
    let place = (0..byte).filter(|before| !prints(*before)).count() as u32;
    char::from_u32(256 + place).expect("a character of the Latin Extended-A block")
}

/// Data that decodes to numbers of about the size of real weights.
fn random_tensor(random: &mut Random, values: u64, code: u32) -> Vec<u8> {
    let half = |number: f32| f16::from_f32(number).to_le_bytes();
    let mut out = Vec::new();
    match code {
        0 => (0..values).for_each(|_| out.extend(random.around_zero(0.2).to_le_bytes())),
        1 => (0..values).for_each(|_| out.extend(half(random.around_zero(0.2)))),
        2 | 3 | 8 => {
            let (head, integers) = match code {
                2 => (vec![0.02], 16),
                3 => (vec![0.02, -0.15], 16),
                _ => (vec![0.001], 32),
            };
            for _ in 0..values / 32 {
                head.iter().for_each(|number| out.extend(half(number * (1.0 + random.around_zero(0.2)))));
                out.extend((0..integers).map(|_| random.bits() as u8));
            }
        }
        _ => unreachable!("only the types above are written"),
    }
    out
}

/// How a folder stores its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Dense, every number as it is.
    F32,
    /// Dense, rounded to half precision.
    F16,
    /// What is quantised stays so, in MLX's layout, number for number; the rest in single precision.
    Affine,
}

/// Converts a GGUF model to a folder as Hugging Face and MLX have them: weights, config, tokenizer, template.
pub fn convert(gguf: &Path, folder: &Path, layout: Layout) {
    let source = Checkpoint::open(gguf).expect("a sound model");
    let TextSource::Gguf(vocabulary) = source.text_source() else { panic!("a GGUF file carries its vocabulary") };
    std::fs::create_dir_all(folder).expect("a folder");
    let mut config = source.config().clone();
    if layout == Layout::Affine {
        config["quantization"] = quantization(&source);
    }
    let eos = source.stop_tokens().first().copied();
    let files = [
        ("config.json", config),
        ("generation_config.json", json!({ "eos_token_id": eos, "bos_token_id": vocabulary.bos })),
        ("tokenizer.json", tokenizer_json(vocabulary)),
        (
            "tokenizer_config.json",
            json!({
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": eos.map(|id| &vocabulary.tokens[id as usize]),
                "chat_template": vocabulary.chat_template,
                "clean_up_tokenization_spaces": false,
            }),
        ),
    ];
    for (name, value) in files {
        std::fs::write(folder.join(name), value.to_string()).expect("written");
    }
    write_weights(&source, &folder.join("model.safetensors"), layout);
}

/// MLX's `quantization`, with an entry for each layer that differs from the 4-bit rule.
fn quantization(source: &Checkpoint) -> Value {
    let mut rule = json!({ "bits": 4, "group_size": 32 });
    for name in source.names() {
        if let Some(Representation::Affine { bits: 8, group, .. }) = source.representation_of(name) {
            let module = name.trim_end_matches(".weight");
            rule[module] = json!({ "bits": 8, "group_size": group });
        }
    }
    rule
}

/// The Hugging Face tokenizer of a vocabulary whose `pre` is `smollm`: digits one by one, then byte-level BPE.
fn tokenizer_json(vocabulary: &Vocabulary) -> Value {
    assert_eq!(vocabulary.pre.as_deref(), Some("smollm"), "the rules written below are those of smollm");
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let tokens = || vocabulary.tokens.iter().enumerate();
    let is_control = |id: &usize| vocabulary.token_types[*id] == 3;
    let added: Vec<Value> = tokens()
        .filter(|(id, _)| is_control(id))
        .map(|(id, token)| {
            json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true })
        })
        .collect();
    let vocab: serde_json::Map<String, Value> = tokens().map(|(id, token)| (token.clone(), id.into())).collect();
    let merges: Vec<Vec<&str>> = vocabulary.merges.iter().map(|merge| merge.split(' ').collect()).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": added,
        "pre_tokenizer": { "type": "Sequence",
            "pretokenizers": [{ "type": "Digits", "individual_digits": true }, byte_level] },
        "decoder": byte_level,
        "model": { "type": "BPE", "dropout": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "unk_token": vocabulary.unknown.map(|id| &vocabulary.tokens[id as usize]),
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": merges },
    })
}

/// Writes the weights one tensor at a time, so that a large model does not have to fit twice.
fn write_weights(source: &Checkpoint, path: &Path, layout: Layout) {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": "mlx" }));
    let mut end = 0;
    for name in source.names() {
        for (name, kind, shape) in parts(source, name, layout) {
            let bytes = shape.iter().product::<usize>() * if kind == "F16" { 2 } else { 4 };
            let entry = json!({ "dtype": kind, "shape": shape, "data_offsets": [end, end + bytes] });
            end += bytes;
            header.insert(name, entry);
        }
    }
    let header = Value::Object(header).to_string();
    let mut file = BufWriter::new(File::create(path).expect("created"));
    let mut write = |bytes: &[u8]| file.write_all(bytes).expect("written");
    write(&(header.len() as u64).to_le_bytes());
    write(header.as_bytes());
    for name in source.names() {
        match (source.tensor(name).expect("named above"), layout) {
            (Tensor::Affine { packed, scales, biases, .. }, Layout::Affine) => {
                [packed, scales, biases].iter().for_each(|bytes| write(bytes));
            }
            (tensor, _) => write(&dense(&tensor, layout)),
        }
    }
    file.flush().expect("written");
}

/// Name, dtype and shape of what a tensor becomes in the file, in the order of the data.
fn parts(source: &Checkpoint, name: &str, layout: Layout) -> Vec<(String, &'static str, Vec<usize>)> {
    let shape = source.shape_of(name).expect("named by the checkpoint");
    match (source.representation_of(name).expect("named by the checkpoint"), layout) {
        (Representation::Affine { bits, group, dtype }, Layout::Affine) => {
            assert_eq!(dtype, Dtype::F16, "scales of ordinary size stay in half precision");
            let module = name.trim_end_matches(".weight");
            let (columns, rows) = shape.split_last().expect("a matrix");
            let with_columns = |columns: usize| [rows, &[columns]].concat();
            let groups = with_columns(columns / group);
            vec![
                (name.to_owned(), "U32", with_columns(columns * usize::from(bits) / 32)),
                (format!("{module}.scales"), "F16", groups.clone()),
                (format!("{module}.biases"), "F16", groups),
            ]
        }
        (_, Layout::F16) => vec![(name.to_owned(), "F16", shape.to_vec())],
        (_, Layout::F32 | Layout::Affine) => vec![(name.to_owned(), "F32", shape.to_vec())],
    }
}

fn dense(tensor: &Tensor<'_>, layout: Layout) -> Vec<u8> {
    let mut numbers = vec![0.0; tensor.values()];
    tensor.to_f32(&mut numbers);
    if layout != Layout::F16 {
        let mut bytes = vec![0; 4 * numbers.len()];
        bytes.as_chunks_mut().0.iter_mut().zip(&numbers).for_each(|(bytes, number)| *bytes = number.to_le_bytes());
        return bytes;
    }
    let mut halves = vec![f16::ZERO; numbers.len()];
    halves.convert_from_f32_slice(&numbers);
    let mut bytes = vec![0; 2 * halves.len()];
    bytes.as_chunks_mut().0.iter_mut().zip(&halves).for_each(|(bytes, half)| *bytes = half.to_le_bytes());
    bytes
}

/// What was done to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// Cut to this many bytes.
    Truncated(usize),
    /// These bits were inverted: the byte, and the bit in it.
    Flipped(Vec<(usize, u8)>),
}

impl Damage {
    /// Cuts the file anywhere before its end.
    pub fn truncation(random: &mut Random, len: usize) -> Self {
        Self::Truncated(random.below(len))
    }

    /// Inverts one to three bits of the first `head` bytes.
    pub fn flips(random: &mut Random, head: usize) -> Self {
        let count = 1 + random.below(3);
        Self::Flipped((0..count).map(|_| (random.below(head), random.below(8) as u8)).collect())
    }

    /// The bytes after it was done.
    pub fn of(&self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Truncated(len) => bytes[..*len].to_vec(),
            Self::Flipped(bits) => {
                let mut bytes = bytes.to_vec();
                bits.iter().for_each(|(byte, bit)| bytes[*byte] ^= 1 << bit);
                bytes
            }
        }
    }
}
