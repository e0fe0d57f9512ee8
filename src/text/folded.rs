//! Tools for models whose chat template knows none: what is offered goes into the system message, and earlier calls and
//! their results into the turns, in the words of [`Hermes`](crate::text::tools::ToolFormat::Hermes), which its parser
//! reads back. It refuses to know whether a model was trained on any of it.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::text::messages::{Message, content, role, with_content};
use crate::text::tools::hermes;

/// Between what is joined in one message.
const JOINT: &str = "\n\n";

/// The same conversation without tools in it, other than as text.
pub(super) fn folded(messages: Vec<Message>, tools: &[Value]) -> Vec<Message> {
    let mut told: Vec<Message> = Vec::with_capacity(messages.len() + 1);
    for message in messages {
        match (role(&message), told.last_mut()) {
            // Results of calls that were made together come back together.
            ("tool", Some(last)) if last.contains_key("results") => {
                let together = format!("{}\n{}", content(last), result(&message));
                *last = with_content(last, together);
            }
            ("tool", _) => {
                let fields = [("role", "user".into()), ("content", result(&message).into()), ("results", true.into())];
                told.push(Map::from_iter(fields.map(|(name, value): (_, Value)| (name.to_owned(), value))));
            }
            (_, _) => told.push(with_calls(message)),
        }
    }
    told.iter_mut().for_each(|message| drop(message.shift_remove("results")));
    if !tools.is_empty() {
        offer(&mut told, tools);
    }
    told
}

/// Puts what is offered into the system message, which stands first.
fn offer(messages: &mut Vec<Message>, tools: &[Value]) {
    let list: Vec<String> = tools.iter().map(|tool| tool.get("function").unwrap_or(tool).to_string()).collect();
    let text = format!(
        "You can call these functions, each described by a line of JSON:\n<tools>\n{}\n</tools>\n\
         To call one, answer with its name and its arguments in exactly this form, once for each call:\n\
         {}\n{{\"name\": \"…\", \"arguments\": {{…}}}}\n{}\n\
         What it returns comes back between <tool_response> and </tool_response>.",
        list.join("\n"),
        hermes::OPEN,
        hermes::CLOSE,
    );
    match messages.first_mut().filter(|first| role(first) == "system") {
        Some(first) => {
            let together = format!("{}{JOINT}{text}", content(first));
            *first = with_content(first, together);
        }
        None => {
            let fields = [("role", "system".into()), ("content", text.into())];
            messages.insert(0, Map::from_iter(fields.map(|(name, value): (_, Value)| (name.to_owned(), value))));
        }
    }
}

/// A turn with its calls as text.
fn with_calls(mut message: Message) -> Message {
    let Some(Value::Array(calls)) = message.shift_remove("tool_calls") else { return message };
    let said = content(&message);
    let calls = calls.iter().map(|call| {
        let function = &call["function"];
        let call = json!({"name": function["name"], "arguments": function["arguments"]});
        Cow::from(format!("{}\n{call}\n{}", hermes::OPEN, hermes::CLOSE))
    });
    let said = Some(said).filter(|said| !said.is_empty());
    let parts: Vec<Cow<'_, str>> = said.into_iter().chain(calls).collect();
    let together = parts.join("\n");
    with_content(&message, together)
}

fn result(message: &Message) -> String {
    format!("<tool_response>\n{}\n</tool_response>", content(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::messages::normalised;

    fn fold(messages: &Value, tools: &[Value]) -> Vec<(String, String)> {
        let messages = normalised(messages.as_array().expect("a list")).expect("valid messages");
        folded(messages, tools)
            .iter()
            .map(|message| {
                assert_eq!(message.len(), 2, "{message:?}");
                (role(message).to_owned(), content(message).into_owned())
            })
            .collect()
    }

    #[test]
    fn what_is_offered_stands_in_the_system_message() {
        let tools = [json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}})];
        let messages = fold(&json!([{"role": "system", "content": "S"}, {"role": "user", "content": "A"}]), &tools);
        let (role, text) = &messages[0];
        assert_eq!((role.as_str(), messages.len()), ("system", 2));
        assert!(text.starts_with("S\n\nYou can call"), "{text}");
        assert!(text.contains("<tools>\n{\"name\":\"f\",\"parameters\":{\"type\":\"object\"}}\n</tools>"), "{text}");
        let messages = fold(&json!([{"role": "user", "content": "A"}]), &tools);
        assert_eq!((messages[0].0.as_str(), messages[1].1.as_str()), ("system", "A"));
    }

    #[test]
    fn calls_and_their_results_are_turns_of_text() {
        let call = |name: &str| json!({"id": "1", "function": {"name": name, "arguments": "{\"a\": 1}"}});
        let messages = fold(
            &json!([
                {"role": "user", "content": "A"},
                {"role": "assistant", "content": null, "tool_calls": [call("f"), call("g")]},
                {"role": "tool", "tool_call_id": "1", "content": "x"},
                {"role": "tool", "tool_call_id": "2", "content": "y"},
                {"role": "assistant", "content": "B", "tool_calls": [call("f")]},
                {"role": "user", "content": "C"},
            ]),
            &[],
        );
        let called =
            |name: &str| format!("<tool_call>\n{{\"name\":\"{name}\",\"arguments\":{{\"a\":1}}}}\n</tool_call>");
        let turn = |role: &str, text: String| (role.to_owned(), text);
        let results = "<tool_response>\nx\n</tool_response>\n<tool_response>\ny\n</tool_response>";
        let expected = [
            turn("user", "A".to_owned()),
            turn("assistant", format!("{}\n{}", called("f"), called("g"))),
            turn("user", results.to_owned()),
            turn("assistant", format!("B\n{}", called("f"))),
            turn("user", "C".to_owned()),
        ];
        assert_eq!(messages, expected);
    }
}
