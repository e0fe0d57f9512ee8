//! The default model's text, for the test of its vocabulary and for the benches. `scripts/setup` fetches the model; its
//! absence is a failure that says so.

use std::path::PathBuf;

use sanctum_mlx::model::weights::{Checkpoint, TextSource, Vocabulary};
use sanctum_mlx::text::Text;
use sanctum_mlx::text::vocabulary::GgufVocabulary;

/// What the default model's file says about its text.
///
/// # Panics
/// When the model is not there.
pub fn source() -> Box<Vocabulary> {
    let home = std::env::var_os("SANCTUM_MLX_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".sanctum-mlx"))).expect("a home folder");
    let checkpoint = Checkpoint::open(&home.join("models/default"))
        .unwrap_or_else(|error| panic!("the default model is not there, run scripts/setup: {error}"));
    match checkpoint.text_source() {
        TextSource::Gguf(vocabulary) => vocabulary.clone(),
        TextSource::Json { .. } => panic!("the default model is one GGUF file"),
    }
}

/// The text made of it.
///
/// # Panics
/// When it is not supported.
pub fn text(source: &Vocabulary) -> Text {
    let source = source.clone();
    let vocabulary = GgufVocabulary {
        model: source.model,
        pre: source.pre,
        tokens: source.tokens,
        token_types: source.token_types,
        merges: source.merges,
        scores: source.scores,
        bos: source.bos,
        eos: source.eos,
        unknown: source.unknown,
        padding: source.padding,
        add_bos: source.add_bos,
        add_space_prefix: source.add_space_prefix,
    };
    Text::from_gguf(vocabulary, source.chat_template.as_deref()).expect("the default model's text is supported")
}
