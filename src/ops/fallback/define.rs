//! The definition of a fallback that is `mlx_lm.server`, from our template. It owns where that lies and what is asked of its
//! parts before it is written; it starts nothing, and a definition that its owner wrote in another way is as good.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use hyper::Uri;

use crate::ops::definitions::{self, Fallback, Style};
use crate::ops::fallback::switch::startable;
use crate::ops::supervisor::Supervisor;
use crate::ops::watch::plan::{FILE, Plan};
use crate::platform::files;

/// A supervisor of the system reads it too, and there is no secret in it.
const MODE: u32 = 0o644;

/// Writes the definition, and the folder of its log, which launchd does not make; where it is.
///
/// # Errors
/// The interpreter cannot be started, a name cannot be written, or the plan names no port; nothing is written then.
pub(super) fn write(
    home: &Path,
    supervisor: &dyn Supervisor,
    plan: &Plan,
    python: &Path,
    model: &str,
) -> anyhow::Result<PathBuf> {
    let style = Style::of(supervisor);
    startable(python).context("--python")?;
    for named in [home, python, Path::new(model)] {
        if let Some(why) = definitions::refusal(style, named) {
            bail!("{why}");
        }
    }
    let port = port(&plan.fallback.url).with_context(|| {
        format!("{}: [fallback] url = {:?}, and a fallback answers at http://127.0.0.1:PORT", FILE, plan.fallback.url)
    })?;
    let rendered = definitions::fallback(style, Fallback { home, python, model, port });
    let logs = home.join("logs");
    std::fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
    let (name, text) = rendered.files.first().context("a definition is a file")?;
    let path = supervisor.definitions()?.join(name);
    files::keep(&path, text, MODE).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// The port of a plain URL on this machine.
fn port(url: &str) -> Option<u16> {
    let url: Uri = url.parse().ok()?;
    let local = matches!(url.host()?, "127.0.0.1" | "localhost");
    (url.scheme_str()? == "http" && local).then(|| url.port_u16().unwrap_or(80))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fallback_answers_on_a_plain_port_of_this_machine() {
        assert_eq!(port("http://127.0.0.1:1337"), Some(1337));
        assert_eq!(port("http://localhost"), Some(80));
        for url in ["https://127.0.0.1:1337", "http://10.0.0.7:1337", "127.0.0.1:1337", "", "http://"] {
            assert_eq!(port(url), None, "{url}");
        }
    }
}
