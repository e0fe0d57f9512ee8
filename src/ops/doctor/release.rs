//! What the next start executes: the installed program, else the one that runs now; its signature, and the library of
//! Metal beside it. It refuses to know how an installation is made.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::ops::doctor::system::{System, Tool};
use crate::ops::doctor::{Finding, quoted, size};
use crate::ops::installed::{self, Installed, Release};
use crate::ops::manifest;

/// The library of Metal's kernels; MLX looks for it beside the program first.
const METALLIB: &str = "mlx.metallib";

/// What was installed for `home`.
pub(super) fn installation(home: &Path) -> (Finding, Option<Installed>) {
    const CHECK: &str = "installation";
    match Installed::of(home) {
        Ok(Some(installed)) => {
            let detail = format!("{} is in service", quoted(&installed.release));
            (Finding::ok(CHECK, detail), Some(installed))
        }
        Ok(None) => (Finding::not_applicable(CHECK, "nothing is installed; what runs now is looked at"), None),
        Err(error) => {
            let remedy = "move it away and run `sanctum-mlx install` again";
            (Finding::fail(CHECK, format!("{error:#}"), remedy), None)
        }
    }
}

/// The file that the next start executes.
pub(super) fn program(home: Option<&Path>, installed: Option<&Installed>) -> io::Result<PathBuf> {
    match (home, installed) {
        (Some(home), Some(_)) => Ok(installed::program(home)),
        _ => std::env::current_exe(),
    }
}

/// Everything about that file.
pub(super) fn examine(program: io::Result<PathBuf>, system: &dyn System) -> Vec<Finding> {
    let path = match program {
        Ok(path) => path,
        Err(error) => {
            return vec![Finding::fail("binary", format!("cannot be found ({error})"), "start it by its full path")];
        }
    };
    let metallib = if cfg!(target_os = "macos") {
        metallib(&path)
    } else {
        Finding::not_applicable("metallib", "the CPU backend of this system needs none")
    };
    vec![binary(&path), signature(&path, system), metallib]
}

pub(super) fn binary(path: &Path) -> Finding {
    const CHECK: &str = "binary";
    let shown = quoted(path);
    match fs::metadata(path) {
        Err(error) => Finding::fail(CHECK, format!("{shown}: {error}"), "the file was removed; install it again"),
        Ok(facts) if !facts.is_file() || facts.permissions().mode() & 0o111 == 0 => {
            Finding::fail(CHECK, format!("{shown} is no executable file"), format!("chmod +x {shown}"))
        }
        Ok(_) if in_a_build_folder(path) => {
            let remedy = "a clean-up of the build removes it; `sanctum-mlx install` makes a copy for production";
            Finding::warn(CHECK, format!("{shown} lies in a build folder"), remedy)
        }
        Ok(facts) => Finding::ok(CHECK, format!("{shown}, {}", size(facts.len()))),
    }
}

fn in_a_build_folder(path: &Path) -> bool {
    // Where it really lies: `current` is a link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    path.components().any(|part| part.as_os_str() == "target")
}

/// That the file is what its maker made: by its signature on a Mac, elsewhere by the hash that was written down.
pub(super) fn signature(path: &Path, system: &dyn System) -> Finding {
    const CHECK: &str = "signature";
    let shown = path.to_string_lossy();
    match system.ask(Tool::Codesign, &["--verify", "--strict", &shown]) {
        None => recorded(CHECK, path),
        Some(Ok(ended)) if ended.status.success() => {
            Finding::ok(CHECK, format!("{} is as it was signed", quoted(path)))
        }
        Some(Ok(ended)) => {
            let remedy = "macOS kills what is signed wrongly: install it again, or `scripts/sign` a build";
            Finding::fail(CHECK, format!("codesign: {}", ended.words()), remedy)
        }
        Some(Err(error)) => Finding::warn(CHECK, error.to_string(), "run `codesign --verify --strict` by hand"),
    }
}

/// The hash of the installed file against the record of its release.
fn recorded(check: &'static str, path: &Path) -> Finding {
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = real.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    if !folder.join("release.json").exists() {
        let why =
            "this system does not sign code; the install record holds the hash instead, and this is not installed";
        return Finding::not_applicable(check, why);
    }
    let remedy = "install it again: `sanctum-mlx install`";
    let compared = Release::of(folder).and_then(|release| {
        let name = real.strip_prefix(folder).unwrap_or(&real).to_owned();
        let file = release.files.into_iter().find(|file| file.path == name);
        Ok((file.map(|file| file.sha256), manifest::sha256(&real)?))
    });
    match compared {
        Err(error) => Finding::fail(check, format!("{error:#}"), remedy),
        Ok((None, _)) => Finding::fail(check, format!("the install record does not know {}", quoted(&real)), remedy),
        Ok((Some(wanted), hash)) if wanted != hash => {
            Finding::fail(check, format!("{} has SHA-256 {hash}, recorded is {wanted}", quoted(&real)), remedy)
        }
        Ok(_) => Finding::ok(check, "none on this system; its SHA-256 is the one in the install record"),
    }
}

/// The library beside the program that is really executed.
pub(super) fn metallib(program: &Path) -> Finding {
    const CHECK: &str = "metallib";
    let real = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    let path = real.with_file_name(METALLIB);
    match fs::metadata(&path) {
        Ok(facts) if facts.is_file() && facts.len() > 0 => {
            Finding::ok(CHECK, format!("{}, {}", quoted(&path), size(facts.len())))
        }
        Ok(_) => Finding::fail(CHECK, format!("{} is empty or no file", quoted(&path)), "install it again"),
        Err(_) if in_a_build_folder(&real) => {
            let remedy = "`sanctum-mlx install` copies it beside the program";
            Finding::warn(CHECK, "not beside the program; MLX uses the one of its own build folder", remedy)
        }
        Err(error) => {
            let remedy = "MLX cannot use the GPU without it: `sanctum-mlx install` copies it beside the program";
            Finding::fail(CHECK, format!("{}: {error}", quoted(&path)), remedy)
        }
    }
}
