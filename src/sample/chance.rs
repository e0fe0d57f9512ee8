//! Random numbers that are functions of a seed and a position, the same on every device and in every version of MLX.

/// Odd, and close to 2⁶⁴ / φ: the increment of SplitMix64.
const INCREMENT: u64 = 0x9E37_79B9_7F4A_7C15;
/// Bits of a number; with the half that is added they fill a single-precision fraction.
const FRACTION_BITS: u32 = 23;

/// A number between 0 and 1, neither of them, for the draw at `position`. Were it ever 0, the first token would be drawn
/// however unlikely it is.
pub(super) fn uniform(seed: u64, position: u64) -> f32 {
    // The seed is mixed on its own first: streams of neighbouring seeds would otherwise be shifts of each other.
    let state = mix(seed).wrapping_add(position.wrapping_add(1).wrapping_mul(INCREMENT));
    let bits = mix(state) >> (u64::BITS - FRACTION_BITS);
    (2 * bits + 1) as f32 / (2_u32 << FRACTION_BITS) as f32
}

/// SplitMix64's finaliser.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_below_one_and_spread_evenly() {
        let mut buckets = [0_u32; 16];
        for seed in 0..64 {
            for position in 0..256 {
                let number = uniform(seed, position);
                assert!(number > 0.0 && number < 1.0);
                buckets[(number * 16.0) as usize] += 1;
            }
        }
        let expected = f64::from(64 * 256 / 16);
        let chi_square: f64 = buckets.iter().map(|seen| (f64::from(*seen) - expected).powi(2) / expected).sum();
        // 15 degrees of freedom: above 37.7 once in a thousand.
        assert!(chi_square < 37.7, "chi square {chi_square}, {buckets:?}");
    }

    #[test]
    fn streams_of_neighbouring_seeds_are_not_shifts_of_each_other() {
        let stream = |seed| (0..64).map(|position| uniform(seed, position)).collect::<Vec<_>>();
        let (first, second) = (stream(7), stream(8));
        assert!(first.iter().all(|number| !second.contains(number)));
    }
}
