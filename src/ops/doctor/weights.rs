//! Whether a model's files are whole, without reading a weight: a safetensors file says in its header how long it is, the
//! index says which files there are, the manifest says what was signed. It refuses to hash anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use crate::ops::doctor::{Finding, quoted};
use crate::ops::manifest;

/// Names every file of a model of many.
const INDEX: &str = "model.safetensors.index.json";
/// Longest header; the format allows no more.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Most files that are told as wrong.
const TOLD_MAX: usize = 5;

/// What a header says of one tensor; `__metadata__` has no offsets.
#[derive(Debug, Deserialize)]
struct Tensor {
    data_offsets: Option<[u64; 2]>,
}

/// The part of the index that names files.
#[derive(Debug, Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Whether each of `files`, and each that the index names, is there and as long as it says.
pub(super) fn whole(model: &Path, files: &[PathBuf]) -> Finding {
    const CHECK: &str = "model files";
    let mut wrong = missing(model).unwrap_or_else(|error| vec![format!("{error:#}")]);
    let safetensors = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    let mut measured = 0;
    for path in safetensors {
        measured += 1;
        if let Err(error) = measure(path) {
            wrong.push(format!("{}: {error:#}", quoted(path)));
        }
    }
    if !wrong.is_empty() {
        let more = wrong.len().saturating_sub(TOLD_MAX);
        wrong.truncate(TOLD_MAX);
        if more > 0 {
            wrong.push(format!("{more} more"));
        }
        return Finding::fail(CHECK, wrong.join("; "), "fetch the model again: `sanctum-mlx pull`, or copy it whole");
    }
    if measured == 0 {
        return Finding::not_applicable(CHECK, "a GGUF file is measured when it is loaded");
    }
    Finding::ok(CHECK, format!("{measured} files are as long as their headers say"))
}

/// Files that the index names and that are not there.
fn missing(model: &Path) -> anyhow::Result<Vec<String>> {
    let path = model.join(INDEX);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read(&path).with_context(|| quoted(&path))?;
    let index: Index = serde_json::from_slice(&text).with_context(|| quoted(&path))?;
    let named: BTreeSet<String> = index.weight_map.into_values().collect();
    let gone = named.into_iter().filter(|name| !model.join(name).is_file());
    Ok(gone.map(|name| format!("{INDEX} names {name}, which is missing")).collect())
}

/// Compares the length of a safetensors file with what its header says: eight bytes of length, JSON, the tensors.
fn measure(path: &Path) -> anyhow::Result<()> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).context("is too short for a header")?;
    let length = u64::from_le_bytes(length);
    ensure!(length <= HEADER_BYTES_MAX && length <= bytes, "has no header of safetensors");
    let mut header = vec![0; usize::try_from(length)?];
    file.read_exact(&mut header).context("ends within its header")?;
    let tensors: BTreeMap<String, Tensor> = serde_json::from_slice(&header).context("has no header of safetensors")?;
    let end = tensors.values().filter_map(|tensor| tensor.data_offsets).map(|[_, end]| end).max().unwrap_or(0);
    let wanted = end.checked_add(8 + length).context("has a header without sense")?;
    if bytes != wanted {
        bail!("has {bytes} bytes, wants {wanted}: was it cut off?");
    }
    Ok(())
}

/// The manifest of a model: signed, and naming the files that are there. `demanded` is the key by which a start verifies.
pub(super) fn signed(home: &Path, model: &Path, demanded: Option<&Path>) -> Finding {
    const CHECK: &str = "manifest";
    match (manifest::glance(home, model, demanded), demanded) {
        (Ok(None), None) => Finding::not_applicable(CHECK, "there is none, and no start demands one (--manifest)"),
        (Ok(None), Some(_)) => {
            let remedy = format!("`sanctum-mlx manifest sign {}` makes it", quoted(model));
            Finding::fail(CHECK, format!("{} has none, and --manifest demands it", quoted(model)), remedy)
        }
        (Ok(Some(files)), _) => {
            let detail = format!("signed; names the {files} files that are there (`manifest verify` reads them)");
            Finding::ok(CHECK, detail)
        }
        (Err(error), demanded) => {
            let remedy = "bring the files back; if the change is yours, `sanctum-mlx manifest sign` it again";
            let wrong = format!("{error:#}");
            if demanded.is_some() { Finding::fail(CHECK, wrong, remedy) } else { Finding::warn(CHECK, wrong, remedy) }
        }
    }
}
