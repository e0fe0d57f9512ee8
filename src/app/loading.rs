//! From the name of a model to everything that `serve` needs of it: files found and checked, text ready, and a loader
//! for the inference thread. It owns the translation between layers that must not know each other (`model` and `text`,
//! `model` and `http`). What can be wrong with a model is said here, before anything is bound.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use anyhow::Context;

use crate::cache::{Bits, Coding};
use crate::config::settings::Settings;
use crate::engine::{Progress, StartFailure};
use crate::http::{Defaults, ModelCard, Served};
use crate::hub::{self, Access};
use crate::lifecycle::heartbeat::Unit;
use crate::model::LoadFailure;
use crate::model::registry::{self, Plan};
use crate::model::weights::{Checkpoint, GenerationDefaults, TextSource, Vocabulary};
use crate::ops::manifest::{self, Verified};
use crate::runner::{self, Runner, RunnerSettings};
use crate::telemetry::misses::Misses;
use crate::text::Text;
use crate::text::vocabulary::GgufVocabulary;

/// The id of the model that comes without a name.
const DEFAULT_ID: &str = "SmolLM2-135M-Instruct";
/// Digits of a model's commit that the fingerprint shows.
const REVISION_DIGITS: usize = 12;
/// One line of progress for so many parts of a load.
const PROGRESS_PARTS: usize = 4;

/// A model whose files are sound and whose text side is ready; nothing is on the device yet.
pub(super) struct Opened {
    pub(super) card: ModelCard,
    /// How its keys and values will be stored.
    pub(super) coding: Coding,
    text: Arc<Text>,
    checkpoint: Arc<Checkpoint>,
    plan: Plan,
    /// The loaded model is kept in memory that is never paged out.
    wired: bool,
}

/// Finds the model and checks everything that can be known without reading a weight.
pub(super) fn open(settings: &Settings) -> anyhow::Result<Opened> {
    let model = settings.model.as_deref();
    let path = Access::from_env()?.obtain(model, &settings.home, hub::on_stderr().as_mut())?;
    if let Some(key) = &settings.manifest {
        let Verified { files, bytes_read } = manifest::verify(&settings.home, &path, key)?;
        tracing::info!(files, bytes_read, "the model is what was signed");
    }
    let checkpoint = Checkpoint::open(&path)?;
    let plan = registry::check(&checkpoint)?;
    let coding = coding(settings.kv_bits, &plan).with_context(|| path.display().to_string())?;
    let text = read_text(&checkpoint).with_context(|| path.display().to_string())?;
    let card = ModelCard {
        id: model.map_or_else(|| DEFAULT_ID.to_owned(), |name| id_of(name, &path)),
        aliases: settings.aliases.clone(),
        created: created(&path),
        context_tokens: plan.context_tokens,
        quantization: checkpoint.quantisation(),
        adapter: None,
        fingerprint: fingerprint(&checkpoint, &path),
        defaults: defaults(checkpoint.generation_defaults()),
    };
    let (text, checkpoint) = (Arc::new(text), Arc::new(checkpoint));
    Ok(Opened { card, coding, text, checkpoint, plan, wired: settings.wired })
}

impl Opened {
    /// What `http` may know of the loaded model.
    pub(super) fn served(&self) -> Served {
        Served::new(self.card.clone(), Arc::clone(&self.text))
    }

    /// Puts the model on the device; for the inference thread.
    pub(super) fn loader(
        &self,
        settings: RunnerSettings,
        misses: Misses,
    ) -> impl FnOnce(&Progress) -> Result<Runner, StartFailure> + Send + 'static {
        let (checkpoint, plan, wired) = (Arc::clone(&self.checkpoint), self.plan.clone(), self.wired);
        move |progress| {
            let loaded = Cell::new(0_usize);
            let report = |step: runner::Progress<'_>| match step {
                runner::Progress::Tensor { of, .. } => {
                    loaded.set(loaded.get() + 1);
                    if loaded.get().is_multiple_of(of.div_ceil(PROGRESS_PARTS).max(1)) || loaded.get() == of {
                        tracing::info!("loaded {} of {of} tensors", loaded.get());
                    }
                    progress.beat(Unit::TensorLoaded);
                }
                runner::Progress::WarmUp => progress.beat(Unit::WarmUp),
            };
            let loaded = Runner::load(checkpoint.as_ref(), &plan, settings, &report);
            let loaded = loaded.map(|runner| runner.counting(misses)).map_err(|failure| match failure {
                failure @ LoadFailure::Memory { .. } => StartFailure::Model(failure.to_string()),
                LoadFailure::Checkpoint(error) => StartFailure::Model(error.to_string()),
                LoadFailure::Device(error) => StartFailure::Device(error.to_string()),
            });
            loaded.inspect(|runner| runner.wire(wired))
        }
    }
}

#[cfg(feature = "fault")]
mod faults {
    use tokio::runtime::Handle;

