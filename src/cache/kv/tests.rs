//! A cache of every form against the list of tokens that it should remember.

use proptest::prelude::*;

use super::*;
use crate::kernels::Bits;
use crate::mlx::{from_f32, gauges, reset_peak, slice_update, to_f32_vec};

const HEADS: Heads = Heads { queries: 2, keys: 2, width: 64 };
/// Held while MLX's gauges are read: they are those of the process.
static GAUGES: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

/// Appends as attention does, to all arrays; of each token its mark.
fn append(cache: &mut KvCache, heads: Heads, marks: &[u32]) {
    let count = marks.len();
    let Stored { mut arrays, first, tokens, .. } = cache.take(heads, Dtype::Float32, count).expect("memory");
    for array in &mut arrays {
        let &[_, rows, _, width] = array.shape() else { panic!("four dimensions") };
        let values = (0..rows).flat_map(|_| marks.iter().flat_map(|mark| vec![*mark as f32; width as usize]));
        let new = from_f32(&values.collect::<Vec<_>>(), &[1, rows as usize, count, width as usize]);
        let new = new.as_dtype(array.dtype()).expect("small integers");
        *array = slice_update(array, &new, &[0, 0, tokens - first, 0]).expect("room");
    }
    cache.put(arrays, count);
}

/// What a token after these sees is there, in all arrays.
fn check(cache: &KvCache, marks: &[u32]) {
    assert_eq!(cache.tokens(), marks.len());
    let (from, to) = (cache.sees_from(marks.len()), marks.len());
    if from == to {
        // A token that sees itself only sees nothing of the cache, and MLX has no memory for nothing.
        return;
    }
    for array in cache.arrays() {
        let &[_, rows, _, width] = array.shape() else { panic!("four dimensions") };
        let (from_place, to_place) = (from - cache.kept.first, to - cache.kept.first);
        let seen = slice(array, &[0, 0, from_place, 0], &[1, rows as usize, to_place, width as usize]).expect("fits");
        let expected =
            (0..rows).flat_map(|_| marks[from..to].iter().flat_map(|mark| vec![*mark as f32; width as usize]));
        assert_eq!(to_f32_vec(&seen).expect("cpu"), expected.collect::<Vec<_>>());
    }
}

/// Marks of `count` tokens from `start` on.
fn marks(start: u32, count: u32) -> Vec<u32> {
    (start..start + count).collect()
}

fn coded(bits: Bits) -> Coding {
    Coding::affine(bits, HEADS.width).expect("it fits")
}

#[test]
fn what_is_appended_is_read_across_growth() {
    for coding in [Coding::Plain, coded(Bits::Four), coded(Bits::Eight)] {
        for window in [None, Some(1), Some(300)] {
            let mut cache = KvCache::new(window, coding, 0);
            let mut tokens = 0;
            for count in [1, 5, 250, 1, 1, 600, 1, 255, 2] {
                append(&mut cache, HEADS, &marks(tokens, count));
                tokens += count;
                check(&cache, &marks(0, tokens));
            }
        }
    }
}

#[test]
fn integers_take_as_many_bytes_as_their_bits_and_two_floats_a_group() {
    let bytes = |coding| {
        let mut cache = KvCache::new(None, coding, 0);
        append(&mut cache, HEADS, &[0]);
        cache.bytes() / (256 * 2 * HEADS.keys as u64)
    };
    assert_eq!([Coding::Plain, coded(Bits::Eight), coded(Bits::Four)].map(bytes), [256, 64 + 8, 32 + 8]);
}

#[test]
fn a_window_bounds_what_a_row_holds_however_long_it_gets() {
    for (window, pass, passes) in
        [(20, 1, 2000), (300, 1, 2000), (256, 7, 400), (257, 90, 30), (1, 600, 6), (700, 256, 12)]
    {
        let mut cache = KvCache::new(Some(window), Coding::Plain, 5_000);
        let most = cache.positions_max(pass).expect("it has a window");
        let mut tokens = 0;
        for _ in 0..passes {
            append(&mut cache, HEADS, &marks(tokens, pass as u32));
            tokens += pass as u32;
            eval(cache.arrays()).expect("cpu");
            assert!(cache.kept.capacity() <= most, "{} positions, {most} promised", cache.kept.capacity());
        }
        check(&cache, &marks(0, tokens));
        assert!(cache.kept.first > 0, "something was left behind");
    }
}

