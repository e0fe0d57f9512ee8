//! The conversation: each message is checked and brought into the shape that chat templates read. `developer` becomes
//! `system`, text parts become one string, tool-call arguments become the object that they spell. What a template does
//! with it is not known here.

use serde_json::{Map, Value};

use crate::api::error::Invalid;

/// Members of a message that templates may read, besides role and content.
const PASSED_ON: &[&str] = &["name", "tool_calls", "tool_call_id", "reasoning_content"];

/// Checks `messages` and returns them as a template wants them; names of members without effect go to `ignored`.
pub(crate) fn normalise(
    list: Vec<Value>,
    messages_max: usize,
    ignored: &mut Vec<String>,
) -> Result<Vec<Value>, Invalid> {
    if list.is_empty() {
        return Err(Invalid::value("messages", "`messages` must hold at least one message"));
    }
    if list.len() > messages_max {
        let message = format!("`messages` holds {} messages, more than the limit of {messages_max}", list.len());
        return Err(Invalid::value("messages", message));
    }
    list.into_iter().enumerate().map(|(index, message)| one(index, message, ignored)).collect()
}

fn one(index: usize, message: Value, ignored: &mut Vec<String>) -> Result<Value, Invalid> {
    let Value::Object(mut message) = message else {
        return Err(wrong(index, "", "an object with `role` and `content`"));
    };
    message.retain(|_, value| !value.is_null());
    let role = role(index, &mut message)?;
    let mut out = Map::new();
    out.insert("role".to_owned(), Value::from(role));

    let has_calls = message.contains_key("tool_calls");
    let content = match message.shift_remove("content") {
        Some(content) => Value::String(content_text(index, content)?),
        // Templates print what they get: only a message that calls tools may have no content at all.
        None if role == "assistant" && has_calls => Value::Null,
        None => Value::String(String::new()),
    };
    out.insert("content".to_owned(), content);
    if let Some(reasoning) = message.shift_remove("reasoning") {
        message.entry("reasoning_content").or_insert(reasoning);
    }
    for name in PASSED_ON {
        let Some(value) = message.shift_remove(*name) else { continue };
        let value = match *name {
            "tool_calls" => tool_calls(index, value)?,
            _ if value.is_string() => value,
            _ => return Err(wrong(index, name, "a string")),
        };
        out.insert((*name).to_owned(), value);
    }
    for (name, _) in message {
        let name = format!("messages.{name}");
        if !ignored.contains(&name) {
            ignored.push(name);
        }
    }
    Ok(Value::Object(out))
}

fn role(index: usize, message: &mut Map<String, Value>) -> Result<&'static str, Invalid> {
    const EXPECTED: &str = "one of `system`, `developer`, `user`, `assistant`, `tool`";
    match message.shift_remove("role").as_ref().and_then(Value::as_str) {
        Some("system" | "developer") => Ok("system"),
        Some("user") => Ok("user"),
        Some("assistant") => Ok("assistant"),
        Some("tool") => Ok("tool"),
        Some(_) | None => Err(wrong(index, "role", EXPECTED)),
    }
}

/// The text of a string or of a list of text parts; parts are joined by a line break, as comparable servers do.
fn content_text(index: usize, content: Value) -> Result<String, Invalid> {
    let parts = match content {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            return Err(wrong(index, "content", "a string, null or an array of text parts"));
        }
    };
    let mut texts = Vec::with_capacity(parts.len());
    for part in &parts {
        let text = match part.get("type").and_then(Value::as_str) {
            Some("text") => part.get("text").and_then(Value::as_str),
            Some("refusal") => part.get("refusal").and_then(Value::as_str),
            Some(kind) => {
                let shown: String = kind.chars().take(32).collect();
                let path = format!("messages[{index}].content");
                let message = format!("`{path}` holds a part of type {shown:?}; the loaded model reads text only");
                return Err(Invalid::unsupported(&path, message));
            }
            None => None,
        };
        texts.push(text.ok_or_else(|| wrong(index, "content", "a string or an array of parts of type `text`"))?);
    }
    Ok(texts.join("\n"))
}

/// Tool calls of an earlier turn. Their arguments travel as a string of JSON; templates want the object.
fn tool_calls(index: usize, value: Value) -> Result<Value, Invalid> {
    const EXPECTED: &str = "an array of objects with `function.name`";
    let Value::Array(mut calls) = value else { return Err(wrong(index, "tool_calls", EXPECTED)) };
    for call in &mut calls {
        let Some(function) = call.get_mut("function").and_then(Value::as_object_mut) else {
            return Err(wrong(index, "tool_calls", EXPECTED));
        };
        if !function.get("name").is_some_and(Value::is_string) {
            return Err(wrong(index, "tool_calls", EXPECTED));
        }
        let spelled = function.get("arguments").and_then(Value::as_str);
        if let Some(object @ Value::Object(_)) = spelled.and_then(|text| serde_json::from_str(text).ok()) {
            function.insert("arguments".to_owned(), object);
        }
    }
    Ok(Value::Array(calls))
}

fn wrong(index: usize, member: &str, expected: &str) -> Invalid {
    let path = if member.is_empty() { format!("messages[{index}]") } else { format!("messages[{index}].{member}") };
    Invalid::value(&path, format!("`{path}` must be {expected}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_conversation_reaches_the_template_in_one_shape() {
        let given = json!([
            { "role": "developer", "content": "Be brief." },
            { "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }], "x": 1 },
            { "role": "assistant", "content": null, "tool_calls": [
                { "id": "1", "type": "function", "function": { "name": "f", "arguments": "{\"a\":[1]}" } } ] },
            { "role": "tool", "tool_call_id": "1", "content": "2" },
            { "role": "assistant", "content": null }
        ]);
        let Value::Array(list) = given else { unreachable!("written as an array above") };
        let mut ignored = Vec::new();
        let out = normalise(list, 5, &mut ignored).expect("a legal conversation");
        assert_eq!(
            Value::Array(out),
            json!([
                { "role": "system", "content": "Be brief." },
                { "role": "user", "content": "a\nb" },
                { "role": "assistant", "content": null, "tool_calls": [
                    { "id": "1", "type": "function", "function": { "name": "f", "arguments": { "a": [1] } } } ] },
                { "role": "tool", "content": "2", "tool_call_id": "1" },
                { "role": "assistant", "content": "" }
            ])
        );
        assert_eq!(ignored, ["messages.x"]);
    }

    #[test]
    fn a_message_that_cannot_be_read_is_named() {
        let check = |message: Value, param: &str| {
            let error = normalise(vec![json!({ "role": "user", "content": "a" }), message], 2, &mut Vec::new())
                .expect_err("an illegal message");
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        };
        check(json!("hello"), "messages[1]");
        check(json!({ "content": "a" }), "messages[1].role");
        check(json!({ "role": "robot", "content": "a" }), "messages[1].role");
        check(json!({ "role": "user", "content": 1 }), "messages[1].content");
        check(json!({ "role": "user", "content": [{ "type": "image_url" }] }), "messages[1].content");
        check(json!({ "role": "user", "content": [{ "type": "text" }] }), "messages[1].content");
        check(json!({ "role": "user", "content": "a", "name": 1 }), "messages[1].name");
        check(json!({ "role": "assistant", "tool_calls": [{}] }), "messages[1].tool_calls");
    }
}
