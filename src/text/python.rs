//! What chat templates expect of Python: how values print, and the functions that `transformers` puts into its Jinja
//! environment. Templates are written against those; a space or a quote that differs is another prompt.

use std::borrow::Cow;
use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, escape_formatter};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize as _;
use serde_json::ser::{CharEscape, Formatter, Serializer};
use time::OffsetDateTime;
use time::format_description::parse_strftime_borrowed;

use crate::text::template::Clock;

/// Widest indentation that `tojson` is given.
const INDENT_MAX: usize = 16;

/// What a template said with `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Raised(pub String);

/// Makes `environment` behave as the one of `transformers` does.
pub(super) fn install(environment: &mut Environment<'_>, clock: Clock) {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the delimiters are the default ones"));
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.set_formatter(print);
    environment.add_filter("string", |value: &Value| text_of(value));
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", move |format: &str| strftime(clock(), format));
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = text_of(message);
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

fn strftime(now: OffsetDateTime, format: &str) -> Result<String, Error> {
    let invalid = |reason: String| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now cannot format {format:?}: {reason}"))
    };
    let items = parse_strftime_borrowed(format).map_err(|error| invalid(error.to_string()))?;
    now.format(&items).map_err(|error| invalid(error.to_string()))
}

/// `{{ value }}`: as Python's `str` does.
fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::Seq | ValueKind::Map => {
            out.write_str(&text_of(value)).map_err(Error::from)
        }
        _ => escape_formatter(out, state, value),
    }
}

/// Python's `str`: text as it is, anything else as [`represent`] writes it.
fn text_of(value: &Value) -> String {
    let mut text = String::new();
    match value.as_str() {
        Some(string) => text.push_str(string),
        None => represent(&mut text, value),
    }
    text
}

/// Python's `repr`. Values are as deep as JSON was allowed to be, so the recursion is bounded.
fn represent(text: &mut String, value: &Value) {
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::None => text.push_str("None"),
        ValueKind::Bool => text.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => match f64::try_from(value.clone()) {
            Ok(float) if !value.is_integer() => text.push_str(&float_text(float)),
            _ => text.push_str(&value.to_string()),
        },
        ValueKind::String => quote(text, value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            text.push('[');
            for (index, item) in value.try_iter().into_iter().flatten().enumerate() {
                text.push_str(if index == 0 { "" } else { ", " });
                represent(text, &item);
            }
            text.push(']');
        }
        ValueKind::Map => {
            text.push('{');
            for (index, key) in value.try_iter().into_iter().flatten().enumerate() {
                text.push_str(if index == 0 { "" } else { ", " });
                represent(text, &key);
                text.push_str(": ");
                represent(text, &value.get_item(&key).unwrap_or_default());
            }
            text.push('}');
        }
        _ => text.push_str(&value.to_string()),
    }
}

/// A string literal: single quotes unless only double ones save escapes.
fn quote(text: &mut String, string: &str) {
    let mark = if string.contains('\'') && !string.contains('"') { '"' } else { '\'' };
    text.push(mark);
    for character in string.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            _ if character == mark => text.extend(['\\', mark]),
            _ if character.is_ascii_control() => {
                text.push_str(&format!("\\x{:02x}", u32::from(character)));
            }
            _ => text.push(character),
        }
    }
    text.push(mark);
}

/// Python's shortest float: plain from 1e-4 up to 1e16, else with a signed exponent of two digits.
fn float_text(float: f64) -> String {
    if float.is_nan() {
        return "nan".to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..16).contains(&exponent) || float == 0.0 {
        format!("{float:?}")
    } else {
        format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    }
}

/// `tojson` as `transformers` defines it over `json.dumps`: characters stay as they are and HTML means nothing.
fn to_json(value: &Value, ensure_ascii: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let ensure_ascii = match ensure_ascii {
        Some(positional) => positional,
        None => options.get::<Option<Value>>("ensure_ascii")?.unwrap_or_default(),
    };
    let indent = options.get::<Option<usize>>("indent")?;
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    if indent.is_some_and(|indent| indent > INDENT_MAX) {
        let message = format!("tojson is given an indent above {INDENT_MAX}");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    let between = if indent.is_some() { "," } else { ", " };
    let (item, key) = match separators.as_deref() {
        None => (between.to_owned(), ": ".to_owned()),
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson takes two separators")),
    };
    let style = PythonJson { item, key, indent, ensure_ascii: ensure_ascii.is_true(), depth: 0, is_empty: true };

    let failed = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut json = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut json, style);
    if sort_keys {
        let mut sorted = serde_json::to_value(value).map_err(failed)?;
        sorted.sort_all_objects();
        sorted.serialize(&mut serializer).map_err(failed)?;
    } else {
        value.serialize(&mut serializer).map_err(failed)?;
    }
    Ok(Value::from(String::from_utf8(json).expect("a JSON writer writes UTF-8")))
}

