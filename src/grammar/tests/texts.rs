//! Regular expressions, Lark grammars, choices and shapes: what they allow and what not.

use serde_json::json;

use super::{accepts, compiled, follow, message, walk};
use crate::grammar::Wanted;
use crate::text::shape::Shape;

fn literal(text: &str) -> Shape {
    Shape::Literal(text.to_owned())
}

/// Each of the first is a whole text of it, each of the second can never become one.
fn check(wanted: Wanted, whole: &[&str], never: &[&str]) {
    let grammar = compiled(wanted.clone());
    for text in whole {
        assert_eq!(follow(&grammar, text), Ok(true), "{wanted:?} {text:?}");
    }
    for text in never {
        assert!(!accepts(&grammar, text), "{wanted:?} {text:?}");
    }
}

#[test]
fn a_regular_expression_matches_the_whole_answer() {
    let regex = |text: &str| Wanted::Regex(text.to_owned());
    check(regex("[a-c]+"), &["a", "cab"], &["", "d", "abd", " a"]);
    check(regex("a*"), &["", "aaa"], &["b"]);
    check(regex(""), &[""], &["a"]);
    check(regex("a/b|\"c\"|\\\\"), &["a/b", "\"c\"", "\\"], &["a", "c", "\\\\"]);
    check(regex("\u{e9}{2}|[\u{1f600}-\u{1f602}]"), &["\u{e9}\u{e9}", "\u{1f600}"], &["\u{e9}", "\u{1f603}"]);
    check(regex("."), &["\u{e9}", "\u{1f600}", "x"], &["\n", "xx"]);
    check(regex("\\d{3}-\\d{4}"), &["123-4567"], &["123-456", "1234567"]);
    check(regex("(a|ab)(c|bcd)"), &["ac", "abc", "abcd", "abbcd"], &["ab", "abcdd"]);
    check(regex("^abc$"), &["abc"], &["ab", "abcc"]);
}

#[test]
fn a_regular_expression_that_is_none_is_refused_with_the_reason() {
    let cases = [
        ("(a", "the regular expression is not valid: unclosed group"),
        ("a{2,1}", "invalid repetition"),
        ("(?=a)b", "look-around"),
        ("(a)\\1", "backreferences"),
        ("a\\", "ends with a backslash"),
        ("a\\\\\\", "ends with a backslash"),
        ("[^\\s\\S]", "allows no token"),
    ];
    for (regex, words) in cases {
        let message = message(Wanted::Regex(regex.to_owned()));
        assert!(message.contains(words), "{regex}: {message}");
    }
}

#[test]
fn a_lark_grammar_nests() {
    let source =
        "start: list\nlist: \"[\" (item (\",\" item)*)? \"]\"\nitem: NUMBER | list\nNUMBER: /[0-9]+/\n%ignore / /";
    check(Wanted::Lark(source.to_owned()), &["[]", "[1,[2, 33],[]]"], &["[", "[1,]", "[[1]"]);
}

#[test]
fn a_lark_grammar_that_is_none_is_refused_with_the_reason() {
    let cases = [
        ("", "no start rule"),
        ("start: (", "Expected"),
        ("start: missing", "unknown name"),
        ("start: \"a\" start", ""),
        ("start: start", "allows no token"),
        ("start: @other", ""),
    ];
    for (source, words) in cases {
        if source == "start: \"a\" start" {
            // It never ends, and every answer has another limit.
            assert_eq!(follow(&compiled(Wanted::Lark(source.to_owned())), "aaaa"), Ok(false));
            continue;
        }
        let message = message(Wanted::Lark(source.to_owned()));
        assert!(message.contains(words), "{source}: {message}");
    }
}

#[test]
fn a_choice_is_one_of_its_texts() {
    let texts = ["yes", "yes please", "no", "\u{e9}\u{1f600}", "a\"b\\c\n\u{7f}", "</think>"];
    let wanted = || Wanted::Choice(texts.iter().map(ToString::to_string).collect());
    check(wanted(), &texts, &["", "y", "yes p", "maybe", "yes please!"]);
    let grammar = compiled(wanted());
    for seed in 0..50 {
        let text = walk(&grammar, seed).expect("choices are short").expect("nothing fails");
        assert!(texts.contains(&text.as_str()), "seed {seed}: {text:?}");
    }
    check(Wanted::Choice(vec![String::new(), "a".to_owned()]), &["", "a"], &["b"]);
    assert_eq!(message(Wanted::Choice(Vec::new())), "the list of choices is not valid: it is empty");
    assert!(message(Wanted::Choice(vec!["x".repeat(70_000)])).contains("the limit is 65536"));
}

