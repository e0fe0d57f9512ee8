//! The forward pass against itself: however a prompt is cut, and however its weights are stored, the scores are the same.

use proptest::prelude::*;
use serde_json::json;

use crate::kernels::{Bits, Coding, Packed, Projection, Real, Rows, Weight};
use crate::mlx::{Array, Device, MlxError, device, eval, filled, filled_f32, from_tokens, to_f32_vec};
use crate::model::registry::check;
use crate::model::testing::{Shape, Tiny, VOCABULARY};
use crate::model::weights::Tensor;
use crate::model::{Model, Sequence};

const PROMPT: [u32; 11] = [5, 17, 3, 88, 42, 42, 9, 61, 0, 95, 30];

fn load(tiny: &Tiny) -> Box<dyn Model> {
    check(tiny).expect("a sound model").load(tiny, &|_| {}).expect("loads")
}

/// Logits of every position, the prompt cut into pieces of these lengths.
fn logits(model: &dyn Model, tokens: &[u32], pieces: &[usize]) -> Vec<f32> {
    coded_logits(model, Coding::Plain, tokens, pieces)
}

/// As `logits`, with keys and values coded like this.
fn coded_logits(model: &dyn Model, coding: Coding, tokens: &[u32], pieces: &[usize]) -> Vec<f32> {
    let (mut caches, mut at, mut all) = (model.caches(coding, 0), 0, Vec::new());
    for length in pieces {
        let mut sequence = [Sequence { caches: &mut caches, count: *length }];
        let hidden = model.hidden(&from_tokens(&tokens[at..at + length]), &mut sequence).expect("runs");
        all.extend(to_f32_vec(&model.head(&hidden).expect("runs")).expect("runs"));
        at += length;
        assert!(caches.iter().all(|cache| cache.tokens() == at));
    }
    assert_eq!(at, tokens.len());
    all
}

/// The largest difference, relative to the range of the logits.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let range = a.iter().copied().fold(f32::MIN, f32::max) - a.iter().copied().fold(f32::MAX, f32::min);
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / range
}

/// Scores of the same positions, computed in two ways. On the CPU device they have the same bits, because a row's depend on
/// nothing but the row; MLX's kernels for the GPU make no such promise.
fn assert_same(a: &[f32], b: &[f32], how: &str) {
    match device() {
        Device::Cpu => assert!(a == b, "{how}: {} of the range apart", difference(a, b)),
        Device::Gpu => assert!(difference(a, b) < 1e-5, "{how}: {} of the range apart", difference(a, b)),
    }
}

fn shapes() -> impl Iterator<Item = Shape> {
    [(true, false, 4, 2), (false, true, 4, 4), (true, true, 4, 1), (false, false, 2, 1)].into_iter().flat_map(
        |(tied, biased, heads, kv_heads)| {
            [None, Some(4), Some(8)].map(|bits| Shape { tied, biased, heads, kv_heads, bits })
        },
    )
}

#[test]
fn prefill_equals_step_by_step_decode_for_every_shape() {
    for shape in shapes() {
        let model = load(&Tiny::new(shape, 7));
        let whole = logits(model.as_ref(), &PROMPT, &[PROMPT.len()]);
        let stepped = logits(model.as_ref(), &PROMPT, &[1; PROMPT.len()]);
        assert_same(&whole, &stepped, &format!("{shape:?}"));
    }
}

#[test]
fn chunked_prefill_equals_whole_prefill_across_cache_growth() {
    let model = load(&Tiny::new(Shape::PLAIN, 11));
    let prompt: Vec<u32> = (0..602).map(|i| i * 31 % VOCABULARY as u32).collect();
    let whole = logits(model.as_ref(), &prompt, &[602]);
    for pieces in [vec![1; 602], vec![7; 86], vec![512, 90], vec![255, 1, 1, 345], vec![1, 601]] {
        let chunked = logits(model.as_ref(), &prompt, &pieces);
        assert_same(&whole, &chunked, &format!("{pieces:?}"));
    }
}

#[test]
fn a_deep_decode_on_a_populated_cache_equals_one_prefill() {
    let model = load(&Tiny::new(Shape { tied: true, ..Shape::PLAIN }, 3));
    let tokens: Vec<u32> = (0..80).map(|i| i * 57 % VOCABULARY as u32).collect();
    let mut pieces = vec![40];
    pieces.extend([1; 40]);
    let whole = logits(model.as_ref(), &tokens, &[80]);
    assert_same(&whole, &logits(model.as_ref(), &tokens, &pieces), "deep decode");
}

