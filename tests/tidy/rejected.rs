//! Each rule, shown failing on what it must refuse and passing on what is right.

use crate::at;
use crate::rules;

/// Asserts the lines that a rule finds in a file of this path and text.
fn check(rule: &str, path: &str, text: &str, lines: &[usize]) {
    let (_, judge) = rules::ALL.iter().find(|(name, _)| *name == rule).expect("a rule of the table");
    let found: Vec<usize> = judge(&at(path, text)).into_iter().map(|(line, _)| line).collect();
    assert_eq!(found, lines, "{rule} on {path}:\n{text}");
}

#[test]
fn every_rule_is_shown_failing_here() {
    let this = include_str!("rejected.rs");
    for (name, _) in rules::ALL {
        assert!(this.contains(&format!("check(\"{name}\"")), "{name} is never shown");
    }
}

#[test]
fn a_layer_names_only_what_the_table_allows() {
    check("layers", "src/config/x.rs", "use crate::job::Job;", &[1]);
    check("layers", "src/text/x.rs", "use crate::job::Job;\nuse crate::text::y;", &[]);
    check("layers", "src/ops/x.rs", "use crate::{client::Client, engine::{a, b},\nhttp::c};", &[1, 2]);
    check("layers", "src/prefix/x.rs", "fn f() { assert!(crate::engine::on()); }", &[1]);
    check(
        "layers",
        "src/prefix/x.rs",
        "//! Not crate::engine.\n// crate::engine\nconst A: &str = \"crate::engine\";",
        &[],
    );
    check("layers", "src/model/weights/x.rs", "use crate::runner::Runner;\nuse crate::nn::Linear;", &[1]);
    check("layers", "src/newcomer/mod.rs", "", &[1]);
    check("layers", "src/app.rs", "use crate::http::serve;\nuse crate::runner::Runner;", &[]);
    check("layers", "src/job.rs", "use crate::app::run;", &[1]);
    let message = rules::judge(&at("src/config/x.rs", "//! X.\nuse crate::job::Job;"));
    assert_eq!(message, ["src/config/x.rs:2: config must not name job; it may name nothing"]);
}

#[test]
fn only_modules_with_the_dagger_name_mlx() {
    check("mlx", "src/engine/x.rs", "use mlx_rs::Array;", &[1]);
    check("mlx", "src/app.rs", "fn f() { mlx_sys::g(); }", &[1]);
    check("mlx", "src/runner/x.rs", "use mlx_rs::Array;", &[]);
    check("mlx", "src/engine/x.rs", "//! Never mlx_rs.", &[]);
}

#[test]
fn unsafe_stands_in_three_modules_only() {
    check("unsafe", "src/http/x.rs", "fn f() {\n    unsafe { g() }\n}", &[2]);
    check("unsafe", "tests/it/x.rs", "unsafe fn f() {}", &[1]);
    check("unsafe", "src/platform/x.rs", "fn f() { unsafe { g() } }", &[]);
    check("unsafe", "src/http/x.rs", "#![deny(unsafe_code)] // unsafe", &[]);
}

#[test]
fn a_file_opens_with_its_doc() {
    check("module_doc", "src/http/x.rs", "use std::io;\n", &[1]);
    check("module_doc", "tests/it/x.rs", "\n//! Late.\n", &[1]);
    check("module_doc", "src/http/x.rs", "//! Owns x.\n", &[]);
}

#[test]
fn files_and_functions_end_in_time() {
    check("file_lines", "src/http/x.rs", &"//\n".repeat(601), &[601]);
    check("file_lines", "src/http/x.rs", &"//\n".repeat(600), &[]);
    check("file_lines", "src/main.rs", &"//\n".repeat(81), &[81]);
    let body = |lines: usize| format!("trait T {{ fn d(); }}\nfn f() {{\n{}}}\n", "    g();\n".repeat(lines));
    check("function_lines", "src/http/x.rs", &body(69), &[2]);
    check("function_lines", "src/http/x.rs", &body(68), &[]);
    let method = format!("impl X {{\n    fn f(g: fn(u8) -> [u8; 3]) -> u8 {{\n{}    }}\n}}\n", "\n".repeat(70));
    check("function_lines", "src/http/x.rs", &method, &[2]);
}

