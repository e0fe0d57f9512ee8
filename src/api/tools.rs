//! Tools that a request offers, and whether a call is required of the answer: `tools`, `tool_choice` and
//! `parallel_tool_calls`. It owns what of a tool must be there and how long its name may be; schemas of arguments are not
//! looked into, because most are never compiled.

use serde_json::{Map, Value, json};

use crate::api::error::Invalid;
use crate::api::fields::Fields;

/// Bytes of a tool's name; OpenAI's own limit is 64 characters, and some gateways prefix a server's name.
const NAME_BYTES_MAX: usize = 128;

/// What a request says of tools.
#[derive(Debug, Clone, PartialEq)]
pub struct Tools {
    /// As they came, one or more; each a function with a name of its own.
    pub list: Vec<Value>,
    /// Whether a call is required.
    pub choice: ToolChoice,
    /// An answer may hold more than one call.
    pub parallel: bool,
}

/// Whether a call is required.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    Auto,
    /// One call or more, of any tools.
    Required,
    /// A call of this tool.
    Named(String),
}

impl Tools {
    /// Each tool's name and the schema of its arguments; a tool without one takes none.
    pub fn functions(&self) -> impl Iterator<Item = (&str, Value)> {
        self.list.iter().map(|tool| {
            let parameters = tool.pointer("/function/parameters").filter(|parameters| !parameters.is_null());
            let none = || json!({ "type": "object", "properties": {}, "additionalProperties": false });
            (name(tool).unwrap_or_default(), parameters.cloned().unwrap_or_else(none))
        })
    }
}

/// Reads the fields. `None` when nothing is offered, or when `tool_choice` is `none`.
pub(crate) fn read(fields: &mut Fields, tools_max: usize) -> Result<Option<Tools>, Invalid> {
    let list = fields.list("tools")?.unwrap_or_default();
    if list.len() > tools_max {
        let message = format!("`tools` holds {} tools, more than the limit of {tools_max}", list.len());
        return Err(Invalid::value("tools", message));
    }
    for (index, tool) in list.iter().enumerate() {
        check(index, tool, &list[..index])?;
    }
    let choice = choice(fields.take("tool_choice"), &list)?;
    if list.is_empty() {
        // What else is said of tools is then without effect, and told so.
        return Ok(None);
    }
    let parallel = fields.flag("parallel_tool_calls")?.unwrap_or(true);
    Ok(choice.map(|choice| Tools { list, choice, parallel }))
}

fn name(tool: &Value) -> Option<&str> {
    tool.pointer("/function/name").and_then(Value::as_str)
}

fn check(index: usize, tool: &Value, earlier: &[Value]) -> Result<(), Invalid> {
    let wrong = |member: &str, expected: &str| {
        let path = format!("tools[{index}]{member}");
        Err(Invalid::value(&path, format!("`{path}` must be {expected}")))
    };
    if tool.get("type").and_then(Value::as_str) != Some("function") {
        return wrong("", "an object with `type: \"function\"` and `function.name`");
    }
    let is_legal = |name: &&str| (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains(char::is_whitespace);
    let Some(named) = name(tool).filter(is_legal) else {
        return wrong(".function.name", &format!("a text of 1 to {NAME_BYTES_MAX} bytes without white space"));
    };
    if earlier.iter().any(|other| name(other) == Some(named)) {
        return wrong(".function.name", "another name than those of the tools before");
    }
    match tool.pointer("/function/parameters") {
        None | Some(Value::Null | Value::Object(_)) => Ok(()),
        Some(_) => wrong(".function.parameters", "a JSON schema, which is an object"),
    }
}

/// `None` is OpenAI's `none`.
fn choice(given: Option<Value>, list: &[Value]) -> Result<Option<ToolChoice>, Invalid> {
    const FIELD: &str = "tool_choice";
    let expected = || {
        let message = "`tool_choice` must be `none`, `auto`, `required` or `{\"type\": \"function\", \"function\": \
                       {\"name\": …}}`";
        Invalid::value(FIELD, message)
    };
    let choice = match given {
        None => return Ok(Some(ToolChoice::Auto)),
        Some(Value::String(word)) => match word.as_str() {
            "none" => return Ok(None),
            "auto" => return Ok(Some(ToolChoice::Auto)),
            "required" => ToolChoice::Required,
            _ => return Err(expected()),
        },
        Some(Value::Object(choice)) => ToolChoice::Named(named(&choice).ok_or_else(expected)?),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_)) => return Err(expected()),
    };
    if list.is_empty() {
        return Err(Invalid::value(FIELD, "`tool_choice` requires a call, and `tools` offers none"));
    }
    match &choice {
        ToolChoice::Named(wanted) if !list.iter().any(|tool| name(tool) == Some(wanted)) => {
            let shown: String = wanted.chars().take(64).collect();
            Err(Invalid::value(FIELD, format!("`tool_choice` names {shown:?}, which is not among `tools`")))
        }
        ToolChoice::Named(_) | ToolChoice::Required | ToolChoice::Auto => Ok(Some(choice)),
    }
}

