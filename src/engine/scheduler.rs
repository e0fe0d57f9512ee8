//! Which unit of work comes next, as a function of what runs: no clock, no channel, no randomness, no array. Decoding rows
//! go first, then one chunk's worth of prompt tokens, so that a long prompt never freezes the streams of others.
//!
//! Of several prompts the one with the fewest tokens left goes first, and of equal ones the oldest: a short request does
//! not wait for a long prompt, and a sibling starts only when what it shares with its elder is computed. Every fourth
//! chunk goes to the oldest prompt instead, so that nobody waits for ever.

use crate::engine::backend::RowId;

/// The chunks of which one goes to the oldest prompt, however long it is.
const CHUNKS_PER_TURN_OF_THE_OLDEST: u64 = 4;

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
    /// Rows to decode by one step.
    pub(crate) decode: Vec<RowId>,
    /// Rows whose prompts go on, by so many tokens at most, in this order.
    pub(crate) prefill: Vec<(RowId, u32)>,
}

/// Plans the next round. `rows` are the open rows, oldest first; a chunk has `chunk_tokens`; `chunks` were evaluated
/// before.
pub(crate) fn plan(rows: &[RowView], chunk_tokens: u32, chunks: u64) -> Round {
    let decode = rows.iter().filter(|view| view.prompt_left == 0).map(|view| view.row).collect();
    let mut prompts: Vec<&RowView> = rows.iter().filter(|view| view.prompt_left > 0).collect();
    // Both sorts and the rotation keep the order of age among equals.
    let first = chunks % CHUNKS_PER_TURN_OF_THE_OLDEST == CHUNKS_PER_TURN_OF_THE_OLDEST - 1;
    let kept = usize::from(first).min(prompts.len());
    prompts[kept..].sort_by_key(|view| view.prompt_left);
    let mut room = chunk_tokens.max(1);
    let mut prefill = Vec::new();
    for view in prompts {
        let tokens = view.prompt_left.min(room);
        if tokens > 0 {
            prefill.push((view.row, tokens));
        }
        room -= tokens;
    }
    Round { decode, prefill }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(row: u64, prompt_left: u32) -> RowView {
        RowView { row: RowId(row), prompt_left }
    }

    #[test]
    fn decoding_rows_all_step_and_one_chunk_of_prompts_goes_on() {
        let round = plan(&[view(1, 0), view(2, 40), view(3, 0), view(4, 70)], 32, 0);
        assert_eq!(round.decode, [RowId(1), RowId(3)]);
        assert_eq!(round.prefill, [(RowId(2), 32)]);
    }

    #[test]
    fn a_chunk_is_shared_by_prompts_that_fit_the_shortest_first() {
        let round = plan(&[view(1, 40), view(2, 9), view(3, 12)], 32, 0);
        assert_eq!(round.prefill, [(RowId(2), 9), (RowId(3), 12), (RowId(1), 11)]);
    }

    #[test]
    fn equal_prompts_go_in_the_order_of_age() {
        assert_eq!(plan(&[view(7, 20), view(8, 20)], 32, 0).prefill, [(RowId(7), 20), (RowId(8), 12)]);
    }

    #[test]
    fn the_oldest_prompt_has_every_fourth_chunk() {
        let rows = [view(1, 4000), view(2, 30), view(3, 20)];
        let first = |chunks| plan(&rows, 16, chunks).prefill[0].0;
        assert_eq!((0..8).map(first).collect::<Vec<_>>(), [3, 3, 3, 1, 3, 3, 3, 1].map(RowId));
    }
}
