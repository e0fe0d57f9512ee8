//! A manifest as text: lines as `sha256sum` writes and checks them, `HASH  NAME`, sorted by name, names relative to the
//! model's folder. It owns the form; it refuses to hash anything.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, bail, ensure};

/// Bytes of a SHA-256.
pub(crate) const HASH_BYTES: usize = 32;

/// A SHA-256.
pub(crate) type Hash = [u8; HASH_BYTES];

/// Names with their hashes.
pub(crate) type Lines = BTreeMap<String, Hash>;

/// Whether `name` can stand in a line: below the folder, and nothing that `sha256sum` would escape.
pub(crate) fn check_name(name: &str) -> anyhow::Result<()> {
    ensure!(!name.is_empty(), "a name is empty");
    ensure!(!name.contains(['\\', '\n', '\r', '\0']), "{name:?} has a character that a manifest cannot hold");
    let inside = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
    ensure!(inside, "{name:?} leaves the folder");
    Ok(())
}

/// In hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

/// The bytes that `text` spells in hexadecimal, if there are exactly `N` of them.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|letter| letter.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// The text of a manifest.
pub(crate) fn write(lines: &Lines) -> String {
    lines.iter().map(|(name, hash)| format!("{}  {name}\n", hex(hash))).collect()
}

/// The lines of a manifest.
///
/// # Errors
/// It is not one; the message tells the line.
pub(crate) fn read(text: &str) -> anyhow::Result<Lines> {
    let mut lines = Lines::new();
    for (number, line) in text.lines().enumerate() {
        let line = (|| {
            let (hash, rest) = line.split_once(' ').context("wants HASH, two spaces, NAME")?;
            let hash = unhex::<HASH_BYTES>(hash).context("begins with no SHA-256")?;
            // A space for text, an asterisk for binary; here they mean the same.
            let name = rest.strip_prefix([' ', '*']).context("wants two spaces between hash and name")?;
            check_name(name)?;
            if lines.insert(name.to_owned(), hash).is_some() {
                bail!("{name} is there twice");
            }
            Ok(())
        })();
        line.with_context(|| format!("line {}", number + 1))?;
    }
    ensure!(!lines.is_empty(), "it names no file");
    Ok(lines)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let hash = "0".repeat(64);
        let cases = [
            (String::new(), "names no file"),
            (format!("{hash}  a\nabc  b\n"), "line 2: begins with no SHA-256"),
            (format!("{hash} a\n"), "line 1: wants two spaces"),
            (format!("{hash}  ../a\n"), "leaves the folder"),
            (format!("{hash}  /a\n"), "leaves the folder"),
            (format!("{hash}  a\n{hash} *a\n"), "line 2: a is there twice"),
            (format!("\\{hash}  a\\nb\n"), "begins with no SHA-256"),
        ];
        for (text, words) in cases {
            let error = format!("{:#}", read(&text).unwrap_err());
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(lines in prop::collection::btree_map("[a-z ä*]{1,9}(/[a-z]{1,3})?", any::<Hash>(), 1..9)) {
            prop_assert_eq!(read(&write(&lines)).unwrap(), lines);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[ -~\n]{0,200}") {
            let _ = read(&text);
        }
    }
}
