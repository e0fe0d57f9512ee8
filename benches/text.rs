//! S14: what template and encoding cost beside the bare `tokenizers` crate on the same text, at 32 K tokens; and what a
//! token costs on its way out (a part of S2). Needs the default model, which scripts/setup fetches.

#[path = "../tests/it/support/default_text.rs"]
mod default_text;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use sanctum_mlx::model::weights::Vocabulary;
use sanctum_mlx::text::Text;
use sanctum_mlx::text::stop::StopStrings;
use serde_json::{Map, Value, json};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::{byte_level::ByteLevel, digits::Digits, sequence::Sequence};
use tokenizers::{AddedToken, Tokenizer};

/// Tokens of the chat, at least.
const TOKENS: usize = 32 << 10;
/// More tokens than any prompt here has.
const ROOMY: u32 = 1 << 20;

/// The crate alone, set up as the published `tokenizer.json` of the default model.
fn bare(source: &Vocabulary) -> Tokenizer {
    let vocab: Vocab = source.tokens.iter().cloned().zip(0..).collect();
    let pair = |merge: &String| merge.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned()));
    let merges = source.merges.iter().filter_map(pair).collect();
    let model = BPE::builder().vocab_and_merges(vocab, merges).build().expect("a valid vocabulary");
    let mut tokenizer = Tokenizer::new(model);
    let pre = Sequence::new(vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()]);
    tokenizer.with_pre_tokenizer(Some(pre));
    let control = source.tokens.iter().zip(&source.token_types).filter(|(_, kind)| **kind == 3);
    let control = control.map(|(token, _)| AddedToken::from(token.clone(), true).normalized(false));
    tokenizer.add_special_tokens(control).expect("valid tokens");
    tokenizer
}

/// A chat about this repository's own sources, cut into turns, long enough by the tokenizer's count.
fn chat(text: &Text) -> Vec<Value> {
    let sources = [include_str!("../src/text/tokenizer.rs"), include_str!("../tests/data/templates/cases.json")];
    let words: Vec<&str> = sources.into_iter().flat_map(|source| source.split_inclusive('\n')).collect();
    let mut messages = vec![json!({"role": "system", "content": "You read code."})];
    for (turn, lines) in words.chunks(12).cycle().enumerate() {
        let role = if turn % 2 == 0 { "user" } else { "assistant" };
        messages.push(json!({"role": role, "content": lines.concat()}));
        if turn % 16 == 0 && text.prompt(&messages, None, &Map::new(), ROOMY).expect("a prompt").tokens.len() >= TOKENS
        {
            break;
        }
    }
    messages
}

fn encoding(criterion: &mut Criterion) {
    let source = default_text::source();
    let text = default_text::text(&source);
    let bare = bare(&source);
    let messages = chat(&text);
    let prompt = text.prompt(&messages, None, &Map::new(), ROOMY).expect("a prompt").tokens;
    let rendered: String = prompt
        .iter()
        .map(|&id| String::from_utf8_lossy(text.tokenizer().token_bytes(id).unwrap_or_default()).into_owned())
        .collect();
    assert_eq!(bare.encode(rendered.as_str(), false).expect("it encodes").get_ids(), prompt, "same text, same ids");
    eprintln!("{} messages, {} bytes, {} tokens", messages.len(), rendered.len(), prompt.len());

    let mut group = criterion.benchmark_group("s14_prompt_of_32k_tokens");
    group.sample_size(20);
    group.bench_function("bare_tokenizers_encode", |bench| {
        bench.iter(|| bare.encode(black_box(rendered.as_str()), false).expect("it encodes"));
    });
    group.bench_function("bare_tokenizers_encode_fast", |bench| {
        bench.iter(|| bare.encode_fast(black_box(rendered.as_str()), false).expect("it encodes"));
    });
    group.bench_function("template_and_encode", |bench| {
        bench.iter(|| text.prompt(black_box(&messages), None, &Map::new(), ROOMY).expect("a prompt"));
    });
    group.finish();
}

fn decoding(criterion: &mut Criterion) {
    let text = default_text::text(&default_text::source());
    let ids = text.encode(include_str!("../src/text/mod.rs"), ROOMY).expect("it encodes");
    let stops = || StopStrings::new(vec!["\nUser:".to_owned(), "</answer>".to_owned()]);
    let mut next = ids.iter().cycle().copied();
    let (mut detokenizer, mut watched) = (text.detokenizer(), stops());
    criterion.bench_function("s2_detokenise_and_watch_for_stops_per_token", |bench| {
        bench.iter(|| watched.push(&detokenizer.push(next.next().expect("it cycles"))));
    });
}

criterion_group!(benches, encoding, decoding);
criterion_main!(benches);
