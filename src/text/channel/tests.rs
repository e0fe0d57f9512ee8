//! Every example of every format, whole and cut at every place, and texts made of scraps that no model would write. The
//! examples were written from the formats' documentation and templates; none was recorded from a model.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::text::answer::{CallPiece, Piece};
use crate::text::channel::Channel;
use crate::text::channel::format::{Format, Opening, PAIRS};
use crate::text::tools::{Tool, ToolFormat, gemma, mistral};

/// Longest example that is cut at two places, and so at all pairs of places.
const PAIRS_BYTES_MAX: usize = 140;

/// The examples: a name, the format, and a JSON list of texts with what they are.
const EXAMPLES: [(&str, &str); 8] = [
    ("llama", include_str!("../tools/examples/llama.json")),
    ("hermes", include_str!("../tools/examples/hermes.json")),
    ("qwen_coder", include_str!("../tools/examples/qwen_coder.json")),
    ("mistral", include_str!("../tools/examples/mistral.json")),
    ("function_gemma", include_str!("../tools/examples/function_gemma.json")),
    ("gemma4", include_str!("../tools/examples/gemma4.json")),
    ("harmony", include_str!("../tools/examples/harmony.json")),
    ("reasoning", include_str!("../tools/examples/reasoning.json")),
];

fn format(name: &str) -> Format {
    let (pair, tools) = match name {
        "llama" => ("<think>", Some(ToolFormat::Llama)),
        "hermes" => ("<think>", Some(ToolFormat::Hermes)),
        "qwen_coder" => ("<think>", Some(ToolFormat::QwenCoder)),
        "mistral" => ("[THINK]", Some(ToolFormat::Mistral(mistral::Spelling::Named))),
        "function_gemma" => ("<think>", Some(ToolFormat::Gemma(gemma::Spelling::FunctionGemma))),
        "gemma4" => ("<|channel>thought", Some(ToolFormat::Gemma(gemma::Spelling::Gemma4))),
        "harmony" => ("", Some(ToolFormat::Harmony)),
        "reasoning" => ("<think>", None),
        other => (other, None),
    };
    Format { reasoning: PAIRS.into_iter().find(|markers| markers.open == pair), tools }
}

fn tools() -> Arc<[Tool]> {
    let tool = |name: &str, parameters| Tool { name: name.to_owned(), parameters };
    Arc::new([
        tool(
            "get_weather",
            json!({"type": "object", "properties": {
                "city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["celsius", "fahrenheit"]},
            }, "required": ["city"]}),
        ),
        tool(
            "search",
            json!({"type": "object", "properties": {
                "query": {"type": "string"}, "exact": {"type": "boolean"}, "tags": {"type": "array"},
                "filter": {"type": "object"}, "score": {"type": "number"}, "near": {"type": ["string", "null"]},
            }}),
        ),
        tool("now", json!({"type": "object", "properties": {}})),
    ])
}

/// What an example is, as the pieces that tell it, neighbours of one kind joined.
#[derive(Debug, Clone)]
struct Example {
    name: String,
    format: Format,
    tools: Arc<[Tool]>,
    opening: Opening,
    text: String,
    answer: Vec<Piece>,
}

fn examples() -> Vec<Example> {
    EXAMPLES
        .iter()
        .flat_map(|(name, list)| {
            let list: Vec<Value> = serde_json::from_str(list).expect("a JSON list");
            list.into_iter().map(|example| parsed(name, &example)).collect::<Vec<_>>()
        })
        .collect()
}

fn parsed(format_name: &str, example: &Value) -> Example {
    let text = |key| example[key].as_str().map(str::to_owned);
    let name = format!("{format_name}: {}", text("name").expect("an example has a name"));
    let mut calls = 0..;
    let answer = example["answer"].as_array().expect("a list of pieces").iter().flat_map(|piece| {
        let text = |key: &str| piece[key].as_str().map(str::to_owned);
        if let Some(name) = text("call") {
            let index = calls.next().expect("endless");
            let begin = Piece::Call(CallPiece::Begin { index, name });
            let arguments = text("arguments").map(|text| Piece::Call(CallPiece::Arguments { index, text }));
            return std::iter::once(begin).chain(arguments).collect::<Vec<_>>();
        }
        text("content").map(Piece::Content).or_else(|| text("reasoning").map(Piece::Reasoning)).into_iter().collect()
    });
    Example {
        answer: answer.collect(),
        format: format(text("markers").as_deref().unwrap_or(format_name)),
        tools: if example["tools"] == json!(false) { Arc::new([]) } else { tools() },
        opening: if example["opening"] == "reasoning" { Opening::Reasoning } else { Opening::Content },
        text: text("text").unwrap_or_else(|| panic!("{name} has no text")),
        name,
    }
}

