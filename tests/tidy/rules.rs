//! The rules. Each is a function of one file and says what it found as lines and messages.

use crate::layers::{APP, LAYERS, SLEEPERS, UNSAFE};
use crate::source::{Source, Token};

/// Longest file.
const FILE_LINES_MAX: usize = 600;
/// Longest function, from `fn` to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Longest `main.rs`.
const MAIN_LINES_MAX: usize = 80;
/// Longest shell script.
const SHELL_LINES_MAX: usize = 49;
/// Longest Python script.
const PYTHON_LINES_MAX: usize = 400;

/// A line and what is wrong there.
pub type Found = Vec<(usize, String)>;

/// Judges one file.
pub type Rule = fn(&Source) -> Found;

/// Every rule with its name.
pub const ALL: &[(&str, Rule)] = &[
    ("layers", layers),
    ("mlx", mlx),
    ("unsafe", unsafe_code),
    ("module_doc", module_doc),
    ("file_lines", file_lines),
    ("function_lines", function_lines),
    ("order", order),
    ("unfinished", unfinished),
    ("unbounded", unbounded),
    ("sleep", sleep),
    ("todo_owner", todo_owner),
    ("scripts", scripts),
    ("machine_paths", machine_paths),
];

/// Everything that is wrong with a file, as `path:line: message`.
pub fn judge(source: &Source) -> Vec<String> {
    let found = ALL.iter().flat_map(|(_, rule)| rule(source));
    found.map(|(line, message)| format!("{}:{line}: {message}", source.path)).collect()
}

/// Modules named after `crate::`, alone or in braces, must be allowed by the table.
pub fn layers(source: &Source) -> Found {
    let Some(module) = source.module() else { return Vec::new() };
    if module == APP {
        return Vec::new();
    }
    let Some(layer) = LAYERS.iter().find(|layer| layer.module == module) else {
        return vec![(1, format!("module {module} is not in the layer table of tests/tidy/layers.rs"))];
    };
    let allowed = |name: &str| name == module || layer.names.contains(&name);
    let known = |name: &str| name == APP || LAYERS.iter().any(|layer| layer.module == name);
    let named = modules_named(&source.tokens).into_iter().filter(|token| known(&token.text) && !allowed(&token.text));
    named
        .map(|token| {
            let may = if layer.names.is_empty() { "nothing".to_owned() } else { layer.names.join(", ") };
            (token.line, format!("{module} must not name {}; it may name {may}", token.text))
        })
        .collect()
}

