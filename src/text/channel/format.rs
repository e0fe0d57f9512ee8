//! How a model lays out its answers, as far as its chat template says: the template prints earlier answers, and does so
//! in the model's own words. It refuses to know what else a template does; it looks for words in its source.
//!
//! A format that is not recognised is none: its markup stays content.

use crate::text::tools::ToolFormat;
use crate::text::tools::gemma::{self, FUNCTION_GEMMA, GEMMA4};
use crate::text::tools::mistral::{self, ARGUMENTS};
use crate::text::tools::qwen_coder::FUNCTION;
use crate::text::tools::{harmony, hermes};

/// How a model lays out its answers. With [`ToolFormat::Harmony`] everything is in messages, and there are no markers
/// of reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// What stands around reasoning.
    pub reasoning: Option<Markers>,
    /// How calls are written.
    pub tools: Option<ToolFormat>,
}

/// What stands around a block of reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Markers {
    /// Before it.
    pub open: &'static str,
    /// Behind it.
    pub close: &'static str,
    /// What of `open` is one token of the vocabulary.
    open_token: &'static str,
}

/// How a prompt leaves an answer to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// With anything, reasoning included.
    Content,
    /// In the midst of a block of reasoning.
    Reasoning,
}

/// The pairs that models are known to use.
pub(super) const PAIRS: [Markers; 11] = [
    // DeepSeek R1, Qwen 3, and most that came after them.
    pair("<think>", "</think>"),
    // Magistral, Ministral.
    pair("[THINK]", "[/THINK]"),
    // Command A Reasoning, Command R7B.
    pair("<|START_THINKING|>", "<|END_THINKING|>"),
    // Gemma 4.
    Markers { open: "<|channel>thought", close: "<channel|>", open_token: "<|channel>" },
    // Seed-OSS.
    pair("<seed:think>", "</seed:think>"),
    // Apertus.
    pair("<|inner_prefix|>", "<|inner_suffix|>"),
    // Kimi-VL.
    pair("\u{25c1}think\u{25b7}", "\u{25c1}/think\u{25b7}"),
    // OpenThinker.
    pair("<|begin_of_thought|>", "<|end_of_thought|>"),
    // LongCat.
    pair("<longcat_think>", "</longcat_think>"),
    // EXAONE Deep.
    pair("<thought>", "</thought>"),
    // Fine-tunes that learned from prompts.
    pair("<reasoning>", "</reasoning>"),
];

const fn pair(open: &'static str, close: &'static str) -> Markers {
    Markers { open, close, open_token: open }
}

impl Markers {
    /// What of `open` is one token of the vocabulary.
    #[must_use]
    pub fn open_token(&self) -> &'static str {
        self.open_token
    }
}

/// How a model that thinks goes over to its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Behind this text the answer begins.
    pub marker: &'static str,
    /// What ends thinking that is cut short; it ends with the marker, perhaps with white space behind.
    pub closing: &'static str,
    /// What is no thought yet, before the first one.
    pub header: &'static str,
}

impl Format {
    /// Of a text that is not taken apart.
    pub const PLAIN: Self = Self { reasoning: None, tools: None };

    /// What the source of a chat template says. A pair of reasoning markers that the template does not print is found in
    /// the vocabulary, which `has_token` asks for a token by its text: templates that drop earlier reasoning need not
    /// name what stands around it.
    #[must_use]
    pub fn of_template(source: &str, has_token: &dyn Fn(&str) -> bool) -> Self {
        let tools = tools_of(source);
        if tools == Some(ToolFormat::Harmony) {
            return Self { reasoning: None, tools };
        }
        let printed = PAIRS.into_iter().find(|pair| source.contains(pair.close));
        let known = || PAIRS.into_iter().find(|pair| has_token(pair.open_token) && has_token(pair.close));
        Self { reasoning: printed.or_else(known), tools }
    }

    /// How the answer begins to a prompt that ends like this.
    #[must_use]
    pub fn opening(&self, prompt_end: &str) -> Opening {
        let open = if self.is_harmony() { Some(harmony::OPENING) } else { self.reasoning.map(|markers| markers.open) };
        let is_open = open.is_some_and(|open| prompt_end.trim_ascii_end().ends_with(open));
        if is_open { Opening::Reasoning } else { Opening::Content }
    }

    /// How the model goes over from thinking to its answer, if it thinks.
    #[must_use]
    pub fn turn(&self) -> Option<Turn> {
        if self.is_harmony() {
            return Some(Turn { marker: harmony::FINAL, closing: harmony::CLOSING, header: harmony::OPENING });
        }
        let marker = self.reasoning?.close;
        // Those that were trained on these tags write them on lines of their own.
        let closing = if marker == "</think>" { "\n</think>\n\n" } else { marker };
        Some(Turn { marker, closing, header: "" })
    }

    /// Whether answers are rows of messages with headers.
    #[must_use]
    pub fn is_harmony(&self) -> bool {
        self.tools == Some(ToolFormat::Harmony)
    }

    /// Control tokens that must come as text, because blocks are found by them.
    #[must_use]
    pub fn control_markers(&self) -> Vec<&'static str> {
        let reasoning = self.reasoning.iter().flat_map(|markers| [markers.open_token, markers.close]);
        reasoning.chain(self.tools.into_iter().flat_map(|tools| tools.control_markers().iter().copied())).collect()
    }
}

fn tools_of(source: &str) -> Option<ToolFormat> {
    let has = |word: &str| source.contains(word);
    // Templates write quotes bare or escaped, depending on the quotes around.
    let has_key = |key: &str| has(&format!("{key}\": ")) || has(&format!("{key}\\\": "));
    if has(harmony::CHANNEL) && has(harmony::MESSAGE) {
        Some(ToolFormat::Harmony)
    } else if has(FUNCTION_GEMMA.open) {
        Some(ToolFormat::Gemma(gemma::Spelling::FunctionGemma))
    } else if has(GEMMA4.open) {
        Some(ToolFormat::Gemma(gemma::Spelling::Gemma4))
    } else if has("[TOOL_CALLS]") {
        let spelling = if has(ARGUMENTS) { mistral::Spelling::Named } else { mistral::Spelling::List };
        Some(ToolFormat::Mistral(spelling))
    } else if has(hermes::OPEN) && has(FUNCTION) {
        Some(ToolFormat::QwenCoder)
    } else if has(hermes::OPEN) && has(hermes::CLOSE) && has_key("arguments") {
        Some(ToolFormat::Hermes)
    } else if has("<|start_header_id|>") && has_key("name") && has_key("parameters") {
        Some(ToolFormat::Llama)
    } else {
        None
    }
}