#[test]
fn what_is_out_of_sight_is_moved_once_in_256_tokens() {
    for window in [1, 255, 256, 257, 400] {
        let mut cache = KvCache::new(Some(window), Coding::Plain, 0);
        let (mut moves, mut first) = (0, 0);
        for token in 0..3_000 {
            append(&mut cache, HEADS, &[token]);
            moves += u32::from(cache.kept.first != first);
            first = cache.kept.first;
        }
        assert!((8..=12).contains(&moves), "{moves} moves with a window of {window}");
    }
}

#[test]
fn making_room_moves_one_layer_at_a_time() {
    let _alone = GAUGES.lock();
    let heads = Heads { queries: 64, keys: 64, width: 64 };
    let mut caches: Vec<KvCache> = (0..8).map(|_| KvCache::default()).collect();
    caches.iter_mut().for_each(|cache| append(cache, heads, &marks(0, 256)));
    eval(caches.iter().flat_map(KvCache::arrays)).expect("cpu");
    reset_peak().expect("gauges");
    caches.iter_mut().for_each(|cache| cache.make_room(1).expect("memory"));
    let (bytes, layer) = (caches.iter().map(KvCache::bytes).sum::<u64>(), caches[0].bytes());
    let gauges = gauges().expect("gauges");
    // Other tests of this process have arrays too, but none of this size.
    assert!(gauges.peak_bytes <= gauges.active_bytes + 2 * layer, "{gauges:?}, {bytes} in {} layers", caches.len());
    append(&mut caches[0], heads, &marks(256, 256));
    assert_eq!((caches[0].tokens(), caches[0].bytes()), (512, layer));
}

#[test]
fn a_fork_goes_its_own_way() {
    for coding in [Coding::Plain, coded(Bits::Four)] {
        for window in [None, Some(40)] {
            let mut cache = KvCache::new(window, coding, 0);
            append(&mut cache, HEADS, &marks(0, 300));
            let mut fork = cache.fork(200, 700).expect("memory");
            let theirs: Vec<u32> = marks(0, 200).into_iter().chain(marks(5_000, 500)).collect();
            append(&mut fork, HEADS, &theirs[200..]);
            check(&fork, &theirs);
            append(&mut cache, HEADS, &marks(300, 9));
            check(&cache, &marks(0, 309));
            assert_eq!(cache.fork(0, 5).expect("memory").tokens(), 0);
        }
    }
}

#[test]
fn a_cache_with_room_does_not_move_before_it_is_full() {
    let mut cache = KvCache::new(None, Coding::Plain, 600);
    append(&mut cache, HEADS, &[0]);
    let bytes = cache.bytes();
    append(&mut cache, HEADS, &marks(1, 700));
    assert_eq!(cache.bytes(), bytes);
    check(&cache, &marks(0, 701));
}

#[test]
fn what_is_trimmed_is_written_over() {
    for window in [None, Some(4), Some(600)] {
        let mut cache = KvCache::new(window, Coding::Plain, 0);
        append(&mut cache, HEADS, &marks(0, 1_000));
        append(&mut cache, HEADS, &marks(7_000, 300));
        cache.trim(300);
        check(&cache, &marks(0, 1_000));
        append(&mut cache, HEADS, &marks(1_000, 2));
        check(&cache, &marks(0, 1_002));
        cache.trim(1_002);
        append(&mut cache, HEADS, &marks(3, 1));
        check(&cache, &[3]);
    }
}

