//! What was compared, as one Markdown table: a line for each way of serving, a column for each model and way of choosing
//! tokens. The README holds it between two marks; this file owns how it gets there and how one notices that it is old.

use std::fs;
use std::path::Path;

/// Between these the table stands in the README.
const BEGIN: &str = "<!-- equivalence: written by its test -->";
const END: &str = "<!-- /equivalence -->";
/// Set to 1, the test writes the table instead of comparing it.
const UPDATE: &str = "SANCTUM_MLX_UPDATE_README";
/// What writes it.
const COMMAND: &str = "SANCTUM_MLX_UPDATE_README=1 cargo test --features fault --test equivalence";

/// Rows of one model, chosen and served in one way, that gave the tokens of the plain way.
#[derive(Debug)]
struct Cell {
    column: String,
    way: &'static str,
    equal: usize,
    rows: usize,
}

/// Everything that was compared.
#[derive(Debug, Default)]
pub struct Table {
    cells: Vec<Cell>,
}

impl Table {
    /// So many of `rows` rows were equal.
    pub fn add(&mut self, column: String, way: &'static str, equal: usize, rows: usize) {
        self.cells.push(Cell { column, way, equal, rows });
    }

    /// Rows that were not.
    pub fn different(&self) -> usize {
        self.cells.iter().map(|cell| cell.rows - cell.equal).sum()
    }

    /// The table, in the order in which columns and ways came.
    pub fn markdown(&self) -> String {
        let columns = distinct(self.cells.iter().map(|cell| cell.column.as_str()));
        let ways = distinct(self.cells.iter().map(|cell| cell.way));
        let mut lines = vec![line("served", columns.iter().map(|column| (*column).to_owned()))];
        lines.push(line("---", columns.iter().map(|_| "---".to_owned())));
        for way in ways {
            let told = |column: &&str| {
                let cell = self.cells.iter().find(|cell| cell.way == way && cell.column == **column);
                cell.map_or_else(|| "–".to_owned(), |cell| format!("{} of {}", cell.equal, cell.rows))
            };
            lines.push(line(way, columns.iter().map(told)));
        }
        lines.join("\n")
    }

    /// Compares the README with the table, or writes it there when asked to.
    pub fn check_readme(&self) {
        let root = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo and nextest set it for a running test");
        let path = Path::new(&root).join("README.md");
        let readme = fs::read_to_string(&path).expect("the README is there");
        let wanted = placed(&readme, &self.markdown());
        if std::env::var_os(UPDATE).is_some_and(|value| value == "1") {
            return fs::write(&path, wanted).expect("the README can be written");
        }
        assert!(readme == wanted, "the README does not hold this table; write it by\n  {COMMAND}");
    }
}

fn line(first: &str, cells: impl Iterator<Item = String>) -> String {
    std::iter::once(first.to_owned()).chain(cells).fold("|".to_owned(), |line, cell| line + " " + &cell + " |")
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for name in names {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// The text with the table between its marks.
fn placed(readme: &str, table: &str) -> String {
    let (before, rest) = readme.split_once(BEGIN).expect("the README has the mark at which the table begins");
    let (_, after) = rest.split_once(END).expect("the README has the mark at which the table ends");
    format!("{before}{BEGIN}\n{table}\n{END}{after}")
}

#[test]
fn a_table_that_is_old_or_new_to_the_readme_is_seen_and_replaced() {
    let mut table = Table::default();
    table.add("tiny, greedy".to_owned(), "chunks of 1", 8, 8);
    table.add("tiny, drawn".to_owned(), "chunks of 1", 7, 8);
    table.add("tiny, greedy".to_owned(), "batch", 8, 8);
    let text = "| served | tiny, greedy | tiny, drawn |\n| --- | --- | --- |\n| chunks of 1 | 8 of 8 | 7 of 8 |\n\
                | batch | 8 of 8 | – |";
    assert_eq!((table.markdown().as_str(), table.different()), (text, 1));
    let readme = format!("a\n{BEGIN}\nold\n{END}\nb\n");
    let now = placed(&readme, text);
    assert_eq!(now, format!("a\n{BEGIN}\n{text}\n{END}\nb\n"));
    assert_ne!(now, readme);
    assert_eq!(placed(&now, text), now, "what is up to date stays as it is");
}