fn named(choice: &Map<String, Value>) -> Option<String> {
    let is_function = choice.get("type").and_then(Value::as_str) == Some("function");
    let name = choice.get("function").and_then(|function| function.get("name")).and_then(Value::as_str);
    name.filter(|_| is_function).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(body: Value) -> Result<Option<Tools>, Invalid> {
        let Value::Object(map) = body else { panic!("a body is an object") };
        read(&mut Fields::new(map, ""), 3)
    }

    fn tool(name: &str) -> Value {
        json!({ "type": "function", "function": { "name": name } })
    }

    #[test]
    fn each_way_of_choosing_is_read() {
        let check = |choice: Value, expected: Option<ToolChoice>| {
            let tools = given(json!({ "tools": [tool("f")], "tool_choice": choice })).expect("legal tools");
            assert_eq!(tools.map(|tools| tools.choice), expected);
        };
        check(Value::Null, Some(ToolChoice::Auto));
        check(json!("auto"), Some(ToolChoice::Auto));
        check(json!("none"), None);
        check(json!("required"), Some(ToolChoice::Required));
        check(tool("f"), Some(ToolChoice::Named("f".to_owned())));
        assert_eq!(given(json!({ "tools": [], "tool_choice": "auto" })), Ok(None));
        let single = given(json!({ "tools": [tool("f")], "parallel_tool_calls": false })).expect("legal tools");
        assert!(single.is_some_and(|tools| !tools.parallel));
    }

    #[test]
    fn a_tool_without_parameters_takes_none() {
        let schema = json!({ "type": "object", "properties": { "a": {} } });
        let with = json!({ "type": "function", "function": { "name": "g", "parameters": schema } });
        let tools = given(json!({ "tools": [tool("f"), with] })).expect("legal tools").expect("some");
        let none = json!({ "type": "object", "properties": {}, "additionalProperties": false });
        assert_eq!(tools.functions().collect::<Vec<_>>(), [("f", none), ("g", schema)]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let check = |body: Value, param: &str| {
            let error = given(body).expect_err("illegal tools");
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        };
        check(json!({ "tools": [{ "type": "retrieval" }] }), "tools[0]");
        check(json!({ "tools": [tool("f"), tool("f")] }), "tools[1].function.name");
        check(json!({ "tools": [tool("")] }), "tools[0].function.name");
        check(json!({ "tools": [tool("a b")] }), "tools[0].function.name");
        let mut scalar = tool("f");
        scalar["function"]["parameters"] = json!(1);
        check(json!({ "tools": [scalar] }), "tools[0].function.parameters");
        check(json!({ "tools": vec![tool("f"); 4] }), "tools");
        check(json!({ "tool_choice": "required" }), "tool_choice");
        check(json!({ "tools": [tool("f")], "tool_choice": tool("g") }), "tool_choice");
        check(json!({ "tools": [tool("f")], "tool_choice": "any" }), "tool_choice");
        check(json!({ "tools": [tool("f")], "tool_choice": { "type": "allowed_tools" } }), "tool_choice");
    }
}
