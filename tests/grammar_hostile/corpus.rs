//! The hostile grammars, by what they are made to cost, and what becomes of each.

use std::fmt::Write;

use sanctum_mlx::grammar::Wanted;
use serde_json::{Map, Value, json};

use Fate::{Compiles, Refused};

/// A grammar with a name.
pub type Case = (&'static str, Wanted, Fate);

/// What becomes of a grammar when it has all the time it wants.
#[derive(Debug, Clone, Copy)]
pub enum Fate {
    /// It is refused, in these words.
    Refused(&'static str),
    /// It compiles. Whether in time is a matter of the machine.
    Compiles,
}

/// All of them.
pub fn all() -> Vec<Case> {
    [regexes(), wide_schemas(), deep_schemas(), circles(), counts(), grammars(), choices()].concat()
}

fn schema(value: Value) -> Wanted {
    Wanted::JsonSchema(value)
}

fn regex(text: impl Into<String>) -> Wanted {
    Wanted::Regex(text.into())
}

fn lark(text: impl Into<String>) -> Wanted {
    Wanted::Lark(text.into())
}

/// An object of as many members, each named and made by its number.
fn members(count: usize, name: impl Fn(usize) -> String, value: impl Fn(usize) -> Value) -> Map<String, Value> {
    (0..count).map(|index| (name(index), value(index))).collect()
}

fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).fold(String::new(), |mut text, index| {
        writeln!(text, "{}", line(index)).expect("a string takes all");
        text
    })
}

/// Names of regular expressions, and what becomes of them.
fn regexes() -> Vec<Case> {
    let one_of_two = |count: usize| format!("(a|b)*a(a|b){{{count}}}");
    vec![
        ("nested quantifiers", regex("(a{1,1000}){1,1000}"), Compiles),
        ("three of them", regex("((a{1,1000}){1,1000}){1,1000}"), Compiles),
        ("nested classes", regex("([a-z]{1,1000}[0-9]{1,1000}){1,1000}"), Compiles),
        ("a long dot", regex("(?s:.{1,100000})"), Compiles),
        ("the largest count", regex("a{4294967295}"), Compiles),
        ("Unicode classes", regex("\\w{1,1000}\\W{1,1000}"), Compiles),
        ("an automaton of 2^1000 states", regex(one_of_two(1000)), Compiles),
        ("the same in Unicode", regex("(\\w|b)*a(\\w|b){100}"), Compiles),
        ("many such", regex((0..150).map(|index| one_of_two(index + 10)).collect::<Vec<_>>().join("|")), Compiles),
        ("optional letters", regex("a?".repeat(2000)), Refused("units of lexer fuel")),
        (
            "optional and required",
            regex(format!("{}{}", "a?".repeat(1000), "a".repeat(1000))),
            Refused("units of lexer fuel"),
        ),
        ("case folded", regex(format!("(?i){}", "\\p{L}".repeat(800))), Compiles),
        ("alternating dots", regex(".*a".repeat(1300)), Compiles),
        ("nested stars", regex(format!("{}a{}", "(".repeat(200), ")*".repeat(200))), Refused("nest")),
        ("nested groups", regex(format!("{}a{}", "(".repeat(1300), ")".repeat(1300))), Refused("nest")),
        ("too long", regex("a".repeat(4097)), Refused("the limit is 4096")),
        ("invalid", regex("(a"), Refused("unclosed group")),
        ("invalid Unicode", regex("\\u{110000}"), Refused("hexadecimal")),
    ]
}

fn property(index: usize) -> String {
    format!("p{index}")
}

fn definition(index: usize) -> String {
    format!("d{index}")
}

/// Schemas of many parts next to each other.
fn wide_schemas() -> Vec<Case> {
    let strings = |count: usize| (0..count).map(|index| format!("v{index:05}")).collect::<Vec<_>>();
    let arrays = |count: usize| (0..count).map(|index| json!([index])).collect::<Vec<_>>();
    let any = |_| json!({});
    let untyped = |_| json!({"properties": {"a": {}}});
    let mail = |index| json!({"format": "email", "maxLength": index});
    let either = |index: usize| {
        let option = |side: &str| {
            let name = format!("{side}{index}");
            json!({"required": [name], "properties": {name: {"type": "string"}}})
        };
        json!({"anyOf": [option("a"), option("b")]})
    };
    let optional = json!({"type": "object", "properties": members(450, property, any)});
    let mails = json!({"type": "object", "properties": members(400, property, mail)});
    let names = members(2, |index| format!("^a{{{index},9}}"), any);
    vec![
        ("a huge enum", schema(json!({"enum": strings(7000)})), Compiles),
        ("an enum of arrays", schema(json!({"enum": arrays(6000)})), Refused("ways on")),
        ("optional properties", schema(optional), Compiles),
        ("untyped properties", schema(json!({"properties": members(400, property, untyped)})), Compiles),
        ("too many properties", schema(json!({"properties": members(1000, property, any)})), Refused("1000 schemas")),
        ("mail addresses", schema(mails), Compiles),
        ("all of 2^20", schema(json!({"allOf": (0..20).map(either).collect::<Vec<_>>()})), Refused("intersections")),
        ("overlapping names", schema(json!({"patternProperties": names})), Refused("disjoint")),
    ]
}

/// Schemas within schemas.
fn deep_schemas() -> Vec<Case> {
    let mut deep = json!({"type": "string"});
    for _ in 0..40 {
        deep = json!({"type": "array", "items": deep});
    }
    let mut doubled = json!({"type": "string"});
    for _ in 0..9 {
        doubled = json!({"properties": {"a": doubled, "b": doubled}});
    }
    let long = |item: Value| json!({"type": "array", "maxItems": 30_000, "items": item});
    vec![
        ("deep", schema(deep), Refused("more than 32 levels")),
        ("doubled nine times", schema(doubled), Refused("1000 schemas")),
        ("nested arrays", schema(long(long(json!({})))), Compiles),
    ]
}

