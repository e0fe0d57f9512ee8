//! Interleaved blocks: measured until enough of them saw a quiet machine, and what they say together. It owns which block
//! counts; it refuses to know what is in one.

use serde_json::{Value, json};

use crate::effort::Effort;
use crate::stats::{self, Conditions};
use crate::system::Process;

/// Blocks that must count.
const BLOCKS: usize = 7;
/// Blocks after which a noisy machine is given up.
const BLOCKS_MAX: usize = 2 * BLOCKS;

/// What was measured, block by block.
pub struct Blocks<T> {
    all: Vec<(T, Conditions)>,
    effort: Effort,
}

/// A quantity over all blocks that count.
pub struct Middle {
    /// The median, and where it lies with 95 % confidence; `None` when too few blocks count.
    found: Option<(f64, f64, f64)>,
    /// The median of every block, disturbed ones included.
    pub of_all: f64,
    discarded: usize,
    blocks: usize,
    effort: Effort,
    each: Vec<f64>,
}

impl<T> Blocks<T> {
    /// Measures. `own` are processes that belong to the measurement, besides this one.
    pub fn measure(name: &str, effort: Effort, own: &[Process], mut block: impl FnMut() -> T) -> Self {
        let mut blocks = Self { all: Vec::new(), effort };
        let (wanted, most) = effort.of((BLOCKS, BLOCKS_MAX), (1, 1));
        while blocks.all.len() < most && blocks.counted().count() < wanted {
            let (result, conditions) = Conditions::around_with(own, &mut block);
            eprintln!("{name}: block {}, {conditions:?}", blocks.all.len() + 1);
            blocks.all.push((result, conditions));
        }
        blocks
    }

    /// The blocks during which the machine was quiet.
    pub fn counted(&self) -> impl Iterator<Item = &T> {
        let fastest = self.all.iter().map(|(_, conditions)| conditions.calibration).fold(f64::INFINITY, f64::min);
        let quiet = move |conditions: &Conditions| !conditions.slowed(fastest) && !conditions.disturbed();
        let any = self.effort == Effort::Quick;
        self.all.iter().filter(move |(_, conditions)| any || quiet(conditions)).map(|(result, _)| result)
    }

    /// A quantity of each block, over those that count.
    pub fn middle(&self, quantity: impl Fn(&T) -> f64) -> Middle {
        let mut counted: Vec<f64> = self.counted().map(&quantity).collect();
        let each: Vec<f64> = self.all.iter().map(|(result, _)| quantity(result)).collect();
        let discarded = self.all.len() - counted.len();
        let enough = counted.len() >= self.effort.of(BLOCKS, 1);
        let found = enough.then(|| {
            let (low, high) = stats::interval(&counted);
            (stats::median(&mut counted), low, high)
        });
        let of_all = stats::median(&mut each.clone());
        Middle { found, of_all, discarded, blocks: self.all.len(), effort: self.effort, each }
    }
}

impl Middle {
    /// The figure as it is told.
    pub fn told(&self) -> String {
        match self.found {
            Some((middle, low, high)) => {
                format!("{middle:.3}, 95 % in {low:.3} to {high:.3}; {} discarded", self.discarded)
            }
            None => {
                format!("noisy: {} of {} discarded; {:.3} over all of them", self.discarded, self.blocks, self.of_all)
            }
        }
    }

    /// Whether the figure is what it should be; `None` when the machine was not quiet enough to say so.
    pub fn judged(&self, good: impl Fn(f64) -> bool) -> Option<bool> {
        self.found.and_then(|(middle, ..)| self.effort.verdict(good(middle)))
    }

    /// As numbers.
    pub fn figures(&self) -> Value {
        let found = self.found.map(|(middle, low, high)| json!({"median": middle, "low": low, "high": high}));
        json!({"counted": found, "of_all": self.of_all, "blocks": self.each, "discarded": self.discarded})
    }
}
