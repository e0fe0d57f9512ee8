//! Text of the default model, as it is served: the vocabulary and template inside its GGUF file against three other
//! encoders (`tests/data/text`).

use std::sync::LazyLock;

use sanctum_mlx::text::tokenizer::Beginning;
use sanctum_mlx::text::{Text, TextError};
use serde_json::{Map, Value, json};

use crate::support::default_text;

/// The default limit of a request's body.
const BODY_BYTES_MAX: usize = 8 << 20;
/// More tokens than any text here has.
const ROOMY: u32 = 16 << 20;

/// The default model's text; loaded once for all tests.
static TEXT: LazyLock<Text> = LazyLock::new(|| default_text::text(&default_text::source()));

fn decode(ids: &[u32]) -> String {
    let mut detokenizer = TEXT.detokenizer();
    let mut text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
    text.push_str(&detokenizer.finish());
    text
}

#[test]
fn the_default_model_encodes_as_three_other_encoders_do() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../data/text/smollm2.json")).expect("JSON");
    assert!(cases.len() >= 200);
    for case in cases {
        let text = case["text"].as_str().expect("a text");
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
        let encoded = TEXT.tokenizer().encode(text, Beginning::AsWritten, ROOMY);
        assert_eq!(encoded.as_ref(), Ok(&ids), "{text:?}");
        // Control tokens are no part of an answer.
        let is_plain = ids.iter().all(|&id| !TEXT.tokenizer().is_control(id));
        assert!(!is_plain || decode(&ids) == text, "{text:?} decodes to {:?}", decode(&ids));
    }
}

#[test]
fn the_default_models_prompt_is_its_template_in_single_control_tokens() {
    let messages = [json!({"role": "user", "content": "What is the capital of France?"})];
    let ids = TEXT.prompt(&messages, None, &Map::new(), ROOMY).expect("a prompt").tokens;
    let tokens = |text: &str| TEXT.tokenizer().encode(text, Beginning::AsWritten, ROOMY).expect("any text");
    let written = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
                   <|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(ids, tokens(written));
    assert_eq!(ids.iter().filter(|id| **id == 1).count(), 3, "<|im_start|> is one token");
    assert_eq!(TEXT.end_ids(), [0, 2], "<|endoftext|> and <|im_end|>");
}

#[test]
fn a_body_of_one_character_over_and_over_is_refused_as_too_long() {
    for filler in [" ", "a", "1", "\n", "\u{e9}", "\u{1f600}", "<", "' "] {
        let text = filler.repeat(BODY_BYTES_MAX / filler.len());
        let refused = TEXT.encode(&text, 8192).expect_err("more than the context holds");
        assert_eq!(refused, TextError::TooLong { tokens_max: 8192 }, "{filler:?}");
    }
}