#[test]
fn quantised_weights_score_as_their_dequantised_numbers() {
    for bits in [4, 8] {
        let tiny = Tiny::new(Shape { bits: Some(bits), ..Shape::PLAIN }, 5);
        let quantised = logits(load(&tiny).as_ref(), &PROMPT, &[PROMPT.len()]);
        let dense = logits(load(&tiny.dequantised()).as_ref(), &PROMPT, &[PROMPT.len()]);
        assert!(difference(&quantised, &dense) < 1e-6, "{bits} bits");
    }
}

/// What the GPU runs: the packed weights, multiplied without being unpacked first.
#[test]
fn packed_products_and_lookups_equal_dense_ones() {
    let tiny = Tiny::new(Shape { bits: Some(4), ..Shape::PLAIN }, 5);
    let tensor = &tiny.tensors["lm_head.weight"];
    let Tensor::Affine { shape, bits, group, packed, scales, biases, .. } = tensor else { panic!("quantised") };
    let array = |shape: &[usize], dtype, bytes: &[u8]| {
        filled(shape, dtype, |out| {
            out.copy_from_slice(bytes);
            Ok::<(), MlxError>(())
        })
        .expect("memory")
    };
    let groups = [shape[0], shape[1] / group];
    let affine = || Weight::Affine {
        packed: array(&[shape[0], shape[1] / 8], crate::mlx::Dtype::Uint32, packed),
        scales: array(&groups, crate::mlx::Dtype::Float32, scales),
        biases: array(&groups, crate::mlx::Dtype::Float32, biases),
        bits: usize::from(*bits),
        group: *group,
    };
    let rows = filled_f32(shape, |out| {
        tensor.to_f32(out);
        Ok::<(), MlxError>(())
    });
    let dense = || Weight::Dense(rows.as_ref().expect("memory").t());
    let x = Array::from_iter((0..shape[1]).map(|i| (i as f32).sin()), &[1, 1, 64]);
    let close = |a: Array, b: Array| {
        let (a, b) = (to_f32_vec(&a).expect("runs"), to_f32_vec(&b).expect("runs"));
        assert!(difference(&a, &b) < 1e-5);
    };
    let tokens = from_tokens(&[3, 95, 0]);
    close(affine().lookup(&tokens).expect("fits"), dense().lookup(&tokens).expect("fits"));
    let packed = || {
        let rows = Rows::Affine { bits: usize::from(*bits), group: *group, packed, scales, biases, real: Real::F32 };
        Weight::Packed(Packed::new(shape[0], shape[1], &rows).expect("memory"))
    };
    close(packed().lookup(&tokens).expect("fits"), dense().lookup(&tokens).expect("fits"));
    let product =
        |weights: Vec<Weight>| Projection { weights: &weights, bias: None, norm: None }.forward(&x).expect("fits");
    close(product(vec![affine()]), product(vec![dense()]));
    close(product(vec![packed(), packed()]), product(vec![dense(), affine()]));
    close(product(vec![affine(), dense()]), product(vec![dense(), affine()]));
}

#[test]
fn a_chunk_whose_logits_nobody_reads_still_fills_the_caches() {
    let model = load(&Tiny::new(Shape::PLAIN, 2));
    let mut caches = model.caches(Coding::Plain, 0);
    model.remember(&from_tokens(&PROMPT[..6]), &mut [Sequence { caches: &mut caches, count: 6 }]).expect("runs");
    eval(caches.iter().flat_map(crate::cache::KvCache::arrays)).expect("runs");
    let rest = &PROMPT[6..];
    let sequence = Sequence { caches: &mut caches, count: rest.len() };
    let last = model.forward(&from_tokens(rest), &mut [sequence]).expect("runs");
    let whole = logits(model.as_ref(), &PROMPT, &[PROMPT.len()]);
    let last = to_f32_vec(&last).expect("runs");
    assert!(difference(&last, &whole[whole.len() - VOCABULARY..]) < 1e-5);
}