#[test]
fn a_window_that_has_moved_on_is_cut_near_its_end_or_at_its_snapshot() {
    let mut cache = KvCache::new(Some(50), Coding::Plain, 0);
    append(&mut cache, HEADS, &marks(0, 400));
    cache.snapshot();
    for at in 400..1_500 {
        append(&mut cache, HEADS, &[at]);
    }
    let cuts = [1_500, 1_500 - SPARE_TOKENS, 401, 400, 399, 305, 304].map(|tokens| cache.cut(tokens));
    // The arrays that it kept for the snapshot begin at 256, and a token sees 49 before it.
    assert_eq!(cuts, [1_500, 1_500 - SPARE_TOKENS, 400, 400, 399, 305, 0]);
    for tokens in [1_500 - SPARE_TOKENS, 400] {
        let mut fork = cache.fork(tokens, tokens + 1).expect("memory");
        check(&fork, &marks(0, tokens as u32));
        append(&mut fork, HEADS, &marks(tokens as u32, 20));
        check(&fork, &marks(0, tokens as u32 + 20));
    }
    let mut later = cache.fork(1_400, 1_401).expect("memory");
    assert_eq!(later.cut(400), 0, "a fork has its own snapshots only");
    later.snapshot();
    assert_eq!(later.left.bytes(), 0, "nothing is kept for a snapshot that is still there");
}

#[test]
fn appending_within_the_capacity_allocates_no_second_buffer() {
    let _alone = GAUGES.lock();
    let heads = Heads { queries: 256, keys: 256, width: 64 };
    let mut cache = KvCache::default();
    append(&mut cache, heads, &[1]);
    eval(cache.arrays()).expect("cpu");
    let before = gauges().expect("gauges").peak_bytes;
    for _ in 0..20 {
        append(&mut cache, heads, &[1]);
        eval(cache.arrays()).expect("cpu");
    }
    let grown = gauges().expect("gauges").peak_bytes.saturating_sub(before);
    assert!(grown < cache.bytes() / 4, "{grown} bytes more at the peak, for buffers of {} bytes", cache.bytes());
}

/// What may happen to a cache.
#[derive(Debug, Clone)]
enum Happening {
    Append(u32),
    /// Of the tokens of the last pass, so many at most.
    Trim(usize),
    Snapshot,
    /// Goes on as a fork of at most so many tokens.
    Fork(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (1_u32..9).prop_map(Happening::Append),
        2 => (100_u32..400).prop_map(Happening::Append),
        2 => (0_usize..400).prop_map(Happening::Trim),
        1 => Just(Happening::Snapshot),
        2 => (1_usize..1_500).prop_map(Happening::Fork),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_a_cache_remembers_the_tokens_that_it_says(
        happenings in proptest::collection::vec(happening(), 1..40),
        window in proptest::option::of(1_usize..600),
    ) {
        let heads = Heads { queries: 1, keys: 1, width: 1 };
        let mut cache = KvCache::new(window, Coding::Plain, 0);
        let (mut tokens, mut mark, mut last): (Vec<u32>, u32, usize) = (Vec::new(), 0, 0);
        for happening in happenings {
            match happening {
                Happening::Append(count) => {
                    let new = marks(mark, count);
                    append(&mut cache, heads, &new);
                    tokens.extend(new);
                    (mark, last) = (mark + count, count as usize);
                }
                Happening::Trim(count) => {
                    let count = count.min(last);
                    cache.trim(count);
                    tokens.truncate(tokens.len() - count);
                    last -= count;
                }
                Happening::Snapshot => {
                    cache.snapshot();
                    for at in [0, 1, tokens.len() / 2, tokens.len()] {
                        prop_assert!(cache.cut(at) <= at);
                    }
                }
                Happening::Fork(most) => {
                    let cut = cache.cut(most);
                    prop_assert!(cut <= most && (window.is_some() || cut == most.min(tokens.len())));
                    cache = cache.fork(cut, cut + 1).expect("memory");
                    tokens.truncate(cut);
                    last = 0;
                }
            }
            prop_assert_eq!(cache.cut(tokens.len() + 5), tokens.len());
            if !tokens.is_empty() {
                check(&cache, &tokens);
            }
        }
    }
}
