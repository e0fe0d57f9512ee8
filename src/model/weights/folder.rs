//! The tensors of a model folder: one safetensors file or several with an index, and MLX's triples of packed integers,
//! scales and biases told as one affine tensor. Every shape is checked against its scheme here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::model::weights::error::{Flaw, LoadError};
use crate::model::weights::files;
use crate::model::weights::quantisation::{Scheme, Schemes};
use crate::model::weights::safetensors::{self, TensorEntry, Type};
use crate::model::weights::tensor::{Dtype, Representation, Tensor};
use crate::platform::mapping::Mapping;

/// Most files that one model is spread over.
const SHARDS_MAX: usize = 1024;
/// Bits of a word that MLX packs integers into.
const WORD_BITS: usize = 32;

/// All tensors of a folder by name.
#[derive(Debug)]
pub(super) struct Tensors {
    shards: Vec<Mapping>,
    stored: BTreeMap<String, Stored>,
}

/// Bytes in one of the shards.
#[derive(Debug, Clone)]
struct Place {
    shard: usize,
    range: Range<usize>,
}

/// One tensor: its logical shape and where its parts are.
#[derive(Debug)]
struct Stored {
    shape: Vec<usize>,
    parts: Parts,
}

#[derive(Debug)]
enum Parts {
    Dense { dtype: Dtype, bytes: Place },
    Affine { bits: u8, group: usize, dtype: Dtype, packed: Place, scales: Place, biases: Place },
}

/// A tensor of some file, before triples are put together.
struct Found {
    shard: usize,
    entry: TensorEntry,
}

impl Tensors {
    pub(super) fn open(folder: &Path, schemes: &Schemes) -> Result<Self, LoadError> {
        let index_path = folder.join("model.safetensors.index.json");
        let index = files::optional_text(&index_path)?;
        let (names, indexed) = match &index {
            Some(text) => read_index(text).map_err(|flaw| flaw.within(&index_path))?,
            None => (weight_files(folder)?, BTreeMap::new()),
        };
        let mut shards = Vec::with_capacity(names.len());
        let mut found = BTreeMap::new();
        for (shard, name) in names.iter().enumerate() {
            let path = folder.join(name);
            let mapping = Mapping::open(&path).map_err(LoadError::io(&path))?;
            let entries = safetensors::parse(&mapping).map_err(|flaw| flaw.within(&path))?;
            for (tensor, entry) in entries {
                let what = format!("tensor {tensor:?}");
                if found.insert(tensor, Found { shard, entry }).is_some() {
                    return Err(Flaw::Duplicate { what }.within(&path));
                }
            }
            shards.push(mapping);
        }
        for (tensor, name) in &indexed {
            if found.get(tensor).is_none_or(|found| names[found.shard] != *name) {
                return Err(Flaw::missing(format_args!("tensor {tensor:?}")).within(&folder.join(name)));
            }
        }
        let path_of = |shard: usize| folder.join(&names[shard]);
        let stored = assemble(found, schemes, path_of)?;
        Ok(Self { shards, stored })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.stored.keys()
    }

    pub(super) fn shape_of(&self, name: &str) -> Option<&[usize]> {
        self.stored.get(name).map(|stored| stored.shape.as_slice())
    }

    pub(super) fn representation_of(&self, name: &str) -> Option<Representation> {
        self.stored.get(name).map(Stored::representation)
    }

