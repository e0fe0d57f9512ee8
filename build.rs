//! Compiles the C++ part (primitives of MLX's graph that call Rust), says where MLX's library is found at run time,
//! and which revision this is.

use std::{env, path::Path, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    publish_revision();
    compile_primitive();
    // macOS links MLX statically and looks for its metallib beside the binary first: nothing to say there.
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        set_run_path();
    }
}

/// Against the headers of the MLX that will be linked; mlx-sys publishes their folders on every system.
fn compile_primitive() {
    const SOURCES: [&str; 2] = ["src/kernels/cpu/primitive.cpp", "src/kernels/cpu/fuse.cpp"];
    for file in SOURCES.iter().chain(&["src/kernels/cpu/primitive.h"]) {
        println!("cargo:rerun-if-changed={file}");
    }
    // Set by scripts/asan, whose build of this crate has an OUT_DIR of its own.
    println!("cargo:rerun-if-env-changed=SANCTUM_MLX_SANITIZE");
    let folders = env::var("DEP_MLX_INCLUDE").expect("MLX is not prepared: run scripts/setup");
    let mut build = cc::Build::new();
    for folder in env::split_paths(&folders) {
        // As the system's own headers: their warnings are not ours to mend.
        build.flag("-isystem").flag(folder);
    }
    if let Ok(sanitizer) = env::var("SANCTUM_MLX_SANITIZE") {
        build.flag(format!("-fsanitize={sanitizer}"));
    }
    build.cpp(true).std("c++20").files(SOURCES).compile("sanctum_primitive");
}

/// An installed binary keeps its libraries in `../lib`; one in `target/` uses the folder made by `scripts/setup`.
fn set_run_path() {
    let runtime = env::var("DEP_MLX_RUNTIME").expect("MLX is not prepared: run scripts/setup");
    // DT_RPATH, unlike DT_RUNPATH, also holds for what libmlx.so itself loads.
    println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags");
    for folder in ["$ORIGIN/../lib", "$ORIGIN/../lib/mlx_cpu.libs", &runtime] {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
}

/// `SANCTUM_MLX_REVISION`: the commit, or "unknown" where there is no git or no commit yet.
fn publish_revision() {
    let revision = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=SANCTUM_MLX_REVISION={revision}");
    // The log of HEAD grows with each commit and checkout. A path that does not exist would rerun this every time.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo:rerun-if-changed={log}");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
