//! The cache that all Hugging Face tools share: `models--ORG--NAME/{refs,snapshots,blobs}`. It owns the question whether
//! a snapshot is complete, which the layout itself does not answer; it refuses to know the network.

use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use serde_json::Value;

use crate::hub::error::HubError;
use crate::hub::name::{self, ModelName};

/// Largest index of shards that is read.
const INDEX_BYTES_MAX: u64 = 32 << 20;
/// A commit is this many hexadecimal digits.
const COMMIT_DIGITS: usize = 40;

/// One repository's part of the cache.
pub(super) struct Repository {
    folder: PathBuf,
    layout: CacheRepo,
    name: ModelName,
}

impl Repository {
    pub(super) fn new(cache: &Path, name: &ModelName) -> Self {
        let repo = Repo::with_revision(name.repository(), RepoType::Model, name.revision.clone());
        let cache = Cache::new(cache.to_owned());
        let folder = cache.path().join(repo.folder_name());
        Self { folder, layout: cache.repo(repo), name: name.clone() }
    }

    /// The model, if everything that a load needs is there.
    pub(super) fn complete(&self) -> Option<PathBuf> {
        complete(&self.layout.pointer_path(&self.commit()?), &self.name)
    }

    /// The commit that the revision meant when it was last downloaded.
    fn commit(&self) -> Option<String> {
        if is_commit(&self.name.revision) {
            return Some(self.name.revision.clone());
        }
        let reference = fs::read_to_string(self.folder.join("refs").join(&self.name.revision)).ok()?;
        Some(reference.trim().to_owned()).filter(|commit| name::is_part(commit))
    }

    /// Where a file's content goes: named by its ETag, which the caller has checked to be a plain name.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.layout.blob_path(etag)
    }

    /// Makes a blob visible as `file` of a commit.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let folder = self.layout.pointer_path(commit);
        fs::create_dir_all(&folder).map_err(HubError::io(&folder))?;
        let pointer = folder.join(file);
        if fs::symlink_metadata(&pointer).is_ok() {
            fs::remove_file(&pointer).map_err(HubError::io(&pointer))?;
        }
        let target = Path::new("../../blobs").join(etag);
        std::os::unix::fs::symlink(target, &pointer).map_err(HubError::io(&pointer))
    }

    /// Says what the revision means, and returns the model. Done last, so that half a download is never mistaken for
    /// a whole one.
    pub(super) fn publish(&self, commit: &str) -> Result<PathBuf, HubError> {
        if !is_commit(&self.name.revision) {
            self.layout.create_ref(commit).map_err(HubError::io(&self.folder.join("refs")))?;
        }
        let folder = self.layout.pointer_path(commit);
        complete(&folder, &self.name).ok_or_else(|| HubError::NoModel {
            name: self.name.to_string(),
            why: format!("expected a complete model in {} after the download", folder.display()),
        })
    }
}

/// A full commit, which needs no reference.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == COMMIT_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The commit of a path to load that a snapshot holds.
pub(super) fn commit_of(path: &Path) -> Option<&str> {
    path.ancestors().find_map(|folder| {
        let is_snapshot = folder.parent()?.file_name()? == "snapshots";
        folder.file_name()?.to_str().filter(|commit| is_snapshot && is_commit(commit))
    })
}

/// The path to load from a snapshot: the named `.gguf`, a folder with config, tokenizer and all of its weights, or the
/// only `.gguf`. Links whose blob is gone count as absent.
fn complete(snapshot: &Path, name: &ModelName) -> Option<PathBuf> {
    if let Some(file) = &name.file {
        return Some(snapshot.join(file)).filter(|path| path.is_file());
    }
    let entries = fs::read_dir(snapshot).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let files: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
    let mut gguf = files.iter().filter(|path| path.extension().is_some_and(|found| found == "gguf"));
    let is_safetensors = |path: &PathBuf| path.extension().is_some_and(|found| found == "safetensors");
    let has = |name: &str| snapshot.join(name).is_file();
    if !files.iter().any(is_safetensors) {
        return gguf.next().filter(|_| gguf.next().is_none()).cloned();
    }
    let weights = match shards(&snapshot.join("model.safetensors.index.json")) {
        Some(shards) => shards.iter().all(|shard| has(shard)),
        None => has("model.safetensors"),
    };
    (weights && has("config.json") && has("tokenizer.json")).then(|| snapshot.to_owned())
}

/// The files that an index names; `None` without a readable index.
fn shards(index: &Path) -> Option<Vec<String>> {
    if fs::metadata(index).ok()?.len() > INDEX_BYTES_MAX {
        return None;
    }
    let index: Value = serde_json::from_slice(&fs::read(index).ok()?).ok()?;
    let files = index.get("weight_map")?.as_object()?.values();
    let mut names: Vec<String> = files.map(|file| file.as_str().map(str::to_owned)).collect::<Option<_>>()?;
    names.sort_unstable();
    names.dedup();
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_snapshot_has_its_commit_and_any_other_has_none() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let inside = format!("/c/models--a--b/snapshots/{commit}");
        assert_eq!(commit_of(Path::new(&inside)), Some(commit));
        assert_eq!(commit_of(Path::new(&format!("{inside}/model.gguf"))), Some(commit));
        for outside in [format!("/c/{commit}"), "/c/snapshots/main".to_owned(), "model.gguf".to_owned(), "/".to_owned()]
        {
            assert_eq!(commit_of(Path::new(&outside)), None, "{outside}");
        }
    }
}
