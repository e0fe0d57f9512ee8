//! Encoding and decoding with small vocabularies. The default model's own is tested where the model is.

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::text::vocabulary::tests::bytes_and_merges;

/// More tokens than any text here has.
const ROOMY: u32 = 1 << 20;

fn small() -> Tokenizer {
    Tokenizer::from_gguf(bytes_and_merges("smollm")).expect("a valid vocabulary")
}

fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut detokenizer = tokenizer.detokenizer(&Arc::from([]));
    let mut text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
    text.push_str(&detokenizer.finish());
    text
}

/// The text of each token.
fn spelled(tokenizer: &Tokenizer, text: &str, beginning: Beginning) -> Vec<String> {
    let ids = tokenizer.encode(text, beginning, ROOMY).expect("any text can be encoded");
    ids.iter().map(|&id| String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default()).into_owned()).collect()
}

/// `sentencepiece.json`.
#[derive(Deserialize)]
struct Sentencepiece {
    vocabulary: SentencepieceVocabulary,
    cases: Vec<SentencepieceCase>,
}

#[derive(Deserialize)]
struct SentencepieceVocabulary {
    tokens: Vec<String>,
    scores: Vec<f32>,
    token_types: Vec<i32>,
    bos: u32,
    eos: u32,
    unknown: u32,
}

#[derive(Deserialize)]
struct SentencepieceCase {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

#[test]
fn a_sentencepiece_vocabulary_encodes_and_decodes_as_sentencepiece_does() {
    let data: Sentencepiece =
        serde_json::from_str(include_str!("../../../tests/data/text/sentencepiece.json")).expect("JSON");
    let tokenizer = Tokenizer::from_gguf(GgufVocabulary {
        model: "llama".to_owned(),
        pre: None,
        tokens: data.vocabulary.tokens,
        token_types: data.vocabulary.token_types,
        merges: Vec::new(),
        scores: data.vocabulary.scores,
        bos: Some(data.vocabulary.bos),
        eos: Some(data.vocabulary.eos),
        unknown: Some(data.vocabulary.unknown),
        padding: None,
        add_bos: None,
        add_space_prefix: None,
    })
    .expect("a valid vocabulary");
    assert!(data.cases.len() >= 200);
    for SentencepieceCase { text, ids, decoded } in data.cases {
        let encoded = tokenizer.encode(&text, Beginning::AsWritten, ROOMY);
        assert_eq!(encoded.as_ref(), Ok(&ids), "{text:?}");
        assert_eq!(decode(&tokenizer, &ids), decoded, "{text:?}");
    }
}

#[test]
fn control_tokens_are_matched_in_a_text_and_shown_in_no_answer() {
    let tokenizer = small();
    let text = "hello<s> hello123<tool></s>";
    let tokens = spelled(&tokenizer, text, Beginning::AsWritten);
    assert_eq!(tokens, ["hello", "<s>", " hello", "1", "2", "3", "<tool>", "</s>"]);
    let ids = tokenizer.encode(text, Beginning::AsWritten, ROOMY).expect("any text");
    assert_eq!(decode(&tokenizer, &ids), "hello hello123<tool>");
    let control: Vec<bool> = ["<s>", "<tool>", "h"]
        .map(|token| tokenizer.id_of(token))
        .into_iter()
        .flatten()
        .map(|id| tokenizer.is_control(id))
        .collect();
    assert_eq!(control, [true, false, false]);
}

#[test]
fn the_beginning_is_added_once() {
    let tokenizer = small();
    assert_eq!(spelled(&tokenizer, "he", Beginning::Added), ["<s>", "he"]);
    assert_eq!(spelled(&tokenizer, "<s>he", Beginning::Added), ["<s>", "he"]);
    assert_eq!(spelled(&tokenizer, "he", Beginning::AsWritten), ["he"]);
    let mut silent = bytes_and_merges("gpt-2");
    silent.add_bos = None;
    let silent = Tokenizer::from_gguf(silent).expect("a valid vocabulary");
    assert_eq!(spelled(&silent, "he", Beginning::Added), ["he"]);
}

#[test]
fn a_tokenizer_json_reads_as_the_vocabulary_it_was_made_from() {
    for pre in ["gpt-2", "llama-bpe", "qwen2", "smollm"] {
        let from_gguf = Tokenizer::from_gguf(bytes_and_merges(pre)).expect("a valid vocabulary");
        let json = from_gguf.pipeline.to_string(false).expect("it has a JSON form");
        let from_json = Tokenizer::from_json(json.as_bytes()).expect("a valid tokenizer.json");
        assert_eq!(from_json.vocabulary_len(), from_gguf.vocabulary_len());
        for id in 0..from_gguf.vocabulary_len() as u32 {
            assert_eq!(from_json.token_bytes(id), from_gguf.token_bytes(id));
            assert_eq!(from_json.is_control(id), from_gguf.is_control(id));
        }
        let text = "He said hello, hello 123!\n<s>\u{e9}\u{1f600}";
        let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, Beginning::AsWritten, ROOMY).expect("any text");
        assert_eq!(ids(&from_json), ids(&from_gguf), "{pre}");
    }
}

#[test]
fn the_files_own_post_processing_says_which_token_begins_a_text() {
    let pipeline = small().pipeline;
    let mut json: serde_json::Value =
        serde_json::from_str(&pipeline.to_string(false).expect("it has a JSON form")).expect("JSON");
    json["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [pipeline.token_to_id("<s>")], "tokens": ["<s>"]}},
    });
    json["truncation"] = serde_json::json!(
        {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    let tokenizer = Tokenizer::from_json(json.to_string().as_bytes()).expect("a valid tokenizer.json");
    assert_eq!(spelled(&tokenizer, "hello hello hello", Beginning::Added), ["<s>", "hello", " hello", " hello"]);
}

#[test]
fn a_damaged_tokenizer_json_is_refused() {
    let json = small().pipeline.to_string(false).expect("it has a JSON form");
    for length in (0..json.len()).step_by(97) {
        assert!(Tokenizer::from_json(&json.as_bytes()[..length]).is_err(), "{length} bytes");
    }
    let mut long_merge: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    long_merge["model"]["merges"] = serde_json::json!([[" hello".replace(' ', "\u{120}"), "hello"]]);
    assert!(Tokenizer::from_json(long_merge.to_string().as_bytes()).is_err());
    let mut decoderless: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    decoderless["decoder"] = serde_json::json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    let error = Tokenizer::from_json(decoderless.to_string().as_bytes()).err().map(|error| error.to_string());
    assert!(error.is_some_and(|error| error.contains("WordPiece") && error.contains("supported are ByteLevel")));
    let oversized = vec![b' '; JSON_BYTES_MAX as usize + 1];
    assert!(matches!(Tokenizer::from_json(&oversized), Err(TokenizerError::TooLarge { .. })));
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_itself(text in "\\PC{0,40}") {
        let tokenizer = small();
        let ids = tokenizer.encode(&text, Beginning::AsWritten, ROOMY).expect("any text can be encoded");
        prop_assert_eq!(decode(&tokenizer, &ids), text);
    }

    #[test]
    fn pushing_one_by_one_equals_what_the_library_decodes_at_once(ids in prop::collection::vec(0..270u32, 0..48)) {
        let tokenizer = small();
        prop_assert_eq!(decode(&tokenizer, &ids), tokenizer.pipeline.decode(&ids, true).expect("any ids"));
    }
}
