//! What a step costs besides the model: the engine's own turn (commands, those who left, admission, the plan, events) with
//! 64 rows on a backend that computes nothing. The bound is 50 µs a step.
//!
//! `cargo bench --bench scheduler`. Foreign load moves the figures; Criterion says how much they scatter.

#[path = "server/null.rs"]
#[allow(dead_code, reason = "steps are written down for whoever asks, which this bench does not")]
mod null;
#[path = "server/report.rs"]
mod report;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use sanctum_mlx::engine::EngineSettings;
use sanctum_mlx::engine::backend::{Capacity, Memory};
use sanctum_mlx::engine::handle::{Events, Handle};
use sanctum_mlx::engine::stepped::Stepped;
use sanctum_mlx::job::{Job, Limits, Sampling};
use sanctum_mlx::lifecycle::Lifecycle;
use serde_json::json;

use null::{Null, Shared};
use report::Row;

/// Rows that run, and jobs that wait where some do.
const ROWS: u32 = 64;
const WAITING: u32 = 64;
/// Tokens of an answer that outlives the measurement of one batch of turns.
const LONG: u32 = 4_096;
/// Tokens that the first row has when the first timed turn begins, and the one that it then gets.
const BEFORE_TIMED: u32 = 3;
/// Turns that are timed before the engine is set up anew.
const TURNS: u32 = 2_000;
/// Microseconds a step.
const STEP_US_MAX: f64 = 50.0;
/// Waiting jobs wait for as long as it takes.
const QUEUE_WAIT: Duration = Duration::from_secs(3_600);

/// What the engine is busy with.
#[derive(Clone, Copy)]
struct Scene {
    id: &'static str,
    what: &'static str,
    /// Whether every row is of an identity of its own.
    many_scopes: bool,
    /// Whether jobs wait for memory that the open rows have: admission looks at all of them in every step.
    short_of_memory: bool,
    /// Whether answers are so short that a row ends and another is admitted in every step.
    changing: bool,
}

const SCENES: [Scene; 4] = [
    Scene {
        id: "steady",
        what: "64 rows decode, nobody waits",
        many_scopes: false,
        short_of_memory: false,
        changing: false,
    },
    Scene {
        id: "waiting",
        what: "64 rows decode, 64 jobs of 64 identities wait for memory",
        many_scopes: true,
        short_of_memory: true,
        changing: false,
    },
    Scene {
        id: "changing",
        what: "in each step a row of 64 ends and a job of 64 identities is admitted",
        many_scopes: true,
        short_of_memory: false,
        changing: true,
    },
    Scene {
        id: "one scope",
        what: "the same, all of one identity",
        many_scopes: false,
        short_of_memory: false,
        changing: true,
    },
];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let rows: Vec<Row> = SCENES.into_iter().filter_map(|scene| measure(&mut criterion, scene)).collect();
    criterion.final_summary();
    report::print(rows);
}

/// Criterion's measurement of a scene, and the median of its samples as a row; `None` when it was not asked for.
fn measure(criterion: &mut Criterion, scene: Scene) -> Option<Row> {
    let samples = RefCell::new(Vec::new());
    criterion.bench_function(&format!("scheduler/{}", scene.id), |bencher| {
        bencher.iter_custom(|turns| {
            let took = run(scene, turns);
            samples.borrow_mut().push(took.as_secs_f64() * 1e6 / turns as f64);
            took
        });
    });
    let mut samples = samples.into_inner();
    samples.sort_by(f64::total_cmp);
    let median = *samples.get(samples.len() / 2)?;
    Some(Row {
        id: scene.id,
        what: scene.what.to_owned(),
        measured: format!("{median:.1} µs a step, {:.1} to {:.1}", samples[0], samples[samples.len() - 1]),
        target: "≤ 50 µs",
        met: Some(median <= STEP_US_MAX),
        figures: json!({"median_us": median, "samples_us": samples}),
    })
}

/// The time of so many turns, set-up left out.
fn run(scene: Scene, turns: u64) -> Duration {
    let (mut left, mut took) = (turns, Duration::ZERO);
    while left > 0 {
        let some = left.min(u64::from(TURNS)) as u32;
        took += Busy::new(scene).turns(some);
        left -= u64::from(some);
    }
    took
}

/// An engine at work, and its clients, who never read: their channels have room for everything.
struct Busy {
    engine: Stepped<Null>,
    handle: Handle,
    scene: Scene,
    events: Vec<Events>,
    jobs: u32,
}

impl Busy {
    fn new(scene: Scene) -> Self {
        // A token is a byte. Rows of the first 64 jobs fit; those that wait do not, if memory is short.
        let bytes_max = if scene.short_of_memory { u64::from(ROWS) * u64::from(LONG + 1) } else { u64::MAX };
        let memory = Memory { bytes_max, token_bytes: 1, ..Memory::UNCOUNTED };
        let rows_max = if scene.short_of_memory { ROWS + WAITING } else { ROWS };
        let capacity =
            Capacity { context_tokens: 8_192, logit_width: 1_024, rows_max, prefill_chunk_tokens: 512, memory };
        let backend = Null::new(vec![7], capacity, Shared::new());
        let settings = EngineSettings { queue_jobs_max: ROWS + WAITING, rows_max };
        let (engine, handle) = Stepped::new(settings, &Lifecycle::new(), backend);
        let mut busy = Self { engine, handle, scene, events: Vec::new(), jobs: 0 };
        (0..ROWS).for_each(|_| busy.submit());
        // The first turn evaluates all prompts, the second decodes all rows.
        (0..2).for_each(|_| busy.turn());
        if scene.short_of_memory || scene.changing {
            (0..WAITING).for_each(|_| busy.submit());
            busy.turn();
        }
        busy
    }

    fn turns(&mut self, turns: u32) -> Duration {
        let mut took = Duration::ZERO;
        for _ in 0..turns {
            let begun = Instant::now();
            self.turn();
            took += begun.elapsed();
            if self.scene.changing {
                // Whoever was admitted is followed by another who waits.
                self.submit();
            }
        }
        took
    }

    fn turn(&mut self) {
        assert!(self.engine.turn(Instant::now()).expect("the backend does not fail"), "there is always work");
    }

    fn submit(&mut self) {
        let scope = if self.scene.many_scopes { self.jobs % WAITING } else { 0 };
        let tokens_max = match self.scene.changing {
            false => LONG,
            // The first rows end one by one, in the steps that are timed, and those that follow them do so too.
            true if self.jobs < ROWS => BEFORE_TIMED + self.jobs,
            true => ROWS,
        };
        let limits = Limits { tokens_max, stop_tokens: Vec::new(), queue_deadline: Instant::now() + QUEUE_WAIT };
        let job = Job {
            id: self.handle.next_id(),
            prompt: vec![1],
            scope: Arc::from(format!("identity {scope}")),
            bucket: None,
            sampling: Sampling::greedy(),
            constraint: None,
            limits,
        };
        self.events.push(self.handle.submit(job).expect("there is room in the queue"));
        self.jobs += 1;
    }
}
