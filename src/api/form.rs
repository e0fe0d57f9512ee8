//! What an answer must look like, in the fields of OpenAI (`response_format`) and of vLLM (`structured_outputs`, or its
//! members by themselves). One of them may say so. Schemas and grammars are not looked into here.

use serde_json::Value;

use crate::api::error::Invalid;
use crate::api::fields::Fields;

/// What an answer must look like, and who said so.
#[derive(Debug, Clone, PartialEq)]
pub struct Restriction {
    /// The client's field, for errors.
    pub field: &'static str,
    /// What was asked for.
    pub form: Form,
}

/// The form of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Form {
    /// Any JSON object.
    JsonObject,
    /// JSON that this schema admits.
    JsonSchema(Value),
    /// A text that this regular expression matches as a whole.
    Regex(String),
    /// A text of this Lark grammar.
    Lark(String),
    /// One of these texts.
    Choice(Vec<String>),
}

/// vLLM's names, as members of `structured_outputs` and as fields of their own.
const NAMES: [(&str, &str); 5] = [
    ("json", "structured_outputs.json"),
    ("json_object", "structured_outputs.json_object"),
    ("regex", "structured_outputs.regex"),
    ("grammar", "structured_outputs.grammar"),
    ("choice", "structured_outputs.choice"),
];

/// Reads the restriction, of which there may be one.
pub(crate) fn read(fields: &mut Fields) -> Result<Option<Restriction>, Invalid> {
    let mut found: Vec<Restriction> = response_format(fields)?.into_iter().collect();
    if let Some(members) = fields.object("structured_outputs")? {
        let mut members = Fields::new(members, "structured_outputs.");
        let before = found.len();
        for (name, path) in NAMES {
            found.extend(member(&mut members, name, path)?);
        }
        let rest = members.rest();
        if let Some(unknown) = rest.first() {
            return Err(Invalid::unsupported(unknown, format!("`{unknown}` is not supported")));
        }
        if found.len() == before {
            let message = "`structured_outputs` must hold one of `json`, `json_object`, `regex`, `grammar`, `choice`";
            return Err(Invalid::value("structured_outputs", message));
        }
    }
    for name in ["regex", "grammar", "choice"] {
        found.extend(member(fields, name, name)?);
    }
    if let [first, second, ..] = found.as_slice() {
        let message = format!("`{}` and `{}` cannot be combined: send one of them", first.field, second.field);
        return Err(Invalid::value(second.field, message));
    }
    Ok(found.pop())
}

fn response_format(fields: &mut Fields) -> Result<Option<Restriction>, Invalid> {
    const FIELD: &str = "response_format";
    let Some(format) = fields.object(FIELD)? else { return Ok(None) };
    let mut format = Fields::new(format, "response_format.");
    match format.text("type")?.as_deref() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Restriction { field: FIELD, form: Form::JsonObject })),
        Some("json_schema") => {
            let named = format.object("json_schema")?.unwrap_or_default();
            let schema = Fields::new(named, "response_format.json_schema.").take("schema");
            let Some(schema @ Value::Object(_)) = schema else {
                let path = "response_format.json_schema.schema";
                return Err(Invalid::value(path, format!("`{path}` must be a JSON schema, which is an object")));
            };
            Ok(Some(Restriction { field: FIELD, form: Form::JsonSchema(schema) }))
        }
        Some(_) | None => Err(Invalid::value(
            "response_format.type",
            "`response_format.type` must be one of `text`, `json_object`, `json_schema`",
        )),
    }
}

/// One of vLLM's members under the path that the client wrote.
fn member(fields: &mut Fields, name: &str, path: &'static str) -> Result<Option<Restriction>, Invalid> {
    let form = match name {
        "json" => match fields.take(name) {
            None => None,
            Some(schema @ Value::Object(_)) => Some(Form::JsonSchema(schema)),
            Some(_) => return Err(Invalid::value(path, format!("`{path}` must be a JSON schema, which is an object"))),
        },
        "json_object" => fields.flag(name)?.filter(|wanted| *wanted).map(|_| Form::JsonObject),
        "regex" => fields.text(name)?.map(Form::Regex),
        "grammar" => fields.text(name)?.map(Form::Lark),
        _ => fields.list(name)?.map(|texts| choice(path, texts)).transpose()?,
    };
    Ok(form.map(|form| Restriction { field: path, form }))
}

fn choice(path: &str, texts: Vec<Value>) -> Result<Form, Invalid> {
    let wrong = || Invalid::value(path, format!("`{path}` must be an array of one text or more"));
    let texts: Option<Vec<String>> = texts.into_iter().map(|text| text.as_str().map(str::to_owned)).collect();
    texts.filter(|texts| !texts.is_empty()).map(Form::Choice).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn given(body: Value) -> Result<Option<Restriction>, Invalid> {
        let Value::Object(map) = body else { panic!("a body is an object") };
        read(&mut Fields::new(map, ""))
    }

    #[test]
    fn each_way_of_asking_for_a_form_is_read() {
        let check = |body: Value, field: &'static str, form: Form| {
            assert_eq!(given(body), Ok(Some(Restriction { field, form })));
        };
        let schema = json!({ "type": "object" });
        check(json!({ "response_format": { "type": "json_object" } }), "response_format", Form::JsonObject);
        let named = json!({ "name": "a", "strict": true, "schema": schema.clone() });
        let body = json!({ "response_format": { "type": "json_schema", "json_schema": named } });
        check(body, "response_format", Form::JsonSchema(schema.clone()));
        let body = json!({ "structured_outputs": { "json": schema.clone() } });
        check(body, "structured_outputs.json", Form::JsonSchema(schema));
        let body = json!({ "structured_outputs": { "json_object": true } });
        check(body, "structured_outputs.json_object", Form::JsonObject);
        check(json!({ "regex": "a+" }), "regex", Form::Regex("a+".to_owned()));
        check(json!({ "grammar": "start: \"a\"" }), "grammar", Form::Lark("start: \"a\"".to_owned()));
        let texts = vec!["a".to_owned(), "b".to_owned()];
        check(json!({ "choice": ["a", "b"] }), "choice", Form::Choice(texts));
        assert_eq!(given(json!({ "response_format": { "type": "text" } })), Ok(None));
    }

    #[test]
    fn a_form_that_cannot_be_read_is_named() {
        let check = |body: Value, param: &str| {
            let error = given(body).expect_err("an illegal form");
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        };
        check(json!({ "response_format": { "type": "xml" } }), "response_format.type");
        check(json!({ "response_format": { "type": "json_schema" } }), "response_format.json_schema.schema");
        check(json!({ "structured_outputs": {} }), "structured_outputs");
        check(json!({ "structured_outputs": { "json": 1 } }), "structured_outputs.json");
        check(json!({ "structured_outputs": { "backend": "x", "regex": "a" } }), "structured_outputs.backend");
        check(json!({ "choice": [] }), "choice");
        check(json!({ "choice": [1] }), "choice");
        check(json!({ "regex": "a", "choice": ["a"] }), "choice");
    }
}