#[test]
fn rows_in_one_pass_get_what_each_gets_alone() {
    for shape in shapes() {
        let model = load(&Tiny::new(shape, 9));
        let prompts: [&[u32]; 4] = [&PROMPT, &PROMPT[3..4], &[7; 70], &PROMPT[..6]];
        let last = |prompt: &[u32]| {
            let all = logits(model.as_ref(), prompt, &[prompt.len()]);
            all[all.len() - VOCABULARY..].to_vec()
        };
        // Each row's prompt but its last token, and then all last tokens with another prompt's first ones.
        let mut caches: Vec<_> = prompts.iter().map(|_| model.caches(Coding::Plain, 0)).collect();
        for (prompt, caches) in prompts.iter().zip(&mut caches).filter(|(prompt, _)| prompt.len() > 1) {
            let most = &prompt[..prompt.len() - 1];
            let sequence = Sequence { caches, count: most.len() };
            model.remember(&from_tokens(most), &mut [sequence]).expect("runs");
        }
        let mut fresh = model.caches(Coding::Plain, 0);
        let mut tokens: Vec<u32> = prompts.iter().map(|prompt| prompt[prompt.len() - 1]).collect();
        tokens.extend(&PROMPT[..5]);
        let mut sequences: Vec<_> = caches.iter_mut().map(|caches| Sequence { caches, count: 1 }).collect();
        sequences.push(Sequence { caches: &mut fresh, count: 5 });
        let together = to_f32_vec(&model.forward(&from_tokens(&tokens), &mut sequences).expect("runs")).expect("runs");
        for (row, together) in together.chunks_exact(VOCABULARY).enumerate() {
            let alone = last(prompts.get(row).copied().unwrap_or(&PROMPT[..5]));
            assert_same(together, &alone, &format!("{shape:?}, row {row}"));
        }
    }
}

fn refusal(change: impl FnOnce(&mut Tiny)) -> String {
    let mut tiny = Tiny::new(Shape { tied: true, ..Shape::PLAIN }, 1);
    change(&mut tiny);
    check(&tiny).expect_err("refused").to_string()
}

#[test]
fn what_does_not_fit_the_architecture_is_refused_by_name_before_mlx() {
    let missing = refusal(|tiny| drop(tiny.tensors.remove("model.layers.1.mlp.up_proj.weight")));
    assert!(missing.starts_with("tiny: ") && missing.contains("model.layers.1.mlp.up_proj.weight"), "{missing}");
    let strange = refusal(|tiny| {
        let tensor = tiny.tensors["model.norm.weight"].clone();
        tiny.tensors.insert("model.layers.0.self_attn.q_norm.weight".into(), tensor);
    });
    assert!(strange.contains("q_norm"), "{strange}");
    let misshapen = refusal(|tiny| {
        let tensor = tiny.tensors["model.norm.weight"].clone();
        tiny.tensors.insert("model.embed_tokens.weight".into(), tensor);
    });
    assert!(misshapen.contains("[96, 64]") && misshapen.contains("[64]"), "{misshapen}");
    let unknown = refusal(|tiny| tiny.config["model_type"] = json!("mamba"));
    assert!(unknown.contains("mamba") && unknown.contains("llama, mistral"), "{unknown}");
    let cases = [
        ("hidden_act", json!("gelu")),
        ("sliding_window", json!(128)),
        ("num_key_value_heads", json!(3)),
        ("head_dim", json!(15)),
        ("vocab_size", json!(0)),
        ("rms_norm_eps", json!(-1.0)),
        ("rope_scaling", json!({ "type": "yarn", "factor": 2.0 })),
    ];
    for (key, value) in cases {
        let message = refusal(|tiny| tiny.config[key] = value);
        assert!(message.contains(key), "{key}: {message}");
    }
}

/// A model whose layers see so many tokens.
fn sliding(window: usize, layer_types: Option<[&str; 2]>) -> Tiny {
    let mut tiny = Tiny::new(Shape::PLAIN, 11);
    tiny.config["model_type"] = json!("mistral");
    tiny.config["sliding_window"] = json!(window);
    tiny.config["layer_types"] = json!(layer_types);
    tiny
}