/// The first segments after `crate ::`.
fn modules_named(tokens: &[Token]) -> Vec<&Token> {
    let mut named = Vec::new();
    for (index, run) in tokens.windows(4).enumerate() {
        if run[0].text != "crate" || run[1].text != ":" || run[2].text != ":" {
            continue;
        }
        if run[3].text != "{" {
            named.push(&run[3]);
            continue;
        }
        let (mut depth, mut starts) = (0, true);
        for token in &tokens[index + 3..] {
            match token.text.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                "," if depth == 1 => starts = true,
                _ if depth == 1 && starts => {
                    named.push(token);
                    starts = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    named
}

/// Only modules with the dagger may name MLX.
pub fn mlx(source: &Source) -> Found {
    let allowed = source.module().and_then(|module| LAYERS.iter().find(|layer| layer.module == module));
    if !source.path.starts_with("src/") || allowed.is_some_and(|layer| layer.mlx) {
        return Vec::new();
    }
    let named = source.tokens.iter().filter(|token| matches!(token.text.as_str(), "mlx_rs" | "mlx_sys"));
    named.map(|token| (token.line, format!("{} must not be named here", token.text))).collect()
}

/// `unsafe` stands in three modules only.
pub fn unsafe_code(source: &Source) -> Found {
    if source.module().is_some_and(|module| UNSAFE.contains(&module)) {
        return Vec::new();
    }
    let message = format!("unsafe stands in {} only", UNSAFE.join(", "));
    source.runs(&["unsafe"]).map(|line| (line, message.clone())).collect()
}

/// A file says first what it owns and what it refuses to know.
pub fn module_doc(source: &Source) -> Found {
    if !source.is_rust() || source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![(1, "a file opens with `//!`: what it owns, what it refuses to know".to_owned())]
}

/// No file grows beyond what can be held in mind.
pub fn file_lines(source: &Source) -> Found {
    let most = if source.path == "src/main.rs" { MAIN_LINES_MAX } else { FILE_LINES_MAX };
    let lines = source.text.lines().count();
    if !source.is_rust() || lines <= most {
        return Vec::new();
    }
    vec![(lines, format!("{lines} lines; wants at most {most}"))]
}

/// No function grows beyond a screen.
pub fn function_lines(source: &Source) -> Found {
    let mut found = Vec::new();
    for (index, run) in source.tokens.windows(2).enumerate() {
        if run[0].text != "fn" || run[1].text == "(" {
            continue;
        }
        let Some(end) = function_end(&source.tokens[index..]) else { continue };
        let lines = end - run[0].line + 1;
        if lines > FUNCTION_LINES_MAX {
            let name = &run[1].text;
            found.push((run[0].line, format!("fn {name} has {lines} lines; wants at most {FUNCTION_LINES_MAX}")));
        }
    }
    found
}

/// The line of the brace that closes the function's body; `None` for a declaration without one.
fn function_end(tokens: &[Token]) -> Option<usize> {
    let (mut depth, mut body) = (0_usize, false);
    for token in tokens {
        match token.text.as_str() {
            ";" if depth == 0 => return None,
            "{" | "(" | "[" => {
                body |= depth == 0 && token.text == "{";
                depth += 1;
            }
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                if depth == 0 && body {
                    return Some(token.line);
                }
            }
            _ => {}
        }
    }
    None
}

/// `mod x;` stands above `use`, and the tests stand last.
pub fn order(source: &Source) -> Found {
    let (mut found, mut depth, mut used, mut tests) = (Vec::new(), 0_usize, false, None);
    for (index, token) in source.tokens.iter().enumerate() {
        let next = |offset: usize| source.tokens.get(index + offset).map_or("", |token| token.text.as_str());
        let is_test = source.tokens[..index].iter().rev().take_while(|token| token.text != ";" && token.text != "}");
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth = depth.saturating_sub(1),
            "use" if depth == 0 => used = true,
            "mod" if depth == 0 && next(2) == ";" && used && !is_test.into_iter().any(|token| token.text == "test") => {
                found.push((token.line, format!("mod {} stands below a use", next(1))));
            }
            "mod" if depth == 0 && next(1) == "tests" => tests = Some(index),
            "fn" | "struct" | "enum" | "impl" | "trait" | "const" if depth == 0 => {
                if let Some(line) = tests.take().map(|index: usize| source.tokens[index].line) {
                    found.push((line, "the tests stand last".to_owned()));
                }
            }
            _ => {}
        }
        // An out-of-line `mod tests;` belongs to the block of mods at the top.
        if tests == Some(index) && next(2) == ";" {
            tests = None;
        }
    }
    found
}

/// Nothing is left for later, and no test is skipped in silence.
pub fn unfinished(source: &Source) -> Found {
    let mut found = Vec::new();
    for name in ["todo", "unimplemented", "dbg"] {
        found.extend(source.runs(&[name, "!"]).map(|line| (line, format!("{name}! is not left in the tree"))));
    }
    let ignored = source.runs(&["#", "[", "ignore"]);
    found.extend(ignored.map(|line| (line, "a test is never ignored; it says why it cannot run".to_owned())));
    found
}

/// Every channel has a bound.
pub fn unbounded(source: &Source) -> Found {
    let mut found = Vec::new();
    let named = source.runs(&["unbounded_channel"]);
    found.extend(named.map(|line| (line, "unbounded_channel has no bound".to_owned())));
    // `channel()` without a bound is std's; tokio's takes one.
    let names = source.tokens.iter().enumerate().filter(|(_, token)| token.text == "channel");
    for (index, token) in names {
        // A oneshot holds one value, and a test ends.
        if in_tests(source, index) || source.tokens[..index].iter().rev().nth(2).is_some_and(|at| at.text == "oneshot")
        {
            continue;
        }
        let rest: Vec<&str> = source.tokens[index + 1..].iter().map(|token| token.text.as_str()).take(32).collect();
        let turbofish = rest.starts_with(&[":", ":", "<"]);
        let call = if turbofish { rest.iter().position(|text| *text == "(").unwrap_or(0) } else { 0 };
        if rest[call..].starts_with(&["(", ")"]) {
            found.push((token.line, "channel() has no bound; use sync_channel".to_owned()));
        }
    }
    found
}

/// Whether a token stands in test code.
fn in_tests(source: &Source, index: usize) -> bool {
    let inline = source.tokens[..index]
        .windows(3)
        .any(|run| run[0].text == "mod" && run[1].text == "tests" && run[2].text == "{");
    inline || source.path.starts_with("tests/") || source.path.ends_with("tests.rs")
}

/// Nothing waits for state by sleeping.
pub fn sleep(source: &Source) -> Found {
    if SLEEPERS.iter().any(|(path, _)| source.path.starts_with(path)) {
        return Vec::new();
    }
    let message = "a sleeping thread waits for nothing; poll with the one helper, or hold a gate";
    source.runs(&["thread", ":", ":", "sleep"]).map(|line| (line, message.to_owned())).collect()
}

/// What is left for later has an issue.
pub fn todo_owner(source: &Source) -> Found {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let owned = |rest: &str| rest.strip_prefix("(#").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let word = |line: &str, at: usize, mark: &str| {
        let beside = |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
        !beside(line[..at].chars().next_back()) && !beside(line[at + mark.len()..].chars().next())
    };
    let mut found = Vec::new();
    for (number, line) in source.lines() {
        for mark in marks {
            if line.match_indices(mark).any(|(at, _)| word(line, at, mark) && !owned(&line[at + mark.len()..])) {
                found.push((number, format!("{mark} without an issue; write {mark}(#12)")));
            }
        }
    }
    found
}

/// A shell script is short and stops at its first error; what must branch is Python, and not long either.
pub fn scripts(source: &Source) -> Found {
    let first = source.text.lines().next().unwrap_or("");
    let lines = source.text.lines().count();
    let mut found = Vec::new();
    if first.starts_with("#!") && first.ends_with("sh") {
        if lines > SHELL_LINES_MAX {
            found.push((lines, format!("{lines} lines of shell; wants at most {SHELL_LINES_MAX}")));
        }
        if !source.text.contains("set -euo pipefail") {
            found.push((1, "a shell script begins with `set -euo pipefail`".to_owned()));
        }
    }
    let python = (first.starts_with("#!") && first.contains("python")) || source.path.ends_with(".py");
    if python && lines > PYTHON_LINES_MAX {
        found.push((lines, format!("{lines} lines of Python; wants at most {PYTHON_LINES_MAX}")));
    }
    found
}

/// No path of somebody's machine.
pub fn machine_paths(source: &Source) -> Found {
    let paths = [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];
    let mut found = Vec::new();
    for (number, line) in source.lines() {
        let named = paths.iter().filter(|path| line.match_indices(*path).any(|(at, _)| !line[..at].ends_with('.')));
        found.extend(named.map(|path| (number, format!("{path} is a path of one machine"))));
    }
    found
}
