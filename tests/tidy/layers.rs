//! Who may name whom, as data: the table of the architecture page. Where code and page differ, the reason stands here.

/// A module, whether it may name MLX, and the modules it may name besides itself.
pub struct Layer {
    pub module: &'static str,
    pub mlx: bool,
    pub names: &'static [&'static str],
}

const fn layer(module: &'static str, names: &'static [&'static str]) -> Layer {
    Layer { module, mlx: false, names }
}

const fn mlx(module: &'static str, names: &'static [&'static str]) -> Layer {
    Layer { module, mlx: true, names }
}

/// The table. It is the page's, but for two rows, which name `platform` because it knows nothing of ours and because
/// what they need from it may stand nowhere else: `engine` reads the clock that its heartbeat is measured by, and `model`
/// reads weights through a mapped file, whose one `unsafe` belongs there. `app` stands last and may name every module, but not MLX.
pub const LAYERS: &[Layer] = &[
    layer("config", &[]),
    layer("platform", &[]),
    layer("lifecycle", &["platform"]),
    layer("telemetry", &["platform"]),
    layer("job", &[]),
    layer("api", &[]),
    layer("text", &["job"]),
    layer("grammar", &["text", "job"]),
    layer("prefix", &[]),
    layer("engine", &["platform", "lifecycle", "telemetry", "job", "prefix"]),
    mlx("mlx", &["telemetry"]),
    mlx("kernels", &["mlx"]),
    mlx("cache", &["mlx", "kernels"]),
    mlx("nn", &["mlx", "kernels", "cache"]),
    mlx("sample", &["job", "mlx", "kernels"]),
    mlx("model", &["platform", "mlx", "kernels", "cache", "nn"]),
    mlx("runner", &["telemetry", "job", "prefix", "engine", "mlx", "cache", "sample", "model"]),
    layer("hub", &["config", "telemetry"]),
    layer("client", &["config", "api"]),
    layer("http", &["config", "lifecycle", "telemetry", "job", "api", "text", "grammar", "engine"]),
    layer("ops", &["config", "platform", "telemetry", "client"]),
];

/// The one that ties the knot.
pub const APP: &str = "app";

/// Modules in which `unsafe` may stand.
pub const UNSAFE: [&str; 3] = ["mlx", "kernels", "platform"];

/// Where a thread may sleep, and why nothing could wake it instead.
pub const SLEEPERS: &[(&str, &str)] = &[
    ("src/ops/certs/store.rs", "a lock held by another process cannot wake us"),
    ("src/lifecycle/", "the watch and exit threads keep time while everything else hangs, channels included"),
    ("src/engine/fault", "a fault that sleeps is the point"),
    ("src/engine/tests/interleaved.rs", "there a sleep is how the scheduler of the schedules is let choose"),
    ("src/app/loading.rs", "the injected fault of a slow load"),
    ("src/hub/download.rs", "the pause between two tries of a download; nothing could end it sooner"),
    ("tests/it/support/", "the one helper that polls another process until a deadline"),
];
