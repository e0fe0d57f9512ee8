//! From what a model is called to a path that can be loaded: a local folder or `.gguf` file, the default under the
//! program's home, or a name on the Hugging Face hub, downloaded with progress into the cache that all of its tools
//! share. It owns the downloads; hf-hub gives the names and the layout. It refuses to know what is in a model: a file
//! is complete here when its length and SHA-256 are those that the hub announced.
//!
//! Blocking: callers are the command line and the thread that loads. Only the operator's `--model` and `pull` come
//! here; a request's `model` never does.

mod cache;
mod client;
mod download;
mod error;
mod name;
mod progress;

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::Cache;
use hf_hub::api::sync::ApiBuilder;

pub use error::HubError;
pub use name::ModelName;
pub use progress::{Progress, on_stderr};

use cache::Repository;
use client::{Client, Listing};

/// The first pause before a request is repeated; it doubles.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// A connection that says nothing for this long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Most files that one model is downloaded as.
const FILES_MAX: usize = 1_100;

/// How the hub is reached, from the environment that all Hugging Face tools share.
#[derive(Debug, Clone)]
pub struct Access {
    /// `HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// `HF_ENDPOINT`, else the hub.
    pub endpoint: String,
    /// `HF_TOKEN`, else the file that `hf auth login` writes. Sent to the endpoint only.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: nothing is asked for over the network.
    pub offline: bool,
    /// The first pause before a request is repeated.
    pub retry_pause: Duration,
    /// A connection that says nothing for this long is given up.
    pub silence_max: Duration,
}

impl Access {
    /// Reads the environment.
    ///
    /// # Errors
    /// hf-hub cannot be set up.
    pub fn from_env() -> Result<Self, HubError> {
        let variable = |name| env::var(name).ok().filter(|value: &String| !value.is_empty());
        let shared = Cache::from_env();
        let cache = variable("HF_HUB_CACHE").map_or_else(|| shared.path().clone(), PathBuf::from);
        let truth = |value: String| ["1", "true", "yes", "on"].contains(&value.to_ascii_lowercase().as_str());
        let endpoint = match variable("HF_ENDPOINT") {
            Some(endpoint) => endpoint,
            None => endpoint_of_hf_hub()?,
        };
        Ok(Self {
            cache,
            endpoint,
            token: variable("HF_TOKEN").or_else(|| shared.token()),
            offline: variable("HF_HUB_OFFLINE").is_some_and(truth),
            retry_pause: RETRY_PAUSE,
            silence_max: SILENCE_MAX,
        })
    }

    /// The path of a model that is on this machine.
    ///
    /// # Errors
    /// There is no such model here: the default is not installed, the path is none, or the name was not downloaded.
    pub fn resolve(&self, model: Option<&str>, home: &Path) -> Result<PathBuf, HubError> {
        let Some(model) = model else { return default_model(home) };
        match local(model)? {
            Local::Path(path) => Ok(path),
            Local::Name(name) => Repository::new(&self.cache, &name)
                .complete()
                .ok_or_else(|| HubError::NotCached { name: name.to_string(), cache: self.cache.clone() }),
        }
    }

    /// Like [`Access::resolve`], but a hub name that is not here yet is downloaded: what `serve --model` wants.
    ///
    /// # Errors
    /// There is no such model here or on the hub, or the download failed.
    pub fn obtain(&self, model: Option<&str>, home: &Path, progress: &mut dyn Progress) -> Result<PathBuf, HubError> {
        match self.resolve(model, home) {
            Err(HubError::NotCached { name, .. }) => self.pull(&ModelName::parse(&name)?, progress),
            other => other,
        }
    }

