//! What it costs to keep an answer to a JSON schema: the decode rate of restricted streams beside that of free ones.

use serde_json::{Value, json};

use crate::blocks::Blocks;
use crate::effort::Effort;
use crate::report::Row;
use crate::served::{self, Served};
use crate::words::Words;
use crate::{site, stream};

/// Streams at once.
const WIDTHS: [(usize, &str); 2] = [(1, "JSON at 1"), (8, "JSON at 8")];
/// Sizes of each.
const PROMPT_TOKENS: usize = 64;
const TOKENS: u32 = 128;
/// Restricted by free.
const SHARE_MIN: f64 = 0.9;

/// Tokens a second.
struct Block {
    free: f64,
    restricted: f64,
}

pub fn rows(effort: Effort) -> Vec<Row> {
    let server = Served::start(["--prefix-cache-mb", "0"]);
    let words = Words::new(site::text());
    let row = |(width, id): (usize, &'static str)| {
        let blocks = Blocks::measure(id, effort, &[server.process()], || block(&server, &words, width));
        let share = blocks.middle(|block| block.restricted / block.free);
        let free = blocks.middle(|block| block.free).of_all;
        Row {
            id,
            what: format!("tokens/s kept to a JSON schema ÷ free, {width} streams, A-B-B-A"),
            measured: format!("{}; free {free:.0}/s", share.told()),
            target: "≥ 0.9",
            met: share.judged(|share| share >= SHARE_MIN),
            figures: json!({"share": share.figures(), "free_per_second": free}),
        }
    };
    WIDTHS.map(row).into()
}

/// Free, restricted, restricted, free.
fn block(server: &Served, words: &Words, width: usize) -> Block {
    let conversations: Vec<_> = (0..width).map(|_| words.unique(PROMPT_TOKENS)).collect();
    let rate = |form: &Value| {
        let body = |messages: &Vec<Value>| {
            let mut body = stream::conversation(messages, TOKENS);
            if !form.is_null() {
                // A form ends where it is complete, so that no one may ask for more; this one is never complete.
                body["ignore_eos"] = false.into();
                body["response_format"] = form.clone();
            }
            body.to_string()
        };
        let streams = server.ask_all(&conversations.iter().map(body).collect::<Vec<_>>());
        for stream in &streams {
            assert_eq!(stream.usage()[2], u64::from(TOKENS), "the answer goes on for as long as it is asked to");
            assert!(
                form.is_null() || stream.text().starts_with('['),
                "the answer is kept to the form: {}",
                stream.text()
            );
        }
        served::rate(&streams, TOKENS)
    };
    let (none, schema) = (Value::Null, schema());
    let first = rate(&none);
    let restricted = f64::midpoint(rate(&schema), rate(&schema));
    Block { free: f64::midpoint(first, rate(&none)), restricted }
}

/// A list too long for the answer: strings, numbers and a choice, so that masks of every kind are needed.
fn schema() -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "people", "strict": true, "schema": {
        "type": "array", "minItems": 64, "items": {
            "type": "object", "additionalProperties": false, "required": ["name", "age", "role"],
            "properties": {
                "name": {"type": "string", "maxLength": 24}, "age": {"type": "integer"},
                "role": {"enum": ["reader", "writer", "owner"]},
            },
        },
    }}})
}