#[test]
fn a_window_hides_what_is_before_it_in_the_layers_that_slide_and_nowhere_else() {
    let prompt: Vec<u32> = (0..60).map(|i| i * 31 % VOCABULARY as u32).collect();
    let of = |tiny: &Tiny| logits(load(tiny).as_ref(), &prompt, &[60]);
    let (full, slide) = ("full_attention", "sliding_attention");
    let all = of(&Tiny::new(Shape::PLAIN, 11));
    assert_same(&of(&sliding(60, None)), &all, "a window that nothing is before");
    assert_same(&of(&sliding(9, Some([full, full]))), &all, "no layer slides");
    let both = of(&sliding(9, None));
    assert_same(&both[..9 * VOCABULARY], &all[..9 * VOCABULARY], "nothing is hidden yet");
    assert!(difference(&both[9 * VOCABULARY..], &all[9 * VOCABULARY..]) > 1e-3);
    assert_same(&of(&sliding(9, Some([slide, slide]))), &both, "both layers slide");
    for types in [[full, slide], [slide, full]] {
        let one = of(&sliding(9, Some(types)));
        assert!(difference(&one, &both) > 1e-3 && difference(&one, &all) > 1e-3, "{types:?}");
    }
}

#[test]
fn chunks_and_integers_change_nothing_but_what_integers_round() {
    let prompt: Vec<u32> = (0..602).map(|i| i * 31 % VOCABULARY as u32).collect();
    let mut tiny = Tiny::new(Shape { heads: 2, kv_heads: 1, ..Shape::PLAIN }, 11);
    tiny.config["model_type"] = json!("mistral");
    let exact = logits(load(&tiny).as_ref(), &prompt, &[602]);
    tiny.config["sliding_window"] = json!(40);
    let windowed = logits(load(&tiny).as_ref(), &prompt, &[602]);
    for (window, expected) in [(602, &exact), (40, &windowed)] {
        tiny.config["sliding_window"] = json!(window);
        let model = load(&tiny);
        let affine = |bits| Coding::affine(bits, 32).expect("it fits");
        for (coding, off) in [(Coding::Plain, 0.0), (affine(Bits::Eight), 0.02), (affine(Bits::Four), 0.3)] {
            let whole = coded_logits(model.as_ref(), coding, &prompt, &[602]);
            let apart = difference(&whole, expected);
            assert!(apart <= off && (apart > 0.0) == (off > 0.0), "{coding:?}, window {window}: {apart} of the range");
            for pieces in [vec![1; 602], vec![7; 86], vec![512, 90], vec![255, 1, 1, 345]] {
                let chunked = coded_logits(model.as_ref(), coding, &prompt, &pieces);
                assert_same(&whole, &chunked, &format!("{coding:?}, window {window}, {pieces:?}"));
            }
        }
    }
}

#[test]
fn layers_that_slide_must_say_how_far_and_which() {
    for (change, words) in [
        (json!({ "sliding_window": 0 }), "sliding_window"),
        (json!({ "layer_types": ["full_attention"] }), "layer_types"),
        (json!({ "layer_types": ["full_attention", "mamba"] }), "mamba"),
        (json!({ "layer_types": ["full_attention", "sliding_attention"] }), "sliding_window"),
    ] {
        let message = refusal(|tiny| {
            tiny.config["model_type"] = json!("mistral");
            change.as_object().expect("keys").iter().for_each(|(key, value)| tiny.config[key] = value.clone());
        });
        assert!(message.contains(words), "{change}: {message}");
    }
}

#[test]
fn mistral_without_a_window_and_listed_leftovers_are_accepted() {
    let mut tiny = Tiny::new(Shape { tied: true, ..Shape::PLAIN }, 1);
    tiny.config["model_type"] = json!("mistral");
    tiny.config["sliding_window"] = json!(null);
    let leftover = tiny.tensors["model.norm.weight"].clone();
    tiny.tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), leftover.clone());
    tiny.tensors.insert("lm_head.weight".into(), leftover);
    check(&tiny).expect("accepted");
}

proptest! {
    #[test]
    fn no_configuration_makes_the_check_panic(key in 0_usize..8, number in any::<i64>(), float in any::<f64>()) {
        const KEYS: [&str; 8] = [
            "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size",
            "num_hidden_layers", "rope_theta", "max_position_embeddings",
        ];
        for value in [json!(number), json!(float), json!(null), json!("x")] {
            let mut tiny = Tiny { config: Tiny::config(Shape::PLAIN), tensors: std::collections::BTreeMap::new() };
            tiny.config[KEYS[key]] = value;
            prop_assert!(check(&tiny).is_err());
        }
    }
}
