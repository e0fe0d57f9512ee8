//! Takes named fields out of a JSON object, one by one, each with the type and range it must have; what is left at the
//! end had no reader. `null` is absent.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::api::error::Invalid;

/// The fields of one object that nobody has taken yet.
pub(crate) struct Fields {
    map: Map<String, Value>,
    /// Prefix of names in messages: empty at the top level, `stream_options.` inside.
    inside: &'static str,
}

impl Fields {
    pub(crate) fn new(mut map: Map<String, Value>, inside: &'static str) -> Self {
        map.retain(|_, value| !value.is_null());
        Self { map, inside }
    }

    /// The name as the client would look for it.
    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.inside)
    }

    fn wrong(&self, name: &str, expected: &str) -> Invalid {
        let path = self.path(name);
        Invalid::value(&path, format!("`{path}` must be {expected}"))
    }

    /// Whether the field is there and not null.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.shift_remove(name)
    }

    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, Invalid> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "a string")),
        }
    }

    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>, Invalid> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    pub(crate) fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, Invalid> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(self.wrong(name, "an array")),
        }
    }

    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, Invalid> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(_) => Err(self.wrong(name, "an object")),
        }
    }

    /// A number within `range`, both ends included.
    pub(crate) fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, Invalid> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_f64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(name, &format!("a number from {} to {}, not {value}", range.start(), range.end()))),
        }
    }

    /// A whole number within `range`, both ends included. `3.0` is whole, as JSON knows one kind of number only.
    pub(crate) fn whole(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, Invalid> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match whole(&value).filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let (low, high) = (range.start(), range.end());
                Err(self.wrong(name, &format!("a whole number from {low} to {high}, not {value}")))
            }
        }
    }

    /// Adds to `ignored` the names that nobody took.
    ///
    /// # Errors
    /// Something had no effect, and the server is strict.
    pub(crate) fn close(self, mut ignored: Vec<String>, strict: bool) -> Result<Vec<String>, Invalid> {
        ignored.extend(self.rest());
        match ignored.first() {
            Some(name) if strict => {
                let shown: String = name.chars().take(64).collect();
                let message = format!("{shown:?} has no effect here, and this server was started with --strict");
                Err(Invalid::unsupported(&shown, message))
            }
            Some(_) | None => Ok(ignored),
        }
    }

    /// The names that nobody took, in the client's order.
    pub(crate) fn rest(self) -> Vec<String> {
        let inside = self.inside;
        self.map.into_iter().map(|(name, _)| format!("{inside}{name}")).collect()
    }
}

/// A JSON number as a whole one, if it is.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
pub(crate) fn whole(value: &Value) -> Option<i64> {
    /// Beyond this a double does not name one whole number.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        (number.fract() == 0.0 && number.abs() <= EXACT_MAX).then_some(number as i64)
    })
}

/// A number that its range has already bounded to 32 bits.
pub(crate) fn small(number: i64) -> u32 {
    u32::try_from(number).expect("the range given to `whole` lies within u32")
}
