//! Whole models: the tiny one in every layout, the default one, and both damaged by seed (E9).

#[path = "../../../tests/it/support/models.rs"]
mod models;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::Path;

use proptest::prelude::*;
use serde_json::json;

use crate::model::weights::{Checkpoint, Dtype, Representation, TextSource, gguf, safetensors};

use models::{Damage, Layout, Random};

const SEED: u64 = 20_260_419;

/// Every number of every tensor.
fn numbers(checkpoint: &Checkpoint) -> BTreeMap<String, Vec<f32>> {
    let all = |name: &str| {
        let tensor = checkpoint.tensor(name).expect("named by the checkpoint");
        assert_eq!(Some(tensor.shape()), checkpoint.shape_of(name));
        let mut out = vec![0.0; tensor.values()];
        tensor.to_f32(&mut out);
        (name.to_owned(), out)
    };
    checkpoint.names().map(all).collect()
}

fn tiny_file(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("tiny.gguf");
    fs::write(&path, models::tiny_gguf(SEED).0).expect("written");
    path
}

fn open_error(path: &Path) -> String {
    Checkpoint::open(path).expect_err("refused").to_string()
}

#[test]
fn a_gguf_file_tells_its_configuration_as_hugging_face_does() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    tiny_file(folder.path());
    // The folder stands for the one .gguf file in it.
    let checkpoint = Checkpoint::open(folder.path()).expect("sound");
    let expected = json!({
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "max_position_embeddings": 131072,
        "vocab_size": 264, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": true, "attention_bias": false, "mlp_bias": false, "rope_scaling": null,
        "bos_token_id": 1, "eos_token_id": 2,
    });
    assert_eq!(*checkpoint.config(), expected);
    assert_eq!(checkpoint.names().count(), 2 + 2 * 9);
    assert_eq!(checkpoint.shape_of("model.embed_tokens.weight"), Some(&[264, 64][..]));
    assert_eq!(checkpoint.shape_of("model.layers.1.mlp.down_proj.weight"), Some(&[64, 96][..]));
    assert_eq!(checkpoint.stop_tokens(), [2]);
    assert_eq!(checkpoint.context_tokens(), 131_072);
    let q = checkpoint.representation_of("model.layers.0.self_attn.q_proj.weight");
    assert_eq!(q, Some(Representation::Affine { bits: 4, group: 32, dtype: Dtype::F16 }));
    assert!(open_tensor_error(&checkpoint).contains("tensor \"lm_head.weight\": expected, not found"));
}

fn open_tensor_error(checkpoint: &Checkpoint) -> String {
    checkpoint.tensor("lm_head.weight").expect_err("tied").to_string()
}

#[test]
fn a_converted_folder_has_the_numbers_of_its_gguf_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let gguf = tiny_file(folder.path());
    let original = numbers(&Checkpoint::open(&gguf).expect("sound"));
    for (layout, label) in [(Layout::F32, "f32"), (Layout::Affine, "f32"), (Layout::F16, "f16")] {
        let converted = folder.path().join(format!("{layout:?}"));
        models::convert(&gguf, &converted, layout);
        let checkpoint = Checkpoint::open(&converted).expect("sound");
        assert_eq!(checkpoint.quantisation(), label, "{layout:?}");
        assert_eq!(checkpoint.stop_tokens(), [2]);
        let found = numbers(&checkpoint);
        if layout == Layout::F16 {
            assert!(found.keys().eq(original.keys()));
            for (name, numbers) in &found {
                let near = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() / 1024.0 + 1e-7;
                assert!(numbers.iter().zip(&original[name]).all(near), "{name}");
            }
        } else {
            assert_eq!(found, original, "{layout:?}");
        }
        let TextSource::Json { tokenizer_json, template, .. } = checkpoint.text_source() else {
            panic!("a folder has its tokenizer in JSON");
        };
        assert!(tokenizer_json.is_file() && template.is_some());
    }
}

#[test]
fn a_model_in_shards_has_the_numbers_of_one_in_a_single_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let gguf = tiny_file(folder.path());
    let whole = folder.path().join("whole");
    models::convert(&gguf, &whole, Layout::Affine);
    let original = numbers(&Checkpoint::open(&whole).expect("sound"));

    // Two shards: the weights' triples are split between them, which the format allows.
    let bytes = fs::read(whole.join("model.safetensors")).expect("read");
    let entries = safetensors::parse(&bytes).expect("sound");
    let mut map = serde_json::Map::new();
    for shard in 0..2 {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, entry) in entries.iter().enumerate().filter(|(i, _)| i % 2 == shard).map(|(_, entry)| entry) {
            let start = data.len();
            data.extend(&bytes[entry.range.clone()]);
            let offsets = [start, data.len()];
            let kind = format!("{:?}", entry.kind);
            header.insert(name.clone(), json!({ "dtype": kind, "shape": entry.shape, "data_offsets": offsets }));
            map.insert(name.clone(), format!("model-{shard}.safetensors").into());
        }
        let header = serde_json::Value::Object(header).to_string();
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
        fs::write(whole.join(format!("model-{shard}.safetensors")), file).expect("written");
    }
    fs::remove_file(whole.join("model.safetensors")).expect("removed");
    let index = whole.join("model.safetensors.index.json");
    fs::write(&index, json!({ "weight_map": map }).to_string()).expect("written");
    assert_eq!(numbers(&Checkpoint::open(&whole).expect("sound")), original);

    map.insert("model.extra.weight".to_owned(), "model-1.safetensors".into());
    fs::write(&index, json!({ "weight_map": map }).to_string()).expect("written");
    let refusal = open_error(&whole);
    assert!(refusal.ends_with("model-1.safetensors: tensor \"model.extra.weight\": expected, not found"), "{refusal}");
}