    pub(super) fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let stored = self.stored.get(name)?;
        let shape = stored.shape.clone();
        let bytes = |place: &Place| self.shards[place.shard][place.range.clone()].into();
        Some(match &stored.parts {
            Parts::Dense { dtype, bytes: place } => Tensor::Dense { shape, dtype: *dtype, bytes: bytes(place) },
            Parts::Affine { bits, group, dtype, packed, scales, biases } => Tensor::Affine {
                shape,
                bits: *bits,
                group: *group,
                packed: bytes(packed),
                scales: bytes(scales),
                biases: bytes(biases),
                dtype: *dtype,
            },
        })
    }

    /// Lets go of the pages of all files.
    pub(super) fn release(&self) {
        self.shards.iter().for_each(Mapping::release);
    }

    pub(super) fn bytes_total(&self) -> u64 {
        self.stored.values().map(Stored::bytes).sum()
    }

    /// Adds each tensor's bytes to those of its kind of storage.
    pub(super) fn count_bytes(&self, bytes_of: &mut BTreeMap<String, u64>) {
        for stored in self.stored.values() {
            let label = match stored.representation() {
                Representation::Dense(dtype) => dtype.to_string(),
                Representation::Affine { bits, group, .. } => format!("affine-{bits}bit-g{group}"),
            };
            *bytes_of.entry(label).or_default() += stored.bytes();
        }
    }
}

impl Stored {
    fn representation(&self) -> Representation {
        match self.parts {
            Parts::Dense { dtype, .. } => Representation::Dense(dtype),
            Parts::Affine { bits, group, dtype, .. } => Representation::Affine { bits, group, dtype },
        }
    }

    fn bytes(&self) -> u64 {
        match &self.parts {
            Parts::Dense { bytes, .. } => bytes.range.len() as u64,
            Parts::Affine { packed, scales, biases, .. } => {
                (packed.range.len() + scales.range.len() + biases.range.len()) as u64
            }
        }
    }
}

/// The files of a folder without an index, as mlx-lm looks for them.
fn weight_files(folder: &Path) -> Result<Vec<String>, LoadError> {
    let all = files::names(folder)?;
    let is_weights = |name: &&String| name.starts_with("model") && name.ends_with(".safetensors");
    let names: Vec<String> = all.iter().filter(is_weights).cloned().collect();
    if names.is_empty() {
        return Err(Flaw::missing("model.safetensors or model.safetensors.index.json").within(folder));
    }
    if names.len() > SHARDS_MAX {
        return Err(too_many_shards(names.len()).within(folder));
    }
    Ok(names)
}

fn too_many_shards(found: usize) -> Flaw {
    Flaw::TooMany { what: "number of .safetensors files".to_owned(), max: SHARDS_MAX as u64, found: found as u64 }
}

/// The files that an index names, ascending, and which tensor it says is in which.
fn read_index(text: &str) -> Result<(Vec<String>, BTreeMap<String, String>), Flaw> {
    let index: Value = serde_json::from_str(text).map_err(|error| Flaw::unexpected("content", "JSON", error))?;
    let Some(map) = index.get("weight_map").and_then(Value::as_object) else {
        return Err(Flaw::unexpected("key \"weight_map\"", "an object of tensor and file names", "something else"));
    };
    if map.len() > safetensors::TENSORS_MAX * SHARDS_MAX {
        let max = (safetensors::TENSORS_MAX * SHARDS_MAX) as u64;
        return Err(Flaw::TooMany { what: "key \"weight_map\", tensors".to_owned(), max, found: map.len() as u64 });
    }
    let mut names = BTreeSet::new();
    let mut indexed = BTreeMap::new();
    for (tensor, file) in map {
        let plain = file.as_str().filter(|name| is_plain_name(name)).ok_or_else(|| {
            let what = format!("key \"weight_map\", tensor {tensor:?}");
            Flaw::unexpected(what, "the name of a .safetensors file in this folder", file)
        })?;
        names.insert(plain.to_owned());
        indexed.insert(tensor.clone(), plain.to_owned());
    }
    if names.len() > SHARDS_MAX {
        return Err(too_many_shards(names.len()));
    }
    Ok((names.into_iter().collect(), indexed))
}

/// A file inside the folder: no path, nothing that climbs.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let one = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    one && !name.contains(['/', '\\', '\0']) && name.ends_with(".safetensors")
}

