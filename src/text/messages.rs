//! Chat messages on their way into a template: one shape whatever the client sent, and the rearrangements that are
//! tried when a template refuses the order they came in. It refuses to know templates: it says what could be tried and
//! not whether it helped.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::text::template::TemplateError;

/// Between messages that become one.
const JOINT: &str = "\n\n";

/// The names that reasoning goes by; the first is what most templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// One message, its fields as templates expect them.
pub(super) type Message = Map<String, Value>;

/// Brings messages into one shape: `developer` is `system`; content is text, absent or null being empty and text parts
/// joined; the arguments of tool calls are objects and not JSON in a string; reasoning goes by each of its names.
pub(super) fn normalised(messages: &[Value]) -> Result<Vec<Message>, TemplateError> {
    messages.iter().enumerate().map(|(index, message)| normalise(index, message)).collect()
}

fn normalise(index: usize, message: &Value) -> Result<Message, TemplateError> {
    let invalid = |reason: &str| TemplateError::Message { index, reason: reason.to_owned() };
    let Value::Object(fields) = message else { return Err(invalid("it is not an object")) };
    let mut fields = fields.clone();
    match fields.get("role").and_then(Value::as_str) {
        Some("developer") => drop(fields.insert("role".to_owned(), "system".into())),
        Some(_) => {}
        None => return Err(invalid("its role is missing or not a string")),
    }
    let content = match fields.get("content") {
        None | Some(Value::Null) => Some(String::new()),
        Some(Value::String(_)) => None,
        Some(Value::Array(parts)) => Some(joined(parts).ok_or_else(|| invalid("it has a part that is not text"))?),
        Some(_) => return Err(invalid("its content is neither text nor a list of parts")),
    };
    if let Some(content) = content {
        fields.insert("content".to_owned(), content.into());
    }
    if let Some(Value::Array(calls)) = fields.get_mut("tool_calls") {
        calls.iter_mut().for_each(open_arguments);
    }
    let reasoning = REASONING.iter().find_map(|name| fields.get(*name).filter(|value| !value.is_null()).cloned());
    if let Some(reasoning) = reasoning {
        fields.entry("thinking").or_insert_with(|| reasoning.clone());
        fields.insert("reasoning_content".to_owned(), reasoning);
    }
    Ok(fields)
}

/// The text of text parts; `None` when a part is something else.
fn joined(parts: &[Value]) -> Option<String> {
    parts.iter().map(|part| if part["type"] == "text" { part["text"].as_str() } else { None }).collect()
}

/// The API carries the arguments of a call as JSON in a string; templates print them as an object.
fn open_arguments(call: &mut Value) {
    let Some(arguments) = call.pointer_mut("/function/arguments") else { return };
    if let Some(Ok(opened @ Value::Object(_))) = arguments.as_str().map(serde_json::from_str) {
        *arguments = opened;
    }
}

/// The same conversation in other arrangements, least changed first, for a template that refuses it as it is: turns of
/// one role merged; system messages gathered in front; the system message put into the first user turn.
pub(super) fn rearranged(messages: &[Message]) -> Vec<Vec<Message>> {
    let gathered = system_first(messages);
    let folded = system_into_user(&gathered);
    let candidates =
        [turns_merged(messages), gathered.clone(), turns_merged(&gathered), folded.clone(), turns_merged(&folded)];
    let mut arrangements: Vec<Vec<Message>> = Vec::new();
    for candidate in candidates {
        if candidate != messages && !arrangements.contains(&candidate) {
            arrangements.push(candidate);
        }
    }
    arrangements
}

fn system_first(messages: &[Message]) -> Vec<Message> {
    let (system, others): (Vec<&Message>, Vec<&Message>) =
        messages.iter().partition(|message| role(message) == "system");
    let Some(first) = system.first() else { return messages.to_vec() };
    let contents: Vec<Cow<'_, str>> = system.iter().map(|message| content(message)).collect();
    let gathered = with_content(first, contents.join(JOINT));
    std::iter::once(gathered).chain(others.into_iter().cloned()).collect()
}