/// The pieces of a text that comes in `parts`.
fn pieces<'a>(example: &Example, parts: impl IntoIterator<Item = &'a str>) -> Vec<Piece> {
    let mut channel = Channel::new(example.format, example.tools.clone(), example.opening);
    let mut pieces: Vec<Piece> = parts.into_iter().flat_map(|part| channel.push(part)).collect();
    pieces.extend(channel.finish());
    joined(pieces)
}

/// Neighbours of one kind as one. No piece is empty, and calls are numbered as they come.
fn joined(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut joined: Vec<Piece> = Vec::new();
    let mut calls = 0;
    for piece in pieces {
        match (joined.last_mut(), &piece) {
            (Some(Piece::Content(last)), Piece::Content(text))
            | (Some(Piece::Reasoning(last)), Piece::Reasoning(text)) => {
                last.push_str(text);
            }
            (
                Some(Piece::Call(CallPiece::Arguments { index: last_index, text: last })),
                Piece::Call(CallPiece::Arguments { index, text }),
            ) => {
                assert_eq!(last_index, index);
                last.push_str(text);
            }
            _ => joined.push(piece.clone()),
        }
        match &piece {
            Piece::Content(text) | Piece::Reasoning(text) => assert!(!text.is_empty()),
            Piece::Call(CallPiece::Begin { index, .. }) => {
                assert_eq!(*index, calls);
                calls += 1;
            }
            Piece::Call(CallPiece::Arguments { index, text }) => assert!(index + 1 == calls && !text.is_empty()),
        }
    }
    joined
}

fn cuts(text: &str) -> impl Iterator<Item = usize> + Clone {
    (0..=text.len()).filter(|&at| text.is_char_boundary(at))
}

#[test]
fn every_example_is_what_it_says() {
    for example in examples() {
        assert_eq!(pieces(&example, [example.text.as_str()]), example.answer, "{}\n{}", example.name, example.text);
    }
}

#[test]
fn there_are_twenty_examples_of_each_format() {
    for (name, list) in &EXAMPLES {
        let list: Vec<Value> = serde_json::from_str(list).expect("a JSON list");
        assert!(list.len() >= 20, "{name} has {}", list.len());
    }
}

#[test]
fn an_example_is_the_same_wherever_it_is_cut() {
    for example in examples() {
        let text = example.text.as_str();
        for at in cuts(text) {
            assert_eq!(pieces(&example, [&text[..at], &text[at..]]), example.answer, "{} cut at {at}", example.name);
        }
        let characters = cuts(text).zip(cuts(text).skip(1)).map(|(from, to)| &text[from..to]);
        assert_eq!(pieces(&example, characters), example.answer, "{} character by character", example.name);
    }
}

#[test]
fn a_short_example_is_the_same_wherever_it_is_cut_twice() {
    for example in examples().iter().filter(|example| example.text.len() <= PAIRS_BYTES_MAX) {
        let text = example.text.as_str();
        for first in cuts(text) {
            for second in cuts(text).filter(|&second| second >= first) {
                let parts = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(pieces(example, parts), example.answer, "{} cut at {first}, {second}", example.name);
            }
        }
    }
}

#[test]
fn an_example_that_breaks_off_anywhere_has_said_the_same_until_then() {
    for example in examples() {
        for at in cuts(&example.text) {
            let mut channel = Channel::new(example.format, example.tools.clone(), example.opening);
            let told = joined(channel.push(&example.text[..at]));
            let more = joined([told.clone(), channel.push(&example.text[at..]), channel.finish()].concat());
            assert_eq!(more, example.answer, "{} told {told:?} at {at}", example.name);
        }
    }
}

#[test]
fn complete_calls_have_arguments_that_are_an_object() {
    for example in examples().iter().filter(|example| !example.name.contains("cut")) {
        for piece in &example.answer {
            let Piece::Call(CallPiece::Arguments { text, .. }) = piece else { continue };
            if !example.name.contains("breaks") {
                assert!(serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object()), "{}", example.name);
            }
        }
    }
}