#[test]
fn mods_stand_above_uses_and_tests_stand_last() {
    check("order", "src/http/mod.rs", "use std::io;\nmod a;\n", &[2]);
    check("order", "src/http/mod.rs", "mod a;\nuse a::B;\nfn f() {}\n#[cfg(test)]\nmod tests { use super::*; }\n", &[]);
    check("order", "src/http/mod.rs", "#[cfg(test)]\nmod tests {}\nfn f() {}\n", &[2]);
    check("order", "src/http/mod.rs", "use std::io;\n#[cfg(test)]\n#[path = \"t.rs\"]\nmod tests;\n", &[]);
}

#[test]
fn nothing_is_unfinished_ignored_or_unbounded() {
    check("unfinished", "src/http/x.rs", "fn f() { todo!() }", &[1]);
    check("unfinished", "src/http/x.rs", "fn f() { dbg!(1); unimplemented!() }", &[1, 1]);
    check("unfinished", "tests/it/x.rs", "#[test]\n#[ignore = \"later\"]\nfn f() {}", &[2]);
    check("unfinished", "src/http/x.rs", "fn ignore() { todo() } // todo!()", &[]);
    check("unbounded", "src/http/x.rs", "fn f() { mpsc::unbounded_channel::<u8>(); }", &[1]);
    check("unbounded", "src/http/x.rs", "fn f() { std::sync::mpsc::channel(); }", &[1]);
    check("unbounded", "src/http/x.rs", "#[cfg(test)]\nmod tests { fn f() { mpsc::channel(); } }", &[]);
    check("unbounded", "src/http/x.rs", "fn f() { mpsc::channel::<Vec<u8>>(); }", &[1]);
    check(
        "unbounded",
        "src/http/x.rs",
        "fn f() { oneshot::channel(); mpsc::channel::<u8>(1); mpsc::channel(8); sync_channel(1); }",
        &[],
    );
}

#[test]
fn nobody_sleeps_to_wait() {
    check("sleep", "src/http/x.rs", "fn f() { std::thread::sleep(A); }", &[1]);
    check("sleep", "tests/it/chat.rs", "use std::thread::sleep;", &[1]);
    check("sleep", "tests/it/support/poll.rs", "fn f() { std::thread::sleep(A); }", &[]);
    check("sleep", "src/http/x.rs", "async fn f() { tokio::time::sleep(A).await }", &[]);
}

#[test]
fn what_is_left_for_later_has_an_issue() {
    let mark = concat!("TO", "DO");
    check("todo_owner", "src/http/x.rs", &format!("// {mark}: later"), &[1]);
    check("todo_owner", "README.md", &format!("{mark}(me) later"), &[1]);
    check("todo_owner", "src/http/x.rs", &format!("// {mark}(#12): later\n// {mark}S are words"), &[]);
}

#[test]
fn scripts_are_short_and_careful() {
    check("scripts", "scripts/x", "#!/usr/bin/env bash\ntrue\n", &[1]);
    check("scripts", "scripts/x", &format!("#!/usr/bin/env bash\nset -euo pipefail\n{}", "true\n".repeat(48)), &[50]);
    check("scripts", "scripts/x", "#!/usr/bin/env bash\nset -euo pipefail\n", &[]);
    check("scripts", "scripts/x.py", &"pass\n".repeat(401), &[401]);
    check("scripts", "scripts/x", &format!("#!/usr/bin/env python3\n{}", "pass\n".repeat(400)), &[401]);
}

#[test]
fn no_path_of_one_machine_is_written_down() {
    check("machine_paths", "README.md", concat!("fine\nsee /ro", "ot/x"), &[2]);
    check("machine_paths", "scripts/x", concat!("cd /wo", "rk/main"), &[1]);
    check("machine_paths", "src/http/x.rs", "//! Below ~/.sanctum-mlx and /usr/bin.", &[]);
}
