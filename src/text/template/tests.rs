//! Real templates against what `transformers` renders, and the bounds on what a template may do.

use serde_json::{Map, Value, json};
use time::macros::datetime;

use super::*;

/// The folder of templates and their renderings.
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/templates");

fn compiled(source: &str) -> ChatTemplate {
    let tokens = [("bos_token", "<s>".to_owned()), ("eos_token", "</s>".to_owned())];
    ChatTemplate::with_clock(source, tokens, || datetime!(2026-01-02 03:04:05 UTC)).expect("a valid template")
}

fn family(name: &str) -> ChatTemplate {
    let path = format!("{DATA}/{name}.jinja");
    compiled(&std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")))
}

fn render(template: &ChatTemplate, messages: &[(&str, &str)]) -> Result<String, TemplateError> {
    let messages: Vec<Value> =
        messages.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
    template.render(&messages, None, true, &Map::new())
}

#[test]
fn real_templates_render_as_transformers_renders_them() {
    let cases = std::fs::read_to_string(format!("{DATA}/cases.json")).expect("the cases are in the repository");
    let cases: Vec<Value> = serde_json::from_str(&cases).expect("the cases are JSON");
    assert!(cases.len() >= 100, "{} cases", cases.len());
    for case in cases {
        let template = family(case["template"].as_str().expect("a name"));
        let messages = normalised(case["messages"].as_array().expect("messages")).expect("valid messages");
        let given = [("tools", &case["tools"]), ("add_generation_prompt", &case["add_generation_prompt"])];
        let given = given.into_iter().chain([("documents", &Value::Null)]);
        let kwargs = case["kwargs"].as_object().expect("kwargs").iter().map(|(name, value)| (name.as_str(), value));
        let named = template.named_tokens.iter().map(|(name, text)| (name.as_str(), minijinja::Value::from(text)));
        let values = given.chain(kwargs).map(|(name, value)| (name, minijinja::Value::from(Serde(value))));
        let rendered = template.attempt(&messages, &values.chain(named).collect::<Vec<_>>());
        let expected = match case["rendered"].as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(TemplateError::Raised(case["raises"].as_str().expect("a message").to_owned())),
        };
        assert_eq!(rendered, expected, "{} with {}", case["template"], case["case"]);
    }
}

#[test]
fn a_system_message_is_folded_where_the_template_has_none() {
    let rendered = render(&family("gemma2"), &[("system", "S"), ("user", "A"), ("assistant", "B"), ("user", "C")]);
    assert_eq!(
        rendered.as_deref(),
        Ok("<s><start_of_turn>user\nS\n\nA<end_of_turn>\n<start_of_turn>model\nB<end_of_turn>\n\
            <start_of_turn>user\nC<end_of_turn>\n<start_of_turn>model\n")
    );
}

#[test]
fn a_late_system_message_is_gathered_where_the_template_wants_it_first() {
    let rendered =
        render(&family("mistral-tools"), &[("user", "A"), ("assistant", "B"), ("system", "S"), ("user", "C")]);
    assert_eq!(rendered.as_deref(), Ok("<s>[INST] A[/INST] B</s>[INST] S\n\nC[/INST]"));
    let kept = render(&family("qwen2.5"), &[("system", "S"), ("user", "A"), ("system", "T"), ("user", "C")]);
    assert!(kept.is_ok_and(|text| text.contains("<|im_start|>system\nT<|im_end|>")), "kept where it is accepted");
}

#[test]
fn turns_of_one_role_are_merged_only_where_the_template_refuses_them() {
    let turns = [("user", "A"), ("user", "B")];
    assert_eq!(render(&family("mistral"), &turns).as_deref(), Ok("<s>[INST] A\n\nB [/INST]"));
    assert!(render(&family("phi3"), &turns).is_ok_and(|text| text.starts_with("<|user|>\nA<|end|>\n<|user|>\nB")));
}

#[test]
fn a_refusal_that_no_arrangement_mends_is_told_in_the_templates_own_words() {
    let template = compiled("{{ raise_exception('no ' + messages[0].role + 's here') }}");
    let refused = render(&template, &[("system", "S"), ("user", "A")]);
    assert_eq!(refused, Err(TemplateError::Raised("no systems here".to_owned())));
    assert_eq!(refused.map_err(|error| error.to_string()), Err("no systems here".to_owned()));
    let deep = compiled("{% macro m() %}{{ raise_exception('deep') }}{% endmacro %}{{ m() }}");
    assert_eq!(render(&deep, &[("user", "A")]), Err(TemplateError::Raised("deep".to_owned())));
}

#[test]
fn a_template_that_stumbles_says_where() {
    let error = render(&compiled("a\n{{ messages.missing.deeper }}"), &[("user", "A")]).expect_err("it stumbles");
    assert!(matches!(&error, TemplateError::Failed(what) if what.ends_with("(line 2)")), "{error}");
}

#[test]
fn a_template_cannot_run_for_ever() {
    let long = "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = a %}{% endfor %}{% endfor %}";
    assert_eq!(render(&compiled(long), &[("user", "A")]), Err(TemplateError::TooMuchWork));
    let endless = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    assert!(matches!(render(&compiled(endless), &[("user", "A")]), Err(TemplateError::Failed(_))));
}

#[test]
fn a_template_cannot_print_without_end() {
    let doubling = "{% set ns = namespace(t='0123456789abcdef') %}{% for i in range(22) %}\
                    {% set ns.t = ns.t ~ ns.t %}{% endfor %}{{ ns.t }}";
    assert_eq!(render(&compiled(doubling), &[("user", "A")]), Err(TemplateError::TooLong));
}

#[test]
fn a_request_cannot_set_what_the_server_sets() {
    let kwargs = Map::from_iter([("messages".to_owned(), json!([]))]);
    let refused = compiled("").render(&[], None, true, &kwargs);
    assert_eq!(refused, Err(TemplateError::Reserved("messages".to_owned())));
}

#[test]
fn a_source_that_is_no_template_is_refused_when_it_is_loaded() {
    let no_tokens: [(&str, String); 0] = [];
    let error = ChatTemplate::new("{% if %}", no_tokens).expect_err("not a template");
    assert!(matches!(error, TemplateError::Syntax(_)), "{error}");
}