#[test]
fn without_tools_and_reasoning_a_text_is_content_as_it_came() {
    for example in examples().iter().filter(|example| !example.name.starts_with("harmony")) {
        let plain = Example {
            format: Format { reasoning: None, ..example.format },
            tools: Arc::new([]),
            opening: Opening::Content,
            ..example.clone()
        };
        assert_eq!(pieces(&plain, [plain.text.as_str()]), [Piece::Content(plain.text.clone())], "{}", plain.name);
    }
}

#[test]
fn text_that_can_be_no_marker_goes_out_at_once() {
    for name in ["hermes", "qwen_coder", "mistral", "function_gemma", "gemma4"] {
        let mut channel = Channel::new(format(name), tools(), Opening::Content);
        assert_eq!(channel.push("Hi"), [Piece::Content("Hi".to_owned())], "{name}");
        assert_eq!(channel.push(" <b>"), [Piece::Content(" <b>".to_owned())], "{name}");
    }
}

#[test]
fn a_call_begins_with_its_arguments_and_they_stream() {
    let mut channel = Channel::new(format("hermes"), tools(), Opening::Content);
    assert_eq!(channel.push("<tool_call>\n{\"name\": \"now\", \"arguments\": "), []);
    let begin = Piece::Call(CallPiece::Begin { index: 0, name: "now".to_owned() });
    let arguments = |text: &str| Piece::Call(CallPiece::Arguments { index: 0, text: text.to_owned() });
    assert_eq!(channel.push("{\"a"), [begin, arguments("{\"a")]);
    assert_eq!(channel.push("\": 1"), [arguments("\": 1")]);
    assert_eq!(channel.push("}}\n</tool_call>"), [arguments("}")]);
    assert_eq!(channel.finish(), []);
}

#[test]
fn a_flood_of_beginnings_is_text() {
    for name in ["llama", "hermes", "qwen_coder", "mistral", "function_gemma", "gemma4", "harmony"] {
        for flood in
            ["<", "<tool_call", "<|", "[TOOL_CALLS]", "{\"name\":", "<think", "<function=", "<|channel|>", "\n"]
        {
            let text = flood.repeat((1 << 20) / flood.len());
            let example = Example {
                name: String::new(),
                format: format(name),
                tools: tools(),
                opening: Opening::Content,
                text: String::new(),
                answer: Vec::new(),
            };
            let told =
                pieces(&example, text.as_bytes().chunks(64).map(|part| std::str::from_utf8(part).expect("ASCII")));
            assert!(told.len() <= 1, "{name}: {flood}");
        }
    }
}

/// What formats are made of, and a few words.
const SCRAPS: [&str; 40] = [
    "<think>",
    "</think>",
    "[THINK]",
    "[/THINK]",
    "<tool_call>",
    "</tool_call>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "<function=",
    "</function>",
    "<parameter=",
    "</parameter>",
    "<|channel|>",
    "<|message|>",
    "<|start|>",
    "<|end|>",
    "<|call|>",
    "<|channel>thought",
    "<channel|>",
    "<|tool_call>call:",
    "<tool_call|>",
    "<start_function_call>",
    "<escape>",
    "{\"name\": \"",
    "\"arguments\": ",
    "\"parameters\": ",
    "{\"city\": \"Oslo\"}",
    "get_weather",
    "now",
    "\"",
    "{",
    "}",
    "[",
    "]",
    ",",
    "\n",
    " ",
    "final",
    "analysis to=functions.",
    "\u{e9}",
];

proptest! {
    #[test]
    fn any_scraps_read_the_same_however_they_are_cut(
        scraps in prop::collection::vec(prop::sample::select(SCRAPS.to_vec()), 0..24),
        which in 0..7_usize,
        thinking in any::<bool>(),
        at in any::<prop::sample::Index>(),
    ) {
        let text = scraps.concat();
        let name = EXAMPLES[which].0;
        let example = Example {
            name: String::new(),
            format: format(name),
            tools: tools(),
            opening: if thinking { Opening::Reasoning } else { Opening::Content },
            text: String::new(),
            answer: Vec::new(),
        };
        let whole = pieces(&example, [text.as_str()]);
        let places: Vec<usize> = cuts(&text).collect();
        let at = places[at.index(places.len())];
        prop_assert_eq!(&pieces(&example, [&text[..at], &text[at..]]), &whole);
        let characters = cuts(&text).zip(cuts(&text).skip(1)).map(|(from, to)| &text[from..to]);
        prop_assert_eq!(&pieces(&example, characters), &whole);
    }
}
