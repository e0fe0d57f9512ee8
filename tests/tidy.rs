//! Tidiness as a test: who may name whom, how long a file and a function may be, and what may not be written at all. It
//! reads the tree as Rust tokens and as text, and depends on nothing of ours, so that it also runs on a tree that does
//! not compile. Each finding is one line, `path:line: message`. Each rule is shown failing in `tidy/rejected.rs`.

#[path = "tidy/claims.rs"]
mod claims;
#[path = "tidy/entitlements.rs"]
mod entitlements;
#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/rejected.rs"]
mod rejected;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use std::path::Path;

use source::Source;

/// A tree that lost its sources must not pass as tidy.
const FILES_MIN: usize = 20;

#[test]
fn the_tree_is_tidy() {
    let root = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo and nextest set it for a running test");
    let root = Path::new(&root);
    let sources = source::tree(root);
    let rust = sources.iter().filter(|source| source.is_rust()).count();
    assert!(rust >= FILES_MIN, "only {rust} Rust files found below {}", root.display());
    let findings: Vec<String> = sources.iter().flat_map(rules::judge).collect();
    assert!(findings.is_empty(), "{} findings\n{}", findings.len(), findings.join("\n"));
    println!("tidy, {} files judged by {} rules", sources.len(), rules::ALL.len());
}

/// A source as if it lay in the tree.
fn at(path: &str, text: &str) -> Source {
    Source::new(path.to_owned(), text.to_owned())
}
