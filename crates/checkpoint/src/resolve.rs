//! From what an experiment file says to the files of a model.

use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo, RepoType};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::guard::guarded;
use crate::{CheckpointError, Gguf, Safetensors, SpecialTokens, TensorSource, Tokenizer, map};

/// The files of a model.
pub struct ModelFiles {
    /// What `config.json` says, or a GGUF file's metadata in that form.
    pub config: Value,
    /// The weights.
    pub weights: Box<dyn TensorSource>,
    /// The tokenizer, if there is one.
    pub tokenizer: Option<Tokenizer>,
    /// What the files beside the tokenizer say of its special tokens.
    pub special: SpecialTokens,
    /// Identifies weights and configuration: SHA-256, lower-case hexadecimal. Of a file above 1 GiB only the
    /// size and the first and last MiB are read for it.
    pub digest: String,
}

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
/// Files that say which tokens are special.
const SPECIAL: [&str; 3] = ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json"];
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Finds the model that `source` names: a folder in the Hub's layout, a GGUF file, or
/// `hub:owner/name@revision#file.gguf`, where revision and file may be left out. Relative paths start at `base`.
/// What the Hub's cache holds is used without a network.
///
/// # Errors
/// Where there is no such model, or one of its files cannot be read.
pub fn resolve(source: &str, base: &Path) -> Result<ModelFiles, CheckpointError> {
    if let Some(name) = source.strip_prefix("hub:") {
        return HubSource::parse(name)?.open();
    }
    let path = base.join(source);
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => open_folder(&path),
        Ok(_) if path.extension().is_some_and(|extension| extension == "gguf") => open_gguf(&path),
        Ok(_) => Err(CheckpointError::new(
            &path,
            "is neither a folder with config.json and model.safetensors, nor a .gguf file",
        )),
        Err(_) => Err(CheckpointError::new(
            &path,
            "there is no such model; give a folder in the Hub's layout, a .gguf file, or hub:owner/name",
        )),
    }
}

/// Reads a configuration alone: `path` is a `config.json` or the folder of one.
///
/// # Errors
/// Where it cannot be read, or is no JSON object.
pub fn load_config(path: &Path) -> Result<Value, CheckpointError> {
    let path = if path.is_dir() { path.join(CONFIG) } else { path.to_owned() };
    let text = std::fs::read_to_string(&path).map_err(|error| CheckpointError::io(&path, &error))?;
    let config: Value = serde_json::from_str(&text)
        .map_err(|error| CheckpointError::new(&path, format!("is no JSON: {error}")))?;
    match config.is_object() {
        true => Ok(config),
        false => Err(CheckpointError::new(&path, "is no JSON object, as a model's configuration is")),
    }
}

/// Reads a `tokenizer.json`.
///
/// # Errors
/// Where it cannot be read, or is not one.
pub fn load_tokenizer(path: &Path) -> Result<Tokenizer, CheckpointError> {
    if !path.is_file() {
        return Err(CheckpointError::new(path, "there is no such tokenizer.json"));
    }
    Tokenizer::from_file(path)
}

fn open_folder(folder: &Path) -> Result<ModelFiles, CheckpointError> {
    let shards = match (folder.join(SINGLE), folder.join(INDEX)) {
        (single, _) if single.is_file() => vec![single],
        (_, index) if index.is_file() => shards(&index)?.into_iter().map(|name| folder.join(name)).collect(),
        _ => {
            let message =
                format!("holds neither {SINGLE} nor {INDEX}; only safetensors checkpoints can be read");
            return Err(CheckpointError::new(folder, message));
        }
    };
    let tokenizer = folder.join(TOKENIZER);
    open(&folder.join(CONFIG), &shards, tokenizer.is_file().then_some(tokenizer))
}

fn open(
    config_path: &Path,
    shards: &[PathBuf],
    tokenizer: Option<PathBuf>,
) -> Result<ModelFiles, CheckpointError> {
    let config = load_config(config_path)?;
    let weights = Safetensors::open(shards)?;
    let special = SpecialTokens::read(config_path.parent().unwrap_or(Path::new(".")))?;
    Ok(ModelFiles {
        digest: digest(shards, &config)?,
        config,
        weights: Box::new(weights),
        tokenizer: tokenizer.map(|path| load_tokenizer(&path)).transpose()?,
        special,
    })
}

fn open_gguf(path: &Path) -> Result<ModelFiles, CheckpointError> {
    let gguf = Gguf::open(path)?;
    let config = gguf.config()?;
    let refuse = |message: String| CheckpointError::new(path, message);
    let tokenizer = guarded(|| gguf.tokenizer()).map_err(refuse)??;
    Ok(ModelFiles {
        digest: digest(&[path.to_owned()], &config)?,
        tokenizer: Some(Tokenizer::new(tokenizer).map_err(refuse)?),
        special: SpecialTokens::default(),
        config,
        weights: Box::new(gguf),
    })
}