/// The spacing of `json.dumps`.
struct PythonJson {
    /// Between two items.
    item: String,
    /// Between a key and its value.
    key: String,
    /// Spaces a level, on lines of their own.
    indent: Option<usize>,
    /// Escape everything beyond ASCII.
    ensure_ascii: bool,
    /// How many containers are open.
    depth: usize,
    /// The container that is being closed had no items.
    is_empty: bool,
}

impl PythonJson {
    fn open<W: ?Sized + io::Write>(&mut self, writer: &mut W, mark: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.is_empty = true;
        writer.write_all(mark)
    }

    fn close<W: ?Sized + io::Write>(&mut self, writer: &mut W, mark: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !self.is_empty {
            self.line(writer)?;
        }
        self.is_empty = false;
        writer.write_all(mark)
    }

    fn item<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.item.as_bytes())?;
        }
        self.is_empty = false;
        self.line(writer)
    }

    fn line<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        match self.indent {
            Some(indent) => write!(writer, "\n{:width$}", "", width = indent * self.depth),
            None => Ok(()),
        }
    }
}

impl Formatter for PythonJson {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(float_text(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        writer.write_all(if self.ensure_ascii { escape(text) } else { Cow::Borrowed(text) }.as_bytes())
    }

    fn write_char_escape<W: ?Sized + io::Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        match escape {
            // Python leaves these as they are.
            CharEscape::Solidus => writer.write_all(b"/"),
            known => serde_json::ser::CompactFormatter.write_char_escape(writer, known),
        }
    }
}

/// `\uXXXX` for every UTF-16 unit beyond ASCII, and for DEL no escape, as Python does.
fn escape(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(2 * text.len());
    for character in text.chars() {
        if character.is_ascii() {
            escaped.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            escaped.push_str(&format!("\\u{unit:04x}"));
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use minijinja::value::Serde;

    use super::*;

    fn render(source: &str, context: &serde_json::Value) -> String {
        let mut environment = Environment::new();
        install(&mut environment, || OffsetDateTime::UNIX_EPOCH);
        environment.render_str(source, Serde(context)).expect("a valid template")
    }

    #[test]
    fn values_print_as_python_prints_them() {
        let context = serde_json::json!({"x": [null, true, 1.0, 3, "it's", "a\n\"", {"k": []}]});
        assert_eq!(render("{{ x }}", &context), r#"[None, True, 1.0, 3, "it's", 'a\n"', {'k': []}]"#);
        assert_eq!(render("{{ none }}{{ false }}{{ missing }}{{ 1.5|string }}", &context), "NoneFalse1.5");
    }

    #[test]
    fn floats_have_pythons_shortest_form() {
        let cases = [(1.0, "1.0"), (0.0001, "0.0001"), (0.00001, "1e-05"), (1e16, "1e+16"), (1.5e300, "1.5e+300")];
        for (float, text) in cases {
            assert_eq!(float_text(float), text);
        }
        assert_eq!(float_text(123_456_789_012_345_680.0), "1.2345678901234568e+17");
        assert_eq!(
            (float_text(-0.0), float_text(9_999_999_999_999_998.0)),
            ("-0.0".into(), "9999999999999998.0".into())
        );
    }

    #[test]
    fn json_is_spaced_as_transformers_spaces_it() {
        let context = serde_json::json!({"x": {"b": [1, "<\u{e9}>\u{1f600}"], "a": {}, "c": []}});
        assert_eq!(render("{{ x|tojson }}", &context), "{\"b\": [1, \"<\u{e9}>\u{1f600}\"], \"a\": {}, \"c\": []}");
        assert_eq!(
            render("{{ x|tojson(indent=2) }}", &context),
            "{\n  \"b\": [\n    1,\n    \"<\u{e9}>\u{1f600}\"\n  ],\n  \"a\": {},\n  \"c\": []\n}"
        );
        assert_eq!(
            render("{{ x|tojson(ensure_ascii=true, sort_keys=true, separators=(',', ':')) }}", &context),
            r#"{"a":{},"b":[1,"<\u00e9>\ud83d\ude00"],"c":[]}"#
        );
    }

    #[test]
    fn the_clock_is_formatted_as_strftime_does() {
        assert_eq!(
            render("{{ strftime_now('%d %b %Y|%A %H:%M|%-d %B') }}", &().into()),
            "01 Jan 1970|Thursday 00:00|1 January"
        );
    }
}
