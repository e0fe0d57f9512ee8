//! How much is measured: all of it, or one round of everything to see that it works.

/// How much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// As many samples as the protocol asks for, on a machine that is watched.
    Full,
    /// One round of each, whatever else the machine does: figures without a verdict (`--quick`).
    Quick,
}

impl Effort {
    /// The number for this effort.
    pub fn of<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }

    /// What a figure means: nothing if it comes from a quick look.
    pub fn verdict(self, met: bool) -> Option<bool> {
        self.of(Some(met), None)
    }
}
