//! What a GGUF vocabulary becomes, and what is refused.

use serde::Deserialize;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

use super::*;

/// A `gpt2` vocabulary of the 256 byte characters, a few merges and some added tokens.
pub(in crate::text) fn bytes_and_merges(pre: &str) -> GgufVocabulary {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..);
    let shifted = ('\u{100}'..='\u{143}').map(String::from);
    let mut tokens: Vec<String> =
        (0..=u8::MAX).filter(|&byte| printable(byte)).map(|byte| char::from(byte).to_string()).collect();
    tokens.extend(shifted);
    let merges = ["h e", "l l", "he ll", "hell o", "\u{120} hello", "1 2", "12 3"];
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let mut token_types = vec![1; tokens.len()];
    for (token, kind) in [("<s>", 3), ("</s>", 3), ("<tool>", 4)] {
        tokens.push(token.to_owned());
        token_types.push(kind);
    }
    let id = |text: &str| tokens.iter().position(|token| token == text).map(|id| id as u32);
    GgufVocabulary {
        model: "gpt2".to_owned(),
        pre: Some(pre.to_owned()),
        bos: id("<s>"),
        eos: id("</s>"),
        unknown: None,
        tokens,
        token_types,
        merges: merges.map(ToOwned::to_owned).to_vec(),
        scores: Vec::new(),
        padding: None,
        add_bos: Some(true),
        add_space_prefix: None,
    }
}

fn refusal(change: impl FnOnce(&mut GgufVocabulary)) -> String {
    let mut vocabulary = bytes_and_merges("gpt-2");
    change(&mut vocabulary);
    vocabulary.into_pipeline().expect_err("refused").to_string()
}

/// One line of `split.json`.
#[derive(Deserialize)]
struct Cut {
    pre: String,
    text: String,
    pieces: Vec<String>,
}

#[test]
fn texts_are_cut_as_each_pre_tokeniser_cuts_them() {
    let cuts: Vec<Cut> = serde_json::from_str(include_str!("../../../tests/data/text/split.json")).expect("JSON");
    assert!(PreTokenizer::NAMED.iter().all(|(name, _)| cuts.iter().any(|cut| cut.pre == *name)));
    for cut in cuts {
        let pre = PreTokenizer::named(&cut.pre).expect("a known name").build().expect("a valid pattern");
        let mut text = PreTokenizedString::from(cut.text.as_str());
        pre.pre_tokenize(&mut text).expect("any text can be cut");
        let spans = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let pieces: Vec<&str> = spans.iter().map(|(_, (start, end), _)| &cut.text[*start..*end]).collect();
        assert_eq!(pieces, cut.pieces, "{:?} by {}", cut.text, cut.pre);
    }
}

#[test]
fn what_is_not_supported_is_named_beside_what_is() {
    assert_eq!(
        refusal(|vocabulary| vocabulary.model = "t5".to_owned()),
        "tokenizer.ggml.model is \"t5\"; supported are \"gpt2\" and \"llama\""
    );
    let supported = "supported are \"gpt-2\", \"llama-bpe\", \"qwen2\", \"smollm\"";
    assert_eq!(
        refusal(|vocabulary| vocabulary.pre = Some("viking".to_owned())),
        format!("tokenizer.ggml.pre is \"viking\"; {supported}")
    );
    assert_eq!(refusal(|vocabulary| vocabulary.pre = None), format!("tokenizer.ggml.pre is missing; {supported}"));
}

#[test]
fn parts_that_do_not_fit_each_other_are_refused() {
    let short = refusal(|vocabulary| vocabulary.token_types.truncate(265));
    assert_eq!(short, "tokenizer.ggml.token_type has 265 entries; expected one for each of 266 tokens");
    let scoreless = refusal(|vocabulary| vocabulary.model = "llama".to_owned());
    assert_eq!(scoreless, "tokenizer.ggml.scores has 0 entries; expected one for each of 266 tokens");
    let outside = refusal(|vocabulary| vocabulary.bos = Some(266));
    assert_eq!(outside, "tokenizer.ggml.bos_token_id is 266; expected an id below 266");
    for merge in ["h", "h zzz", "z z", "", " "] {
        let unfit = refusal(|vocabulary| vocabulary.merges[1] = merge.to_owned());
        assert!(unfit.starts_with(&format!("tokenizer.ggml.merges[1] is {merge:?}; ")), "{unfit}");
    }
    let many = refusal(|vocabulary| vocabulary.merges = vec![String::new(); MERGES_MAX + 1]);
    assert_eq!(many, "tokenizer.ggml.merges has 2097153 entries; the limit is 2097152");
}

#[test]
fn templates_get_the_tokens_that_the_file_names() {
    let vocabulary = bytes_and_merges("gpt-2");
    assert_eq!(vocabulary.named_tokens(), [("bos_token", "<s>".to_owned()), ("eos_token", "</s>".to_owned())]);
}
