//! The promise about the promises (V8): every claimed row has a test that carries its id, and the script that says so
//! from a test run really fails when a row is not shown.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::source;

fn root() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo and nextest set it for a running test"))
}

/// Whether each row is claimed.
fn claims(root: &Path) -> BTreeMap<String, bool> {
    let text = fs::read_to_string(root.join("tests/guarantees.toml")).expect("the rows are there");
    let rows: toml::Table = text.parse().expect("the rows are TOML");
    let claimed =
        |row: &toml::Value| row.get("claimed").and_then(toml::Value::as_bool).expect("a row says if it is claimed");
    rows.iter().map(|(id, row)| (id.clone(), claimed(row))).collect()
}

#[test]
fn v8_every_claimed_row_has_a_test_that_carries_its_id() {
    let root = root();
    let sources = source::tree(&root);
    let functions: Vec<&str> = sources.iter().flat_map(functions).collect();
    let begins = |name: &str, id: &str| name.split('_').map_while(row).any(|word| word == id);
    let claims = claims(&root);
    assert!(claims.len() > 80, "the rows were cut");
    let bare: Vec<&String> = claims
        .iter()
        .filter(|(id, claimed)| **claimed && !functions.iter().any(|name| begins(name, id)))
        .map(|(id, _)| id)
        .collect();
    assert!(bare.is_empty(), "claimed rows without a test: {bare:?}");
    let claimed = claims.values().filter(|claimed| **claimed).count();
    println!("V8, {claimed} trials run, {claimed} trials promised");
}

/// A word like `l5` as a row's id.
fn row(word: &str) -> Option<String> {
    let (letter, number) = word.split_at_checked(1)?;
    let id = "lpohtemiv".contains(letter) && number.parse::<u32>().is_ok();
    id.then(|| word.to_uppercase())
}

fn functions(source: &source::Source) -> impl Iterator<Item = &str> {
    source.tokens.windows(2).filter(|run| run[0].text == "fn").map(|run| run[1].text.as_str())
}

/// Runs the script over an output; its exit code and everything it said.
fn judge(rows: &str, output: &str) -> (i32, String) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (rows_path, output_path) = (folder.path().join("rows.toml"), folder.path().join("output"));
    fs::write(&rows_path, rows).and_then(|()| fs::write(&output_path, output)).expect("files can be written");
    let script = root().join("scripts/guarantees");
    let ran =
        Command::new(script).arg("--rows").arg(&rows_path).arg(&output_path).output().expect("bash and Python run");
    let said = [ran.stdout, ran.stderr].concat();
    (ran.status.code().expect("it exits"), String::from_utf8_lossy(&said).into_owned())
}

/// Rows with these ids, where they can be shown, and whether they are claimed.
fn rows(rows: &[(&str, &str, bool)]) -> String {
    let row = |(id, place, claimed): &(&str, &str, bool)| {
        format!(
            "[{id}]\nsentence = 's'\nnumber = 'n'\nwhere = '{place}'\nclaimed = {claimed}\ntrials = {{ test = 1, deep = 1 }}\n"
        )
    };
    rows.iter().map(row).collect()
}

#[test]
fn v8_the_script_fails_when_a_claimed_row_has_no_passing_test() {
    let two = rows(&[("L5", "L", true), ("P3", "L", true)]);
    let both = "test life::l5_exits ... ok\ntest p3_stalls ... ok\nL5, 36 trials run, 36 trials promised\n";
    let cases = [
        (both.to_owned(), 0, "2 of 2 claimed rows"),
        (both.replace("p3_stalls ... ok", "p3_stalls ... FAILED"), 1, "P3 FAILED"),
        (both.replace("p3_stalls", "stalls_p3_like"), 1, "P3 MISSING"),
        (both.replace("p3_stalls ... ok", "p3_stalls ... ignored"), 1, "P3 MISSING"),
        (both.replace("36 trials run", "35 trials run"), 1, "L5 SHORT"),
        (both.replace("l5_exits", "l5_p3_both").replace("p3_stalls", "other"), 0, "2 of 2 claimed rows"),
        ("nothing ran\n".to_owned(), 2, "no test result"),
    ];
    for (output, code, words) in cases {
        let (got, said) = judge(&two, &output);
        assert!(got == code && said.contains(words), "wanted {code} and {words:?}, got {got}:\n{said}\nfrom\n{output}");
    }
}

#[test]
fn v8_the_script_reads_nextest_and_junit_and_names_what_needs_a_mac() {
    let three = rows(&[("L5", "L", true), ("L13", "M", false), ("H9", "L", false)]);
    let nextest =
        "    PASS [   0.004s] (1/2) sanctum-mlx::it life::l5_exits\n\u{1b}[31m FAIL\u{1b}[0m [ 1.0s] crate h9_x\n";
    let (code, said) = judge(&three, nextest);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("H9 FAILED") && (cfg!(target_os = "macos") || said.contains("needs a Mac: L13")), "{said}");
    let junit = "<testsuites><testsuite><testcase name='life::l5_exits' classname='it'><system-out>L5, 2 trials run, 2 \
                 trials promised</system-out></testcase></testsuite></testsuites>";
    let (code, said) = judge(&three, junit);
    assert!(code == 0 && said.contains("2/2"), "{code} {said}");
    let (code, said) = judge(&three, &junit.replace("<system-out>", "<failure/><system-out>"));
    assert!(code == 1 && said.contains("L5 FAILED"), "{code} {said}");
    let (code, said) = judge(&three.replace("where = 'M'", "where = 'X'"), junit);
    assert!(code == 2 && said.contains("L13: where must be L, M or L/M"), "{code} {said}");
}