/// Expects [`system_first`] to have been applied.
fn system_into_user(messages: &[Message]) -> Vec<Message> {
    let [system, others @ ..] = messages else { return messages.to_vec() };
    if role(system) != "system" {
        return messages.to_vec();
    }
    let mut others = others.to_vec();
    match others.iter_mut().find(|message| role(message) == "user") {
        Some(user) => {
            let together = format!("{}{JOINT}{}", content(system), content(user));
            *user = with_content(user, together);
        }
        None => {
            let mut user = system.clone();
            user.insert("role".to_owned(), "user".into());
            others.insert(0, user);
        }
    }
    others
}

/// Merges neighbours that only speak: a call or its result stays a message of its own.
fn turns_merged(messages: &[Message]) -> Vec<Message> {
    let speaks = |message: &Message| role(message) != "tool" && !message.contains_key("tool_calls");
    let mut merged: Vec<Message> = Vec::with_capacity(messages.len());
    for message in messages {
        match merged.last_mut() {
            Some(last) if role(last) == role(message) && speaks(last) && speaks(message) => {
                let together = format!("{}{JOINT}{}", content(last), content(message));
                *last = with_content(last, together);
            }
            _ => merged.push(message.clone()),
        }
    }
    merged
}

pub(super) fn with_content(message: &Message, content: String) -> Message {
    let mut message = message.clone();
    message.insert("content".to_owned(), content.into());
    message
}

pub(super) fn role(message: &Message) -> &str {
    message.get("role").and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn content(message: &Message) -> Cow<'_, str> {
    Cow::Borrowed(message.get("content").and_then(Value::as_str).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shaped(messages: Value) -> Value {
        let Value::Array(messages) = messages else { panic!("a list") };
        normalised(&messages).expect("valid messages").into_iter().map(Value::Object).collect()
    }

    /// Roles and contents of each arrangement.
    fn arrangements(messages: &[(&str, &str)]) -> Vec<Vec<(String, String)>> {
        let messages: Vec<Message> = messages
            .iter()
            .map(|(role, content)| {
                Map::from_iter([("role".into(), (*role).into()), ("content".into(), (*content).into())])
            })
            .collect();
        let pair = |message: &Message| (role(message).to_owned(), content(message).into_owned());
        rearranged(&messages).iter().map(|messages| messages.iter().map(pair).collect()).collect()
    }

    fn pairs(messages: &[(&str, &str)]) -> Vec<(String, String)> {
        messages.iter().map(|(role, content)| ((*role).to_owned(), (*content).to_owned())).collect()
    }

    #[test]
    fn messages_come_out_in_one_shape() {
        assert_eq!(
            shaped(json!([
                {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"function": {"name": "f", "arguments": "{\"b\": 1, \"a\": 2}"}},
                    {"function": {"name": "g", "arguments": "not json"}}]},
                {"role": "assistant", "content": "x", "reasoning": "hm"},
            ])),
            json!([
                {"role": "system", "content": "Be brief."},
                {"role": "assistant", "content": "", "tool_calls": [
                    {"function": {"name": "f", "arguments": {"b": 1, "a": 2}}},
                    {"function": {"name": "g", "arguments": "not json"}}]},
                {"role": "assistant", "content": "x", "reasoning": "hm", "thinking": "hm", "reasoning_content": "hm"},
            ])
        );
    }

    #[test]
    fn what_is_no_message_is_named_by_its_place() {
        for bad in [
            json!("hi"),
            json!({"content": "x"}),
            json!({"role": "user", "content": 3}),
            json!({"role": "user", "content": [{"type": "image_url"}]}),
        ] {
            let error = normalised(&[json!({"role": "user", "content": "x"}), bad]).expect_err("refused");
            assert!(error.to_string().starts_with("messages[1]: "), "{error}");
        }
    }

    #[test]
    fn a_late_system_message_moves_to_the_front_and_then_into_the_user_turn() {
        assert_eq!(
            arrangements(&[("system", "S"), ("user", "A"), ("assistant", "B"), ("system", "T"), ("user", "C")]),
            [
                pairs(&[("system", "S\n\nT"), ("user", "A"), ("assistant", "B"), ("user", "C")]),
                pairs(&[("user", "S\n\nT\n\nA"), ("assistant", "B"), ("user", "C")]),
            ]
        );
    }

    #[test]
    fn turns_of_one_role_become_one() {
        assert_eq!(arrangements(&[("user", "A"), ("user", "B")]), [pairs(&[("user", "A\n\nB")])]);
        assert_eq!(arrangements(&[("user", "A"), ("assistant", "B")]), Vec::<Vec<_>>::new());
    }
}
