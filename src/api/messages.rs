//! The conversation: every message is checked here, so that a mistake is named in the client's own words. What a template
//! makes of roles, parts and calls is not known here; messages are passed on as they came, without what has no effect.

use serde_json::{Map, Value};

use crate::api::error::Invalid;

/// Members of a message that templates may read, besides role and content.
const PASSED_ON: &[&str] = &["name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking"];

/// Checks `messages`; names of members without effect go to `ignored`.
pub(crate) fn check(list: Vec<Value>, messages_max: usize, ignored: &mut Vec<String>) -> Result<Vec<Value>, Invalid> {
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
    let Value::Object(message) = message else {
        return Err(wrong(index, "", "an object with `role` and `content`"));
    };
    check_role(index, message.get("role"))?;
    let mut passed = Map::new();
    for (name, value) in message.into_iter().filter(|(_, value)| !value.is_null()) {
        match name.as_str() {
            "role" => {}
            "content" => check_content(index, &value)?,
            "tool_calls" => check_tool_calls(index, &value)?,
            known if PASSED_ON.contains(&known) => {
                if !value.is_string() {
                    return Err(wrong(index, known, "a string"));
                }
            }
            _ => {
                let name = format!("messages.{name}");
                if !ignored.contains(&name) {
                    ignored.push(name);
                }
                continue;
            }
        }
        passed.insert(name, value);
    }
    Ok(Value::Object(passed))
}

fn check_role(index: usize, role: Option<&Value>) -> Result<(), Invalid> {
    match role.and_then(Value::as_str) {
        Some("system" | "developer" | "user" | "assistant" | "tool") => Ok(()),
        Some(_) | None => Err(wrong(index, "role", "one of `system`, `developer`, `user`, `assistant`, `tool`")),
    }
}

/// A string, or a list of parts of which each is text.
fn check_content(index: usize, content: &Value) -> Result<(), Invalid> {
    let parts = match content {
        Value::String(_) => return Ok(()),
        Value::Array(parts) => parts,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            return Err(wrong(index, "content", "a string, null or an array of text parts"));
        }
    };
    for part in parts {
        match (part.get("type").and_then(Value::as_str), part.get("text")) {
            (Some("text"), Some(Value::String(_))) => {}
            (Some(kind), _) if kind != "text" => {
                let shown: String = kind.chars().take(32).collect();
                let path = format!("messages[{index}].content");
                let message = format!("`{path}` holds a part of type {shown:?}; the loaded model reads text only");
                return Err(Invalid::unsupported(&path, message));
            }
            (_, _) => return Err(wrong(index, "content", "a string or an array of parts with `type` and `text`")),
        }
    }
    Ok(())
}

/// Tool calls of an earlier turn.
fn check_tool_calls(index: usize, calls: &Value) -> Result<(), Invalid> {
    let is_call = |call: &Value| call.pointer("/function/name").is_some_and(Value::is_string);
    if calls.as_array().is_some_and(|calls| calls.iter().all(is_call)) {
        return Ok(());
    }
    Err(wrong(index, "tool_calls", "an array of objects with `function.name`"))
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
    fn a_conversation_is_passed_on_as_it_came_without_what_has_no_effect() {
        let given = json!([
            { "role": "developer", "content": "Be brief." },
            { "role": "user", "content": [{ "type": "text", "text": "a" }], "x": 1, "name": "me" },
            { "role": "assistant", "content": null, "tool_calls": [{ "id": "1", "function": { "name": "f" } }] },
            { "role": "tool", "tool_call_id": "1", "content": "2" }
        ]);
        let mut passed = given.clone();
        passed[1].as_object_mut().expect("a message").shift_remove("x");
        passed[2].as_object_mut().expect("a message").shift_remove("content");
        let Value::Array(list) = given else { unreachable!("written as an array above") };
        let mut ignored = Vec::new();
        assert_eq!(check(list, 4, &mut ignored).map(Value::Array), Ok(passed));
        assert_eq!(ignored, ["messages.x"]);
    }

    #[test]
    fn a_message_that_cannot_be_read_is_named() {
        let check = |message: Value, param: &str| {
            let error = super::check(vec![json!({ "role": "user", "content": "a" }), message], 2, &mut Vec::new())
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
