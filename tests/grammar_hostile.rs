//! Grammars that are made to cost too much: nested quantifiers, exponential unions, huge lists, deep nesting, references
//! in circles. Each is refused with a reason or compiles; each row that follows one ends or fails; none takes more than
//! 64 MB or a thread with it (E3). One test, because the allocator counts for the whole process.

#[path = "grammar_hostile/corpus.rs"]
mod corpus;

use std::sync::Arc;
use std::time::{Duration, Instant};

use peak_alloc::PeakAlloc;
use sanctum_mlx::grammar::{Budget, Compiled, Fault, Pool, Vocabulary, Wanted, Worker, compile};
use sanctum_mlx::job::{Mask, allows};

use corpus::Fate::{self, Compiles, Refused};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What a compilation, and what a row may allocate.
const BYTES_MAX: usize = 64 << 20;

/// As many tokens as the default model has.
const TOKENS: u32 = 49_152;

/// How far a row goes.
const STEPS: u32 = 100;

/// One token a byte, and words of two to five letters, digits and spaces.
fn vocabulary() -> Arc<Vocabulary> {
    let alphabet: Vec<u8> = (b'a'..=b'z').chain(b'0'..=b'9').chain(*b" \n{}[]\":,.-_").collect();
    let bytes_of = |id: u32| match id {
        0 => Some(b"<end>".to_vec()),
        1..=256 => Some(vec![(id - 1) as u8]),
        _ => {
            let (mut number, mut word) = (id as usize, Vec::new());
            while number > 0 {
                word.push(alphabet[number % alphabet.len()]);
                number /= alphabet.len();
            }
            Some(word)
        }
    };
    Arc::new(Vocabulary::new(TOKENS, bytes_of, |id| id == 0, &[0]).expect("a valid vocabulary"))
}

/// Follows a grammar at random for some steps; the longest wait for a mask.
fn walk(worker: &Worker, compiled: &Compiled) -> Result<Duration, String> {
    let mut row = worker.constraint(compiled);
    let (mut dice, mut slowest) = (0x9e37_79b9_7f4a_7c15_u64, Duration::ZERO);
    for _ in 0..STEPS {
        let asked = Instant::now();
        let mask: Mask = row.mask()?.expect("a grammar always restricts");
        slowest = slowest.max(asked.elapsed());
        let words: Vec<u32> = (1..TOKENS).filter(|&token| allows(&mask, token)).collect();
        if words.is_empty() {
            assert!(allows(&mask, 0), "an empty mask");
            break;
        }
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        row.accept(words[(dice % words.len() as u64) as usize]);
    }
    Ok(slowest)
}

/// What a grammar did, in a line.
fn judge(vocabulary: &Arc<Vocabulary>, worker: &Worker, before: usize, wanted: &Wanted, fate: Fate) -> String {
    let pool = Pool::start().expect("threads");
    ALLOCATOR.reset_peak_usage();
    let asked = Instant::now();
    let patient = Budget { wall: Duration::from_mins(10), ..Budget::REQUEST };
    let result = compile(&pool, vocabulary, wanted.clone(), patient);
    let took = asked.elapsed();
    drop(pool);
    let bytes = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(bytes <= BYTES_MAX, "compiling allocated {bytes} bytes");
    match (result, fate) {
        (Err(error), Refused(words)) => {
            assert_eq!(error.fault(), Fault::Client, "{error}");
            assert!(error.to_string().contains(words), "{error}");
            format!("{took:>9.1?} {:>6} kB  refused: {error}", bytes >> 10)
        }
        (Ok(compiled), Compiles) => {
            ALLOCATOR.reset_peak_usage();
            let walked = walk(worker, &compiled);
            let walk_bytes = ALLOCATOR.peak_usage().saturating_sub(before);
            assert!(walk_bytes <= BYTES_MAX, "a row allocated {walk_bytes} bytes");
            format!("{took:>9.1?} {:>6} kB  row {:>6} kB, slowest mask {walked:.1?}", bytes >> 10, walk_bytes >> 10)
        }
        (Ok(_), Refused(words)) => panic!("it compiles; expected: {words}"),
        (Err(error), Compiles) => panic!("it is refused: {error}"),
    }
}

#[test]
fn e3_hostile_grammars_cost_little_and_are_told_why() {
    let (vocabulary, worker) = (vocabulary(), Worker::start().expect("a thread"));
    // What is allocated once, whoever asks first.
    judge(&vocabulary, &worker, 0, &Wanted::JsonObject, Compiles);
    let hostile = corpus::all();
    let before = ALLOCATOR.current_usage();
    for (name, wanted, fate) in &hostile {
        println!("{name:>36}: {}", judge(&vocabulary, &worker, before, wanted, *fate));
    }
}
