//! The tree as data: which files count, their text and, for Rust, their tokens in one flat list with line numbers.

use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Folders and files that no rule reads: made by tools, or data.
const SKIPPED: [&str; 6] = ["target", "__pycache__", ".git", "tests/data", "Cargo.lock", ".cargo"];
/// What is read besides Rust and files without an extension, which may be scripts.
const TEXTS: [&str; 9] = ["rs", "py", "sh", "toml", "md", "yml", "metal", "plist", "cpp"];

/// One token: an identifier, a punctuation character, or the bracket of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// An identifier or one character; literals are the empty text, for they name nothing.
    pub text: String,
    /// Counted from 1.
    pub line: usize,
}

/// One file.
#[derive(Debug)]
pub struct Source {
    /// Below the root, with slashes.
    pub path: String,
    /// As it is.
    pub text: String,
    /// Empty for anything but Rust; comments are not among them.
    pub tokens: Vec<Token>,
}

impl Source {
    pub fn new(path: String, text: String) -> Self {
        let mut tokens = Vec::new();
        if path.ends_with(".rs") {
            let stream: TokenStream = text.parse().unwrap_or_else(|error| panic!("{path}: is not Rust: {error}"));
            flatten(stream, &mut tokens);
        }
        Self { path, text, tokens }
    }

    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The top-level module that the file belongs to; `None` outside `src` and for the two crate roots.
    pub fn module(&self) -> Option<&str> {
        let below = self.path.strip_prefix("src/")?;
        let module = below.split('/').next().map(|name| name.trim_end_matches(".rs"))?;
        (!matches!(module, "lib" | "main")).then_some(module)
    }

    /// Lines with their numbers, counted from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Places at which these texts follow each other, as the line of the first.
    pub fn runs<'a>(&'a self, texts: &'a [&str]) -> impl Iterator<Item = usize> + 'a {
        let fits = move |run: &&[Token]| run.iter().zip(texts).all(|(token, text)| token.text == *text);
        self.tokens.windows(texts.len()).filter(fits).map(|run| run[0].line)
    }
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Ident(ident) => tokens.push(Token { text: ident.to_string(), line }),
            TokenTree::Punct(punct) => tokens.push(Token { text: punct.as_char().to_string(), line }),
            TokenTree::Literal(_) => tokens.push(Token { text: String::new(), line }),
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                tokens.push(Token { text: open.to_owned(), line });
                flatten(group.stream(), tokens);
                tokens.push(Token { text: close.to_owned(), line: group.span_close().start().line });
            }
        }
    }
}

/// Every file that counts, sorted by path.
pub fn tree(root: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    collect(root, root, &mut sources);
    sources.sort_by(|left, right| left.path.cmp(&right.path));
    sources
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("the folder was opened").path();
        let below = path.strip_prefix(root).expect("found below the root").to_string_lossy().into_owned();
        let extension = path.extension().map(|extension| extension.to_string_lossy().into_owned());
        let counts = extension.as_deref().is_none_or(|extension| TEXTS.contains(&extension));
        if SKIPPED.contains(&below.as_str()) || below.ends_with("__pycache__") || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, sources);
        } else if counts && let Ok(text) = fs::read_to_string(&path) {
            sources.push(Source::new(below, text));
        }
    }
}