/// References in long chains and in circles.
fn circles() -> Vec<Case> {
    let small = |index: usize| format!("#/$defs/d{index}");
    let chain = |count: usize, link: &dyn Fn(usize, String) -> Value| {
        let last = |index| if index + 1 < count { link(index, small(index + 1)) } else { json!({}) };
        schema(json!({"$ref": "#/$defs/d0", "$defs": members(count, definition, last)}))
    };
    let endless = json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]});
    let two = json!({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"$ref": "#"}]}}});
    vec![
        ("recursive", schema(json!({"type": "object", "properties": {"a": {"$ref": "#"}}})), Compiles),
        ("never ending", schema(endless), Compiles),
        ("a circle", schema(json!({"$ref": "#"})), Refused("leads back to itself")),
        ("a circle of two", schema(two), Refused("leads back to itself")),
        ("a chain of references", chain(950, &|_, next| json!({"$ref": next})), Compiles),
        ("a chain of intersections", chain(950, &|_, next| json!({"minLength": 1, "$ref": next})), Compiles),
        ("a chain of arrays", chain(450, &|_, next| json!({"type": "array", "items": {"$ref": next}})), Compiles),
    ]
}

/// Large numbers.
fn counts() -> Vec<Case> {
    let long = json!({"type": "string", "minLength": 999_999, "maxLength": 1_000_000});
    let primes = json!({"allOf": [{"multipleOf": 97}, {"multipleOf": 89}]});
    let cents = json!({"type": "number", "multipleOf": 0.01, "minimum": -99_999.5, "maximum": 1e9});
    let pattern = json!({"type": "string", "pattern": "^(a{1,1000}){1,1000}$"});
    vec![
        ("a long minimum", schema(long), Compiles),
        ("too long a minimum", schema(json!({"minItems": 1_000_000_000_u64})), Refused("at most 1000000")),
        ("divisors without a common multiple", schema(primes), Refused("more digits")),
        ("a divisor", schema(cents), Compiles),
        ("a divisor of nothing", schema(json!({"multipleOf": 1e-300})), Refused("more digits")),
        ("a number beyond floats", schema(json!({"const": u64::MAX})), Refused("a whole number beyond")),
        ("a nested pattern", schema(pattern), Compiles),
    ]
}

/// Lark.
fn grammars() -> Vec<Case> {
    let doubled = |count: usize, name: &str| {
        let rules = lines(count, |index| format!("{name}{index}: {name}{next} {name}{next}", next = index + 1));
        format!("start: {name}0\n{rules}{name}{count}: \"a\" | \"b\"\n")
    };
    let chain = |count: usize, name: &str| {
        format!(
            "start: {name}0\n{}{name}{count}: \"a\"\n",
            lines(count, |index| format!("{name}{index}: {name}{}", index + 1))
        )
    };
    let brackets = format!("start: {}\"a\"{}", "(".repeat(5000), ")".repeat(5000));
    vec![
        ("a chain of rules", lark(chain(900, "r")), Compiles),
        ("a chain of words", lark(chain(900, "W")), Compiles),
        ("2^40 letters", lark(doubled(40, "r")), Compiles),
        ("2^30 letters in a word", lark(doubled(30, "W")), Refused("units of lexer fuel")),
        ("too many rules", lark(lines(2000, |index| format!("r{index}: \"a\""))), Refused("more than 1000 rules")),
        ("brackets", lark(brackets), Refused("more than 64 levels")),
        ("ambiguous", lark("start: start start | \"a\" | \"\""), Compiles),
        ("left recursive and empty", lark("start: a\na: b a | \nb: a b | \"x\""), Compiles),
        ("itself", lark("start: start"), Refused("allows no token")),
        ("repetitions", lark("start: (((\"a\"{1,1000}){1,1000}){1,1000}){1,1000}"), Compiles),
        ("optional repetitions", lark("start: (((\"a\"?){0,1000}){0,1000}){0,1000}"), Compiles),
        ("negations", lark("start: T\nT: ~/(a|b)*a(a|b){40}/ & ~/.*x{40}.*/"), Compiles),
        ("a long literal", lark(format!("start: \"{}\"", "a".repeat(60_000))), Compiles),
        (
            "many literals",
            lark(format!("start: {}", (0..6000).map(|index| format!("\"{index:05}\"")).collect::<Vec<_>>().join("|"))),
            Refused("ways on"),
        ),
        (
            "substrings",
            lark(format!("start: %regex {{\"substring_chars\": \"{}\"}}", "abcdefghij".repeat(6000))),
            Compiles,
        ),
        (
            "conditions",
            lark(format!("start: r::0\nr::_: \"a\" %if {}is_ones(_){}", "not(".repeat(60), ")".repeat(60))),
            Refused("allows no token"),
        ),
        ("too long", lark(" ".repeat(70_000)), Refused("the limit is 65536")),
        ("invalid", lark("start: ("), Refused("Expected")),
    ]
}

/// Choices.
fn choices() -> Vec<Case> {
    vec![
        ("no choice", Wanted::Choice(Vec::new()), Refused("it is empty")),
        ("choices that begin alike", Wanted::Choice((0..60).map(|count| "a".repeat(count * 30)).collect()), Compiles),
        ("choices in Unicode", Wanted::Choice(vec!["\u{1f600}".repeat(3000), "\u{e9}".repeat(3000)]), Compiles),
    ]
}