    /// Downloads what is missing of a model, checks it, and returns the path to load.
    ///
    /// # Errors
    /// The hub refuses or fails, what arrives is not what was announced, or it is no model.
    pub fn pull(&self, model: &ModelName, progress: &mut dyn Progress) -> Result<PathBuf, HubError> {
        let repository = Repository::new(&self.cache, model);
        if self.offline {
            let missing = || HubError::Offline { name: model.to_string(), cache: self.cache.clone() };
            return repository.complete().ok_or_else(missing);
        }
        let client = Client::new(self);
        let listing = download::patiently(&client.listing_url(model), self.retry_pause, || client.listing(model))?;
        for file in needed(model, &listing)? {
            let url = client.file_url(model, &listing.commit, file);
            let remote = download::patiently(&url, self.retry_pause, || client.announce(&url, file))?;
            download::download(&client, &remote, &repository.blob(&remote.etag), self.retry_pause, progress)?;
            repository.link(&listing.commit, file, &remote.etag)?;
        }
        repository.publish(&listing.commit)
    }
}

/// The commit of a path that [`Access::resolve`] gave, if it came from the hub.
#[must_use]
pub fn commit_of(path: &Path) -> Option<&str> {
    cache::commit_of(path)
}

/// hf-hub knows the hub's address and shows it in the URLs that it makes.
fn endpoint_of_hf_hub() -> Result<String, HubError> {
    let api = ApiBuilder::new().build().map_err(|error| HubError::protocol("hf-hub", error.to_string()))?;
    let url = api.model("a/b".to_owned()).url("c");
    let endpoint = url.strip_suffix("/a/b/resolve/main/c");
    endpoint.map(str::to_owned).ok_or_else(|| HubError::protocol(&url, "expected a URL of a file of a/b"))
}

/// What `--model` can mean.
enum Local {
    Path(PathBuf),
    Name(ModelName),
}

fn local(model: &str) -> Result<Local, HubError> {
    let path = PathBuf::from(model);
    if path.is_dir() || (path.is_file() && path.extension().is_some_and(|extension| extension == "gguf")) {
        return Ok(Local::Path(path));
    }
    if path.exists() {
        return Err(HubError::NotAModel { path });
    }
    ModelName::parse(model).map(Local::Name)
}

fn default_model(home: &Path) -> Result<PathBuf, HubError> {
    let folder = home.join("models/default");
    let is_model = |path: PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        path.is_file() && (name == "config.json" || name.ends_with(".gguf"))
    };
    let entries = folder.read_dir().into_iter().flatten().filter_map(Result::ok);
    if entries.map(|entry| entry.path()).any(is_model) { Ok(folder) } else { Err(HubError::NoDefault { folder }) }
}

/// The files that a load needs: configuration, tokenizer, template and safetensors, or one `.gguf`.
fn needed<'a>(model: &ModelName, listing: &'a Listing) -> Result<Vec<&'a str>, HubError> {
    let no_model = |why: String| HubError::NoModel { name: model.to_string(), why };
    let files: Vec<&str> = listing.files().collect();
    if let Some(wanted) = &model.file {
        let found = files.iter().find(|file| *file == wanted).copied();
        return found
            .map(|file| vec![file])
            .ok_or_else(|| no_model(format!("expected a file {wanted} in the repository")));
    }
    let is_weights = |file: &&&str| file.starts_with("model") && file.ends_with(".safetensors");
    let is_text = |file: &str| {
        let small = [".json", ".jinja", ".model", ".txt"].iter().any(|extension| file.ends_with(extension));
        let named =
            ["config.json", "generation_config.json", "special_tokens_map.json", "model.safetensors.index.json"];
        named.contains(&file) || (small && (file.starts_with("tokenizer") || file.starts_with("chat_template")))
    };
    if files.iter().any(|file| is_weights(&file)) {
        let needed: Vec<&str> = files.iter().filter(|file| is_weights(file) || is_text(file)).copied().collect();
        if needed.len() > FILES_MAX {
            return Err(no_model(format!("expected at most {FILES_MAX} files, found {}", needed.len())));
        }
        return Ok(needed);
    }
    let gguf: Vec<&str> = files.iter().filter(|file| file.ends_with(".gguf")).copied().collect();
    match gguf.as_slice() {
        [file] => Ok(vec![file]),
        [] => Err(no_model("expected .safetensors files or a .gguf file in the repository, found neither".to_owned())),
        [first, ..] => {
            let repository = model.repository();
            Err(no_model(format!("it has {} .gguf files; choose one: {repository}/{first}", gguf.len())))
        }
    }
}

#[cfg(test)]
mod tests;