    use super::{Misses, Opened, Progress, Runner, RunnerSettings, Settings, StartFailure};
    use crate::engine::fault::{Fault, Faulty, Kind};

    /// Tasks per worker that park, so that every worker takes one.
    const TASKS_PER_WORKER: usize = 8;

    /// The faults that were asked for.
    pub(in crate::app) fn asked_for(settings: &Settings) -> Result<Vec<Fault>, String> {
        settings.faults.iter().map(|text| text.parse()).collect()
    }

    impl Opened {
        /// As `loader`, with a backend that goes wrong as told.
        pub(in crate::app) fn faulty_loader(
            &self,
            settings: RunnerSettings,
            misses: Misses,
            faults: Vec<Fault>,
            public: Handle,
        ) -> impl FnOnce(&Progress) -> Result<Faulty<Runner>, StartFailure> + Send + 'static {
            let load = self.loader(settings, misses);
            let stop_token = self.text.end_ids().first().copied().unwrap_or_default();
            move |progress| {
                for fault in &faults {
                    if let Kind::SlowLoad(time) = fault.kind {
                        std::thread::sleep(time);
                    }
                }
                let block_workers = Box::new(move || block_every_worker(&public));
                Ok(Faulty::new(load(progress)?, faults, stop_token, block_workers))
            }
        }
    }

    /// Parks every worker of the public runtime for ever.
    fn block_every_worker(public: &Handle) {
        tracing::warn!("blocking every worker of the public runtime");
        for _ in 0..public.metrics().num_workers() * TASKS_PER_WORKER {
            public.spawn(async {
                loop {
                    std::thread::park();
                }
            });
        }
    }
}

#[cfg(feature = "fault")]
pub(super) use faults::asked_for;

fn coding(kv_bits: Option<u32>, plan: &Plan) -> anyhow::Result<Coding> {
    let bits = match kv_bits {
        None => return Ok(Coding::Plain),
        Some(4) => Bits::Four,
        Some(8) => Bits::Eight,
        Some(bits) => unreachable!("no word of kv_bits is {bits}"),
    };
    let width = plan.head_width;
    Coding::affine(bits, width)
        .with_context(|| format!("kv_bits wants heads of a multiple of 32 elements; those of this model have {width}"))
}

fn read_text(checkpoint: &Checkpoint) -> anyhow::Result<Text> {
    Ok(match checkpoint.text_source() {
        TextSource::Json { tokenizer_json, tokenizer_config, template } => {
            Text::from_json(tokenizer_json, tokenizer_config, template.as_deref(), checkpoint.stop_tokens())?
        }
        TextSource::Gguf(vocabulary) => {
            Text::from_gguf(vocabulary_of(vocabulary), vocabulary.chat_template.as_deref())?
        }
    })
}

fn vocabulary_of(vocabulary: &Vocabulary) -> GgufVocabulary {
    GgufVocabulary {
        model: vocabulary.model.clone(),
        pre: vocabulary.pre.clone(),
        tokens: vocabulary.tokens.clone(),
        token_types: vocabulary.token_types.clone(),
        merges: vocabulary.merges.clone(),
        scores: vocabulary.scores.clone(),
        bos: vocabulary.bos,
        eos: vocabulary.eos,
        unknown: vocabulary.unknown,
        padding: vocabulary.padding,
        add_bos: vocabulary.add_bos,
        add_space_prefix: vocabulary.add_space_prefix,
    }
}

/// A hub name as it was given, without its revision; a path's last part, without `.gguf`.
fn id_of(name: &str, path: &Path) -> String {
    if Path::new(name).exists() {
        let stem = if path.is_file() { path.file_stem() } else { path.file_name() };
        return stem.map_or_else(|| name.to_owned(), |stem| stem.to_string_lossy().into_owned());
    }
    name.split('@').next().unwrap_or(name).to_owned()
}

/// Unix seconds of the model's files; 0 where the system does not say.
fn created(path: &Path) -> u64 {
    let modified = path.metadata().and_then(|metadata| metadata.modified()).ok();
    modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_secs())
}

/// Version and revision of the program, revision of the model if it came from the hub, and representation of the weights
/// in one word.
fn fingerprint(checkpoint: &Checkpoint, path: &Path) -> String {
    let (version, revision) = (env!("CARGO_PKG_VERSION"), env!("SANCTUM_MLX_REVISION"));
    let model = hub::commit_of(path).map(|commit| format!("{}-", &commit[..REVISION_DIGITS])).unwrap_or_default();
    format!("sanctum-mlx-{version}-{revision}-{model}{}", checkpoint.quantisation())
}

fn defaults(recommended: &GenerationDefaults) -> Defaults {
    let GenerationDefaults { temperature, top_p, top_k, min_p, repetition_penalty } = *recommended;
    Defaults { temperature, top_p, top_k, min_p, repetition_penalty }
}
