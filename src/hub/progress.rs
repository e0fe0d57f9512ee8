//! How a download shows that it moves: bars on a terminal, a line for each tenth elsewhere. Speech goes to stderr.

use std::io::{IsTerminal, stderr};

use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};

/// Lines are written when another of this many parts is there.
const LINES_PER_FILE: u64 = 10;

/// What a download tells while it runs, one file after the other.
pub trait Progress {
    /// A file begins (or begins anew); `have` of its `bytes` are already there.
    fn begin(&mut self, file: &str, bytes: u64, have: u64);
    /// More bytes of it arrived.
    fn advance(&mut self, bytes: u64);
    /// It is complete and was checked.
    fn end(&mut self);
}

/// Bars where stderr is a terminal, lines where it is not.
#[must_use]
pub fn on_stderr() -> Box<dyn Progress> {
    if stderr().is_terminal() {
        Box::new(Bars(ProgressBar::hidden()))
    } else {
        Box::new(Lines::new(|line| eprintln!("{line}")))
    }
}

/// One bar at a time.
struct Bars(ProgressBar);

impl Progress for Bars {
    fn begin(&mut self, file: &str, bytes: u64, have: u64) {
        let template =
            "{msg:32!} {bar:32} {decimal_bytes:>10} of {decimal_total_bytes:10} {decimal_bytes_per_sec} {eta}";
        let style = ProgressStyle::with_template(template).expect("the template is a literal");
        self.0.abandon();
        self.0 = ProgressBar::new(bytes).with_style(style).with_message(file.to_owned()).with_position(have);
        // The rate is that of this download, not of what an earlier one left.
        self.0.reset_eta();
    }

    fn advance(&mut self, bytes: u64) {
        self.0.inc(bytes);
    }

    fn end(&mut self) {
        self.0.finish();
    }
}

/// A few lines for each file.
struct Lines<W: FnMut(String)> {
    write: W,
    file: String,
    bytes: u64,
    have: u64,
    tenths_told: u64,
}

impl<W: FnMut(String)> Lines<W> {
    fn new(write: W) -> Self {
        Self { write, file: String::new(), bytes: 0, have: 0, tenths_told: 0 }
    }

    fn tenths(&self) -> u64 {
        (self.have * LINES_PER_FILE).checked_div(self.bytes).unwrap_or(LINES_PER_FILE)
    }
}

impl<W: FnMut(String)> Progress for Lines<W> {
    fn begin(&mut self, file: &str, bytes: u64, have: u64) {
        (self.file, self.bytes, self.have) = (file.to_owned(), bytes, have);
        self.tenths_told = self.tenths();
        let have = if have > 0 { format!(", {} there already", DecimalBytes(have)) } else { String::new() };
        (self.write)(format!("{file}: {}{have}", DecimalBytes(bytes)));
    }

    fn advance(&mut self, bytes: u64) {
        self.have += bytes;
        // The last tenth is told by `end`, once the file was checked.
        if self.tenths() > self.tenths_told && self.have < self.bytes {
            self.tenths_told = self.tenths();
            (self.write)(format!("{}: {} %", self.file, self.tenths_told * 100 / LINES_PER_FILE));
        }
    }

    fn end(&mut self) {
        (self.write)(format!("{}: complete", self.file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_for_each_tenth_that_arrives() {
        let mut lines = Vec::new();
        let mut progress = Lines::new(|line| lines.push(line));
        progress.begin("a", 1000, 450);
        (0..11).for_each(|_| progress.advance(50));
        progress.end();
        progress.begin("empty", 0, 0);
        progress.end();
        let expected =
            ["a: 1.00 kB, 450 B there already", "a: 50 %", "a: 60 %", "a: 70 %", "a: 80 %", "a: 90 %", "a: complete"];
        assert_eq!(lines[..7], expected);
        assert_eq!(lines[7..], ["empty: 0 B", "empty: complete"]);
    }
}
