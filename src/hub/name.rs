//! What a model is called: `ORG/NAME`, with a file of a GGUF repository and a revision where wanted. Parsed once, so
//! that no other code has to ask whether a name could climb out of the cache.

use std::fmt;

use crate::hub::error::HubError;

/// Longest part of a name; the hub allows 96.
const PART_BYTES_MAX: usize = 96;
/// Longest revision; a commit has 40 characters, branches are short.
const REVISION_BYTES_MAX: usize = 128;
/// The branch that is meant when none is named.
const REVISION_DEFAULT: &str = "main";

/// `ORG/NAME[/FILE.gguf][@REVISION]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelName {
    org: String,
    name: String,
    /// One file of a repository that holds several GGUF files.
    pub file: Option<String>,
    /// A branch, tag or commit.
    pub revision: String,
}

impl ModelName {
    /// Reads a name.
    ///
    /// # Errors
    /// It is not of this form, or a part has characters that the hub does not allow.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let bad = |why: &'static str| HubError::BadName { name: text.chars().take(PART_BYTES_MAX).collect(), why };
        let (path, revision) = text.split_once('@').unwrap_or((text, REVISION_DEFAULT));
        let mut parts = path.split('/');
        let (Some(org), Some(name), file, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(bad(
                "it is neither there as a file or folder, nor of the form ORG/NAME[/FILE.gguf][@REVISION]",
            ));
        };
        if ![org, name].into_iter().chain(file).all(is_part) {
            return Err(bad("parts are letters, digits, '-', '_' and '.', at most 96, not beginning with '.'"));
        }
        if file.is_some_and(|file| !file.ends_with(".gguf")) {
            return Err(bad("a third part has to be a .gguf file"));
        }
        if revision.len() > REVISION_BYTES_MAX || !revision.split('/').all(is_part) {
            return Err(bad("the revision has to be a branch, a tag or a commit"));
        }
        let [org, name, revision] = [org, name, revision].map(str::to_owned);
        Ok(Self { org, name, file: file.map(str::to_owned), revision })
    }

    /// `ORG/NAME`.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.org, self.name)
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.org, self.name)?;
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        if self.revision != REVISION_DEFAULT {
            write!(f, "@{}", self.revision)?;
        }
        Ok(())
    }
}

/// Safe as one component of a path and of a URL.
pub(super) fn is_part(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= PART_BYTES_MAX && !text.starts_with('.') && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_an_organisation_a_name_and_maybe_a_file_and_a_revision() {
        for text in
            ["a/b", "mlx-community/Qwen2.5-7B_x", "a/b@v1.0", "a/b@refs/pr/1", "a/b/c.Q4_1.gguf", "a/b/c.gguf@x"]
        {
            assert_eq!(ModelName::parse(text).expect("sound").to_string(), text);
        }
        assert_eq!(ModelName::parse("a/b@main").expect("sound").to_string(), "a/b");
    }

    #[test]
    fn what_could_climb_or_break_a_url_is_no_name() {
        let long = format!("a/{}", "b".repeat(97));
        for text in [
            "",
            "a",
            "a/",
            "/b",
            "a/..",
            "../b",
            "a/b/c",
            "a/b/c.gguf/d",
            "a/b c",
            "a/b?x",
            "a/b@",
            "a/b@../x",
            "a/.b",
            "a/b%2e",
            &long,
        ] {
            assert!(ModelName::parse(text).is_err(), "{text}");
        }
    }
}
