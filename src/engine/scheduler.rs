//! Which unit of work comes next, as a function of what waits and what runs: no clock, no channel, no randomness, no
//! array. Decoding rows go first, then one prefill chunk, so that a long prompt never freezes the streams of others; a
//! waiting job is admitted as soon as a row is free, in the order of arrival.

use crate::engine::backend::RowId;

/// What the scheduler sees of one open row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowView {
    /// Whose row.
    pub(crate) row: RowId,
    /// Prompt tokens not yet evaluated; 0 means that the row decodes.
    pub(crate) prompt_left: u32,
}

/// One round of work between two looks at the commands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Round {
    /// Waiting jobs to admit first.
    pub(crate) admit: u32,
    /// Rows to decode by one token.
    pub(crate) decode: Vec<RowId>,
    /// A row whose prompt goes on by one chunk.
    pub(crate) prefill: Option<RowId>,
}

impl Round {
    /// Whether there is nothing to do but to wait for a command.
    pub(crate) fn is_idle(&self) -> bool {
        self.admit == 0 && self.decode.is_empty() && self.prefill.is_none()
    }
}

/// Plans the next round. `rows` are the open rows, oldest first.
pub(crate) fn plan(waiting: u32, rows: &[RowView], rows_max: u32) -> Round {
    let open = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    Round {
        admit: waiting.min(rows_max.saturating_sub(open)),
        decode: rows.iter().filter(|view| view.prompt_left == 0).map(|view| view.row).collect(),
        prefill: rows.iter().find(|view| view.prompt_left > 0).map(|view| view.row),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(row: u64, prompt_left: u32) -> RowView {
        RowView { row: RowId(row), prompt_left }
    }

    #[test]
    fn decoding_rows_all_step_and_only_the_oldest_prompt_goes_on() {
        let round = plan(0, &[view(1, 0), view(2, 40), view(3, 0), view(4, 7)], 8);
        assert_eq!(round.decode, [RowId(1), RowId(3)]);
        assert_eq!(round.prefill, Some(RowId(2)));
    }

    #[test]
    fn no_more_jobs_are_admitted_than_rows_are_free() {
        assert_eq!(plan(9, &[view(1, 0)], 4).admit, 3);
        assert_eq!(plan(2, &[view(1, 0)], 4).admit, 2);
        assert_eq!(plan(9, &[view(1, 0), view(2, 0)], 2).admit, 0);
    }

    #[test]
    fn nothing_to_do_is_idle() {
        assert!(plan(0, &[], 8).is_idle());
    }
}
