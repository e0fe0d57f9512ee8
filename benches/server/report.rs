//! What is told: rows, their targets, whether these were met. Printing only; nothing here measures, and nothing asserts.

use serde_json::{Value, json};

/// One measured quantity.
pub struct Row {
    /// The row of the performance page, with a word where it has several parts.
    pub id: &'static str,
    /// What was measured, and how.
    pub what: String,
    /// The figure that is judged, with its unit, and what one should know beside it.
    pub measured: String,
    /// The bound, as the performance page words it.
    pub target: &'static str,
    /// `None` when the figure could not be had under the conditions that the protocol asks for.
    pub met: Option<bool>,
    /// Every figure as numbers.
    pub figures: Value,
}

impl Row {
    fn verdict(&self) -> &'static str {
        match self.met {
            Some(true) => "met",
            Some(false) => "not",
            None => "?",
        }
    }

    fn json(&self) -> Value {
        let Self { id, what, measured, target, met, figures } = self;
        json!({"row": id, "what": what, "measured": measured, "target": target, "met": met, "figures": figures})
    }
}

/// The table, the rows that are not met first; then a JSON line per row.
pub fn print(mut rows: Vec<Row>) {
    rows.sort_by_key(|row| row.met.unwrap_or(false));
    let wide = |cell: fn(&Row) -> &str| rows.iter().map(|row| cell(row).chars().count()).max().unwrap_or(0);
    let (id, what, measured) = (wide(|row| row.id), wide(|row| &row.what), wide(|row| &row.measured));
    let target = wide(|row| row.target);
    println!("\n{:id$}  {:what$}  {:measured$}  {:target$}  met", "row", "what", "measured", "target");
    for row in &rows {
        let verdict = row.verdict();
        println!("{:id$}  {:what$}  {:measured$}  {:target$}  {verdict}", row.id, row.what, row.measured, row.target);
    }
    println!();
    for row in &rows {
        println!("{}", row.json());
    }
}