#[test]
fn a_shape_without_json_is_exact_even_where_alternatives_begin_alike() {
    let shape = Shape::Sequence(vec![
        Shape::Choice(vec![literal("a"), literal("ab")]),
        Shape::Choice(vec![literal("c"), literal("bcd")]),
    ]);
    check(Wanted::Shape(shape), &["ac", "abc", "abcd", "abbcd"], &["ab", "abcdd"]);
}

#[test]
fn until_ends_with_the_first_occurrence() {
    let wanted = |text: &str| Wanted::Shape(Shape::Until(text.to_owned()));
    check(wanted("</t>"), &["</t>", "a\n<</t>", "\u{e9}</ t></t>"], &["", "a", "</t>a", "</t></t>"]);
    check(wanted("aa"), &["aa", "baa"], &["aaa", "baaa"]);
    check(wanted("aab"), &["aab", "aaab"], &["aabaab"]);
    check(wanted(""), &[""], &["a"]);
}

#[test]
fn a_repetition_counts_and_separates() {
    let repeat = |min, max, separator: &str| {
        let item = Box::new(literal("ab"));
        Wanted::Shape(Shape::Repeat { item, separator: separator.to_owned(), min, max })
    };
    check(repeat(0, None, ","), &["", "ab", "ab,ab,ab"], &["abab", "ab,", ","]);
    check(repeat(2, Some(3), ""), &["abab", "ababab"], &["ab", "abababab"]);
    check(repeat(1, Some(1), ","), &["ab"], &["", "ab,ab"]);
    check(repeat(0, Some(1), ","), &["", "ab"], &["ab,ab"]);
    check(repeat(0, Some(0), ","), &[""], &["ab"]);
    check(repeat(3, Some(3), "\n"), &["ab\nab\nab"], &["ab\nab"]);
}

/// A call in the manner of Hermes: JSON between tags, one for each tool.
fn calls() -> Shape {
    let call = |name: &str, arguments| {
        Shape::Sequence(vec![
            literal(&format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": ")),
            Shape::Json(arguments),
            literal("}\n</tool_call>"),
        ])
    };
    let number = json!({"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": false});
    let any = json!({"type": "object", "additionalProperties": false});
    let item = Box::new(Shape::Choice(vec![call("get", number), call("get_all", any)]));
    Shape::Repeat { item, separator: "\n".to_owned(), min: 1, max: Some(2) }
}

#[test]
fn a_tool_call_has_json_where_json_belongs() {
    let first = "<tool_call>\n{\"name\": \"get\", \"arguments\": {\"x\": 12}}\n</tool_call>";
    let second = "<tool_call>\n{\"name\": \"get_all\", \"arguments\": {}}\n</tool_call>";
    let both = format!("{first}\n{second}");
    let three = format!("{both}\n{second}");
    let mixed = first.replace("\"get\"", "\"get_all\"");
    let never = [three.as_str(), &mixed, &first[..first.len() - 1], "<tool_call>\n{\"name\": \"other"];
    check(Wanted::Shape(calls()), &[first, second, &both], &never);
    let spaced = first.replace("{\"x\": 12}", "{\n  \"x\": 12\n}");
    check(Wanted::Shape(calls()), &[&spaced], &[]);
}

#[test]
fn a_walk_through_a_tool_call_ends_in_one() {
    let grammar = compiled(Wanted::Shape(calls()));
    for seed in 0..20 {
        let text = walk(&grammar, seed).expect("calls end").expect("nothing fails");
        for call in text.split("</tool_call>").filter(|call| !call.is_empty()) {
            let json = call.trim().strip_prefix("<tool_call>").expect("the tag");
            let call: serde_json::Value = serde_json::from_str(json).expect("JSON between the tags");
            assert!(call["name"] == "get_all" || call["arguments"]["x"].is_number(), "seed {seed}: {text}");
        }
    }
}

#[test]
fn a_schema_within_a_shape_is_named_when_it_is_not_supported() {
    let shape = Shape::Sequence(vec![literal("a"), Shape::Json(json!({"items": {"not": {}}}))]);
    assert_eq!(message(Wanted::Shape(shape)), "`not` at #/items is not supported");
}
