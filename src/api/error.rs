//! A request that cannot be served as written, and the envelope in which every error leaves.

use serde::Serialize;

/// A mistake in a request: what is wrong, and with which field. Always the client's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// Names the field, the value and what was expected.
    pub message: String,
    /// The field, in the client's own spelling.
    pub param: Option<String>,
    /// A word that a program can match on.
    pub code: &'static str,
}

impl Invalid {
    /// A field whose value is not one of those expected.
    #[must_use]
    pub fn value(param: &str, message: impl Into<String>) -> Self {
        Self { message: message.into(), param: Some(param.to_owned()), code: "invalid_value" }
    }

    /// A field that this server knows and does not serve; the message says what to use instead.
    #[must_use]
    pub fn unsupported(param: &str, message: impl Into<String>) -> Self {
        Self { message: message.into(), param: Some(param.to_owned()), code: "unsupported_parameter" }
    }

    /// A body that is not the JSON of a request.
    #[must_use]
    pub fn body(message: impl Into<String>) -> Self {
        Self { message: message.into(), param: None, code: "invalid_json" }
    }
}

/// OpenAI's error envelope: `{"error":{…}}`.
#[derive(Debug, Clone, Serialize)]
pub struct Envelope<'a> {
    /// What went wrong.
    pub error: ErrorBody<'a>,
}

/// The inside of the envelope. All four members are always present, as the SDKs expect.
#[derive(Debug, Clone, Serialize)]
pub struct ErrorBody<'a> {
    /// One sentence for a person.
    pub message: &'a str,
    /// OpenAI's class of error.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The field at fault.
    pub param: Option<&'a str>,
    /// A word that a program can match on.
    pub code: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_has_all_four_members_even_when_they_are_null() {
        let envelope =
            Envelope { error: ErrorBody { message: "no", kind: "invalid_request_error", param: None, code: None } };
        let body = serde_json::to_string(&envelope).expect("an envelope is plain data");
        insta::assert_snapshot!(body, @r#"{"error":{"message":"no","type":"invalid_request_error","param":null,"code":null}}"#);
    }
}