#[test]
fn what_a_folder_lacks_or_has_wrong_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let gguf = tiny_file(folder.path());
    let model = folder.path().join("model");
    for (file, content, expected) in [
        ("config.json", None, "model/config.json: "),
        ("config.json", Some("[]"), "config.json: content: expected a JSON object"),
        ("config.json", Some("{}"), "config.json: key \"max_position_embeddings\": expected, not found"),
        (
            "config.json",
            Some(r#"{"max_position_embeddings":512}"#),
            "tensor \"model.embed_tokens.weight\": expected floats, since config.json has no quantization",
        ),
        (
            "config.json",
            Some(r#"{"max_position_embeddings":512,"quantization":{"bits":8,"group_size":64}}"#),
            "model.safetensors: tensor \"model.embed_tokens.scales\": expected F16 [264, 1], found F16 [264, 2]",
        ),
        ("tokenizer.json", None, "tokenizer.json: "),
        ("tokenizer_config.json", Some("{"), "tokenizer_config.json: content: expected JSON"),
        ("generation_config.json", Some(r#"{"eos_token_id":"x"}"#), "generation_config.json: key \"eos_token_id\""),
        ("model.safetensors", None, "model: model.safetensors or model.safetensors.index.json: expected, not found"),
        ("model.safetensors", Some(""), "model.safetensors: header length: expected 8 more bytes, found 0"),
    ] {
        models::convert(&gguf, &model, Layout::Affine);
        match content {
            Some(content) => fs::write(model.join(file), content).expect("written"),
            None => fs::remove_file(model.join(file)).expect("removed"),
        }
        let refusal = open_error(&model);
        assert!(refusal.contains(expected), "{file} {content:?}\n  expected {expected}\n  found {refusal}");
    }
    assert!(open_error(&folder.path().join("absent")).contains("absent: "));
    fs::write(folder.path().join("second.gguf"), "").expect("written");
    fs::remove_dir_all(&model).expect("removed");
    assert!(open_error(folder.path()).contains("expected exactly one .gguf file"));
}

#[test]
fn the_default_model_is_what_it_is_known_to_be() {
    let checkpoint = Checkpoint::open(&models::default_model()).expect("sound");
    assert_eq!(checkpoint.quantisation(), "Q4_1");
    assert_eq!(checkpoint.names().count(), 272);
    assert_eq!(checkpoint.context_tokens(), 8192);
    assert_eq!(checkpoint.stop_tokens(), [2]);
    assert_eq!(checkpoint.config()["rope_theta"], 100_000.0);
    let TextSource::Gguf(vocabulary) = checkpoint.text_source() else { panic!("it is a GGUF file") };
    assert_eq!((vocabulary.tokens.len(), vocabulary.merges.len()), (49_152, 48_900));
    assert_eq!(vocabulary.tokens[2], "<|im_end|>");
}

/// How a damaged file was taken.
#[derive(Default)]
struct Tally {
    refused: usize,
    harmless: usize,
}

impl Tally {
    /// Opens the damaged file and reads all that it offers; a refusal has to name the file.
    fn judge(&mut self, path: &Path, file: &str, seed: u64, damage: &Damage) {
        match Checkpoint::open(path) {
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains(file) && message.contains(": "), "seed {seed}, {damage:?}: {message}");
                assert!(message.len() < 4096, "seed {seed}: a message of {} bytes", message.len());
                self.refused += 1;
            }
            Ok(checkpoint) => {
                assert!(!matches!(damage, Damage::Truncated(_)), "seed {seed}: {damage:?} was not noticed");
                numbers(&checkpoint);
                self.harmless += 1;
            }
        }
    }

    fn print(&self, corpus: &str) {
        let all = self.refused + self.harmless;
        println!("E9 {corpus}: {all} damaged files, {} refused, {} read without harm", self.refused, self.harmless);
    }
}

#[test]
fn e9_damaged_gguf_files_are_refused_by_name_or_read_within_bounds() {
    const FILES: u64 = 400;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("damaged.gguf");
    let (bytes, head) = models::tiny_gguf(SEED);
    let mut tally = Tally::default();
    for seed in 0..FILES {
        let mut random = Random(seed);
        let damage = match seed % 4 {
            0 => Damage::truncation(&mut random, bytes.len()),
            _ => Damage::flips(&mut random, head),
        };
        fs::write(&path, damage.of(&bytes)).expect("written");
        tally.judge(&path, "damaged.gguf: ", seed, &damage);
    }
    tally.print("tiny GGUF");
    assert!(tally.refused as u64 > FILES / 2, "most of the head is structure");
}

#[test]
fn e9_damaged_safetensors_files_are_refused_by_name_or_read_within_bounds() {
    const FILES: u64 = 400;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("model");
    models::convert(&tiny_file(folder.path()), &model, Layout::Affine);
    let path = model.join("model.safetensors");
    let bytes = fs::read(&path).expect("read");
    let head = bytes[..8].iter().rev().fold(8, |length, byte| length << 8 | usize::from(*byte)) % (1 << 32);
    let mut tally = Tally::default();
    for seed in 0..FILES {
        let mut random = Random(seed);
        let damage = match seed % 4 {
            0 => Damage::truncation(&mut random, bytes.len()),
            // The length in front is what all else depends on.
            1 => Damage::flips(&mut random, 8),
            _ => Damage::flips(&mut random, head),
        };
        fs::write(&path, damage.of(&bytes)).expect("written");
        tally.judge(&model, "model.safetensors: ", seed, &damage);
    }
    tally.print("tiny safetensors");
    assert!(tally.refused as u64 > FILES * 3 / 4, "nearly all of the head is structure");
}

#[test]
fn e9_a_damaged_head_of_the_default_model_is_refused_by_name_or_read_within_bounds() {
    const FILES: u64 = 60;
    let source = models::default_model();
    let name = fs::read_dir(&source).expect("a folder").find_map(|entry| {
        let path = entry.expect("an entry").path();
        path.extension().is_some_and(|extension| extension == "gguf").then_some(path)
    });
    let bytes = fs::read(name.expect("one .gguf file")).expect("read");
    let gguf = gguf::parse(&bytes).expect("sound");
    let head = gguf.tensors.iter().map(|entry| entry.range.start).min().expect("it has tensors");

    // The data is left out: a file with a hole has the right length and costs nothing.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("damaged.gguf");
    let mut file = File::create(&path).expect("created");
    let mut tally = Tally::default();
    for seed in 0..FILES {
        let mut random = Random(seed);
        let (damage, head, len) = match seed % 3 {
            0 => {
                let cut = random.below(bytes.len());
                (Damage::Truncated(cut), bytes[..head.min(cut)].to_vec(), cut)
            }
            _ => {
                let damage = Damage::flips(&mut random, head);
                let head = damage.of(&bytes[..head]);
                (damage, head, bytes.len())
            }
        };
        file.rewind().expect("rewound");
        file.write_all(&head).expect("written");
        file.set_len(len as u64).expect("resized");
        match Checkpoint::open(&path) {
            Err(error) => {
                assert!(error.to_string().contains("damaged.gguf: "), "seed {seed}: {error}");
                tally.refused += 1;
            }
            Ok(checkpoint) => {
                assert!(!matches!(damage, Damage::Truncated(_)), "seed {seed}: {damage:?} was not noticed");
                // The smallest tensors stand for all: reading 135 million numbers each time would prove no more.
                let small = |name: &&str| checkpoint.shape_of(name).is_some_and(|shape| shape.len() == 1);
                for name in checkpoint.names().filter(small) {
                    let tensor = checkpoint.tensor(name).expect("named above");
                    tensor.to_f32(&mut vec![0.0; tensor.values()]);
                }
                tally.harmless += 1;
            }
        }
    }
    tally.print("head of the default model");
}

#[test]
fn e9_absurd_counts_are_refused_before_anything_is_allocated_for_them() {
    let (bytes, _) = models::tiny_gguf(SEED);
    let at = |place: usize, number: u64| {
        let mut bytes = bytes.clone();
        bytes[place..place + 8].copy_from_slice(&number.to_le_bytes());
        gguf::parse(&bytes).expect_err("absurd").to_string()
    };
    for number in [u64::MAX, 1 << 62, 1 << 40, 1 << 31] {
        assert!(at(8, number).starts_with("number of tensors: expected at most"), "{number}");
        assert!(at(16, number).starts_with("number of keys: expected at most"), "{number}");
        assert!(at(24, number).contains("key 0 of 21, length in bytes: expected at most 65535"), "{number}");
    }
}

proptest! {
    #[test]
    fn e9_no_bytes_make_the_gguf_parser_panic(tail in proptest::collection::vec(any::<u8>(), 0..512)) {
        let bytes = [b"GGUF\x03\0\0\0".as_slice(), &tail].concat();
        // Only that it returns is asked: nearly all of these are refused.
        let _ = gguf::parse(&bytes);
    }

    #[test]
    fn e9_no_header_makes_the_safetensors_parser_panic(header in "[\\[\\]{}\":,a-e0-9]{0,64}", data in 0_usize..64) {
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat();
        // Only that it returns is asked: nearly all of these are refused.
        let _ = safetensors::parse(&bytes);
    }
}