/// Puts triples together and leaves the rest as it is.
fn assemble(
    found: BTreeMap<String, Found>,
    schemes: &Schemes,
    path_of: impl Fn(usize) -> PathBuf,
) -> Result<BTreeMap<String, Stored>, LoadError> {
    let triple = |module: &str| {
        let part = |name: &str| found.get(&format!("{module}.{name}"));
        let weight = part("weight").filter(|weight| weight.entry.kind == Type::U32)?;
        Some((weight, part("scales")?, part("biases")?))
    };
    let mut stored = BTreeMap::new();
    for (name, one) in &found {
        let in_file = |flaw: Flaw| flaw.within(&path_of(one.shard));
        let (module, part) = name.rsplit_once('.').unwrap_or((name, ""));
        let entry = match (triple(module), part) {
            (Some((weight, scales, biases)), "weight") => {
                affine(module, schemes, weight, scales, biases).map_err(in_file)?
            }
            (Some(_), "scales" | "biases") => continue,
            (Some(_) | None, _) => dense(name, one).map_err(in_file)?,
        };
        stored.insert(name.clone(), entry);
    }
    Ok(stored)
}

fn place(found: &Found) -> Place {
    Place { shard: found.shard, range: found.entry.range.clone() }
}

fn dense(name: &str, found: &Found) -> Result<Stored, Flaw> {
    let kind = found.entry.kind;
    let dtype = kind.float().ok_or_else(|| {
        let found = format!("{kind:?}");
        Flaw::unsupported(
            format_args!("tensor {name:?}, dtype"),
            found,
            "F32, F16, BF16, or U32 with scales and biases",
        )
    })?;
    Ok(Stored { shape: found.entry.shape.clone(), parts: Parts::Dense { dtype, bytes: place(found) } })
}

fn affine(module: &str, schemes: &Schemes, weight: &Found, scales: &Found, biases: &Found) -> Result<Stored, Flaw> {
    let scheme = schemes.of(module)?;
    let bits = usize::from(scheme.bits);
    let flaw = |part: &str, expected: String, found: &TensorEntry| {
        let what = format!("tensor {:?}", format!("{module}.{part}"));
        Flaw::unexpected(what, expected, format_args!("{:?} {:?}", found.kind, found.shape))
    };
    let [rows @ .., words] = weight.entry.shape.as_slice() else {
        return Err(flaw("weight", "at least one dimension".to_owned(), &weight.entry));
    };
    // A row's bytes fit the file, so its bits fit 64 bits.
    let columns = words * WORD_BITS / bits;
    if !(words * WORD_BITS).is_multiple_of(bits) || !columns.is_multiple_of(scheme.group) || columns == 0 {
        let expected = format!("rows of whole groups of {} integers of {bits} bits", scheme.group);
        return Err(flaw("weight", expected, &weight.entry));
    }
    let groups: Vec<usize> = rows.iter().copied().chain([columns / scheme.group]).collect();
    let Some(dtype) = scales.entry.kind.float() else {
        return Err(flaw("scales", "F32, F16 or BF16".to_owned(), &scales.entry));
    };
    for (part, found) in [("scales", scales), ("biases", biases)] {
        if found.entry.shape != groups || found.entry.kind != scales.entry.kind {
            return Err(flaw(part, format!("{:?} {groups:?}", scales.entry.kind), &found.entry));
        }
    }
    let shape = rows.iter().copied().chain([columns]).collect();
    let (packed, scales, biases) = (place(weight), place(scales), place(biases));
    let Scheme { bits, group } = scheme;
    Ok(Stored { shape, parts: Parts::Affine { bits, group, dtype, packed, scales, biases } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_names_files_of_its_own_folder_only() {
        for name in [
            "../model.safetensors",
            "/model.safetensors",
            "a/b.safetensors",
            "..",
            "",
            ".",
            "model.bin",
            "a\\b.safetensors",
        ] {
            let refusal = read_index(&serde_json::json!({ "weight_map": { "t": name } }).to_string())
                .expect_err("leaves the folder")
                .to_string();
            assert!(
                refusal.contains("tensor \"t\": expected the name of a .safetensors file in this folder"),
                "{refusal}"
            );
        }
        let (names, _) = read_index(r#"{"weight_map":{"a":"m-2.safetensors","b":"m-1.safetensors"}}"#).expect("sound");
        assert_eq!(names, ["m-1.safetensors", "m-2.safetensors"]);
    }
}
