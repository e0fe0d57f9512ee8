//! How much memory is wired, if any is asked for: what is loaded and what its rows may take, and never what the system
//! needs to live beside us. Wired memory is not paged out, so too much of it brings a machine down that would otherwise
//! only have become slow (M3).

use crate::engine::backend::Capacity;
use crate::mlx;
use crate::runner::Runner;

/// Of what the GPU's driver recommends, left to everything else that draws and computes.
const RESERVE_BYTES: u64 = 1 << 30;

impl Runner {
    /// Wires the model and its rows, if that is `wanted`. Nothing depends on it: what cannot be had is logged.
    pub fn wire(&self, wanted: bool) {
        let bytes = if wanted { bytes(&self.capacity, mlx::recommended_bytes()) } else { 0 };
        if bytes == 0 {
            return;
        }
        match mlx::set_wired_limit(bytes) {
            Ok(_) => tracing::info!(bytes, "memory is wired"),
            Err(error) => tracing::warn!(%error, bytes, "memory cannot be wired"),
        }
    }
}

/// The weights and the states of as many rows as there may be, at most what is recommended less the reserve; 0 where
/// nothing is recommended, because there is nothing to wire for.
fn bytes(capacity: &Capacity, recommended: Option<u64>) -> u64 {
    let memory = &capacity.memory;
    let longest = memory.row_bytes(capacity.context_tokens);
    let rows = u64::from(capacity.rows_max).saturating_mul(longest).min(memory.rows_bytes_max());
    let needed = memory.fixed_bytes.saturating_add(rows);
    recommended.map_or(0, |most| needed.min(most.saturating_sub(RESERVE_BYTES)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::backend::Memory;

    const GIB: u64 = 1 << 30;

    fn capacity(bytes_max: u64, rows_max: u32) -> Capacity {
        let memory =
            Memory { bytes_max, fixed_bytes: 4 * GIB, token_bytes: 1 << 20, step_tokens: 256, window_tokens: u32::MAX };
        Capacity { context_tokens: 1024, logit_width: 1, rows_max, prefill_chunk_tokens: 1, memory }
    }

    #[test]
    fn what_is_loaded_and_its_rows_are_wired_and_never_the_reserve() {
        assert_eq!(bytes(&capacity(12 * GIB, 2), Some(12 * GIB)), 6 * GIB, "the weights and two rows of 1 GiB");
        assert_eq!(bytes(&capacity(5 * GIB, 2), Some(12 * GIB)), 5 * GIB, "rows have no more than the limit leaves");
        assert_eq!(bytes(&capacity(12 * GIB, 8), Some(12 * GIB)), 11 * GIB, "the reserve is not touched");
        assert_eq!(bytes(&capacity(12 * GIB, 8), Some(GIB / 2)), 0);
        assert_eq!(bytes(&capacity(12 * GIB, 8), None), 0, "no GPU, nothing to wire for");
    }

    /// Wires as much as may be, churns through buffers of all sizes, and lets go.
    #[cfg(target_os = "macos")]
    #[test]
    fn m3_wired_memory_is_off_at_first_and_as_much_as_is_ever_asked_for_can_be_had() {
        let capacity = capacity(u64::MAX, 128);
        let most = bytes(&capacity, mlx::recommended_bytes());
        assert_eq!(mlx::set_wired_limit(most).expect("within what is recommended"), 0, "nothing is wired by default");
        for round in 0..1_000_usize {
            let shape = [1 + round * 37 % 4_096, 1_024];
            let array = mlx::filled_f32(&shape, |_| Ok::<(), mlx::MlxError>(())).expect("memory can be had");
            mlx::eval([&array]).expect("memory can be had");
        }
        assert_eq!(mlx::set_wired_limit(0).expect("nothing is always allowed"), most);
        let told = mlx::recommended_bytes();
        assert!(told.is_none_or(|recommended| mlx::set_wired_limit(recommended + 1).is_err()), "and no more than that");
    }
}