/// The files that an index names, each once.
fn shards(index: &Path) -> Result<Vec<String>, CheckpointError> {
    let text = std::fs::read_to_string(index).map_err(|error| CheckpointError::io(index, &error))?;
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| CheckpointError::new(index, format!("is no JSON: {error}")))?;
    let map =
        value["weight_map"].as_object().ok_or_else(|| CheckpointError::new(index, "lacks `weight_map`"))?;
    let mut names: Vec<String> = map.values().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// Above this, a file's content is not read for its digest.
const LARGE: usize = 1 << 30;

fn digest(files: &[PathBuf], config: &Value) -> Result<String, CheckpointError> {
    let mut digest = Sha256::new();
    digest.update(config.to_string());
    for path in files {
        let bytes = map(path)?;
        digest.update((bytes.len() as u64).to_le_bytes());
        if bytes.len() > LARGE {
            digest.update(&bytes[..1 << 20]);
            digest.update(&bytes[bytes.len() - (1 << 20)..]);
        } else {
            digest.update(&bytes);
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A model on the Hub.
struct HubSource {
    name: String,
    revision: String,
    file: Option<String>,
}

impl HubSource {
    fn parse(text: &str) -> Result<Self, CheckpointError> {
        let (text, file) = match text.split_once('#') {
            Some((text, file)) => (text, Some(file.to_owned())),
            None => (text, None),
        };
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        if name.split('/').count() != 2 || name.split('/').any(str::is_empty) {
            return Err(CheckpointError::new(
                format!("hub:{text}"),
                "is not of the form hub:owner/name@revision",
            ));
        }
        Ok(Self { name: name.to_owned(), revision: revision.to_owned(), file })
    }

    fn open(&self) -> Result<ModelFiles, CheckpointError> {
        if let Some(file) = &self.file {
            return open_gguf(&self.get(file)?);
        }
        if let Some(gguf) = self.only_gguf()? {
            return open_gguf(&gguf);
        }
        let config = self.get(CONFIG)?;
        let shards = match self.get(SINGLE) {
            Ok(single) => vec![single],
            Err(single) => {
                let index = self.get(INDEX).map_err(|_| single)?;
                shards(&index)?.iter().map(|name| self.get(name)).collect::<Result<_, _>>()?
            }
        };
        for beside in SPECIAL {
            // each of them may be missing; they are looked for beside the configuration
            let _ = self.get(beside);
        }
        open(&config, &shards, self.get(TOKENIZER).ok())
    }

    fn repo(&self) -> Repo {
        Repo::with_revision(self.name.clone(), RepoType::Model, self.revision.clone())
    }

    /// The Hub's cache, where its own variables say it is.
    fn cache() -> Cache {
        match std::env::var_os("HF_HUB_CACHE") {
            Some(path) => Cache::new(PathBuf::from(path)),
            None => Cache::from_env(),
        }
    }

    /// The one GGUF file of a repository without a configuration, where the cache has it.
    fn only_gguf(&self) -> Result<Option<PathBuf>, CheckpointError> {
        let cache = Self::cache();
        let folder = cache.path().join(self.repo().folder_name());
        let Ok(commit) = std::fs::read_to_string(folder.join("refs").join(&self.revision)) else {
            return Ok(None);
        };
        let snapshot = folder.join("snapshots").join(commit.trim());
        if snapshot.join(CONFIG).exists() {
            return Ok(None);
        }
        let entries = std::fs::read_dir(&snapshot).map_err(|error| CheckpointError::io(&snapshot, &error))?;
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let files: Vec<PathBuf> =
            paths.filter(|path| path.extension().is_some_and(|e| e == "gguf")).collect();
        match &files[..] {
            [] => Ok(None),
            [file] => Ok(Some(file.clone())),
            _ => Err(CheckpointError::new(
                snapshot,
                "holds several .gguf files; choose one with hub:owner/name#FILE.gguf",
            )),
        }
    }

    /// A file of the repository, from the cache or else from the Hub.
    fn get(&self, file: &str) -> Result<PathBuf, CheckpointError> {
        let cache = Self::cache();
        if let Some(path) = cache.repo(self.repo()).get(file) {
            return Ok(path);
        }
        let what = format!("hub:{}@{}", self.name, self.revision);
        let place = cache.path().display().to_string();
        if std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !["", "0"].contains(&value.as_str())) {
            let message =
                format!("{file} is not in the cache {place}, and HF_HUB_OFFLINE forbids to fetch it");
            return Err(CheckpointError::new(what, message));
        }
        let api = hf_hub::api::sync::ApiBuilder::from_cache(cache).with_progress(false).build();
        let fetched = api.and_then(|api| api.repo(self.repo()).get(file));
        fetched.map_err(|error| {
            let message = format!(
                "{file} is not in the cache {place}, and fetching it failed: {error}; check the name and the network, \
                 or give a local folder"
            );
            CheckpointError::new(what, message)
        })
    }
}
