//! From what an experiment file says to the files of a model.

use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo, RepoType};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::guard::guarded;
use crate::{
    CheckpointError, Gguf, Safetensors, SpecialTokens, TensorSource, Tokenizer, gguf_parts, map,
    only_gguf_model,
};

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
    /// Identifies weights and configuration, every byte of them: SHA-256, lower-case hexadecimal.
    pub digest: String,
    /// What a reader of the numbers should know of the files; a sentence each.
    pub warnings: Vec<String>,
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
            if let Some(gguf) = only_gguf(folder)? {
                return open_gguf(&gguf);
            }
            return Err(CheckpointError::new(folder, no_weights(folder)));
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
        warnings: Vec::new(),
        special,
    })
}

fn open_gguf(path: &Path) -> Result<ModelFiles, CheckpointError> {
    let gguf = Gguf::open(path)?;
    let config = gguf.config()?;
    let refuse = |message: String| CheckpointError::new(path, message);
    let tokenizer = guarded(|| gguf.tokenizer()).map_err(refuse)??;
    Ok(ModelFiles {
        digest: digest(&gguf.paths(), &config)?,
        tokenizer: Some(Tokenizer::new(tokenizer).map_err(refuse)?),
        special: SpecialTokens::default(),
        warnings: gguf.warnings(),
        config,
        weights: Box::new(gguf),
    })
}

/// The one model in GGUF, whole or in parts, of a folder that holds no safetensors.
fn only_gguf(folder: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    let entries = std::fs::read_dir(folder).map_err(|error| CheckpointError::io(folder, &error))?;
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let files: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "gguf")).collect();
    match only_gguf_model(&files) {
        None if files.is_empty() => Ok(None),
        None => Err(CheckpointError::new(
            folder,
            "holds several .gguf files; choose one: FOLDER/FILE.gguf, or hub:owner/name#FILE.gguf",
        )),
        found => Ok(found.cloned()),
    }
}

/// Why a folder without safetensors cannot be read, with the way to convert what it has.
fn no_weights(folder: &Path) -> String {
    let missing = format!(
        "holds neither {SINGLE} nor {INDEX}; only safetensors checkpoints and .gguf files can be read"
    );
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut others: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| {
            [".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx"].iter().any(|end| name.ends_with(end))
        })
        .collect();
    others.sort();
    match others.first() {
        None => missing,
        Some(first) => format!(
            "{missing}, and not {first}. Convert it with\n  python -c \"from transformers import AutoModel as M; \
             M.from_pretrained('{0}').save_pretrained('{0}', safe_serialization=True)\"\nwhere AutoModel is the class \
             that config.json names under `architectures`, such as AutoModelForSequenceClassification",
            folder.display()
        ),
    }
}

/// The files that an index names, each once.
fn shards(index: &Path) -> Result<Vec<String>, CheckpointError> {
    let text = std::fs::read_to_string(index).map_err(|error| CheckpointError::io(index, &error))?;
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| CheckpointError::new(index, format!("is no JSON: {error}")))?;
    let map =
        value["weight_map"].as_object().ok_or_else(|| CheckpointError::new(index, "lacks `weight_map`"))?;
    let mut names = Vec::with_capacity(map.len());
    for (tensor, name) in map {
        // a shard lies beside its index
        let plain =
            name.as_str().filter(|name| Path::new(name).file_name().is_some_and(|file| file == *name));
        let Some(name) = plain else {
            return Err(CheckpointError::new(
                index,
                format!("`weight_map`: {name} of tensor `{tensor}` is no file name"),
            ));
        };
        names.push(name.to_owned());
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// What is hashed at a time; part of what a digest is.
const CHUNK: usize = 64 << 20;

/// SHA-256 over the configuration and the digest of each file. A file is hashed in chunks on all cores: weights are
/// many gigabytes, and every run reads them.
fn digest(files: &[PathBuf], config: &Value) -> Result<String, CheckpointError> {
    let mut digest = Sha256::new();
    digest.update(config.to_string());
    for path in files {
        let bytes = map(path)?;
        digest.update((bytes.len() as u64).to_le_bytes());
        chunk_digests(&bytes).iter().for_each(|chunk| digest.update(chunk));
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn chunk_digests(bytes: &[u8]) -> Vec<[u8; 32]> {
    let chunks: Vec<&[u8]> = bytes.chunks(CHUNK).collect();
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(chunks.len()).max(1);
    let share = chunks.len().div_ceil(workers).max(1);
    std::thread::scope(|scope| {
        let hash =
            |part: &[&[u8]]| part.iter().map(|chunk| Sha256::digest(chunk).into()).collect::<Vec<[u8; 32]>>();
        let running: Vec<_> = chunks.chunks(share).map(|part| scope.spawn(move || hash(part))).collect();
        let joined = |worker: std::thread::ScopedJoinHandle<'_, _>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        running.into_iter().flat_map(joined).collect()
    })
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
            return self.open_gguf(file);
        }
        if let Some(gguf) = self.only_gguf()? {
            let name = gguf.file_name().map(|name| name.to_string_lossy().into_owned());
            return self.open_gguf(&name.unwrap_or_default());
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

    /// Opens a GGUF file of the repository, with every part where it is in parts.
    fn open_gguf(&self, file: &str) -> Result<ModelFiles, CheckpointError> {
        let parts: Vec<PathBuf> =
            gguf_parts(file).iter().map(|part| self.get(part)).collect::<Result<_, _>>()?;
        match parts.first() {
            Some(first) => open_gguf(first),
            None => Err(CheckpointError::new(format!("hub:{}#{file}", self.name), "names no file")),
        }
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
        only_gguf(&snapshot)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_covers_every_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let digest_of = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            digest(std::slice::from_ref(&path), &Value::Null).unwrap()
        };
        let mut bytes = vec![0; 2 * CHUNK + 5];
        let whole = digest_of(&bytes);
        for at in [0, CHUNK - 1, CHUNK + 17, 2 * CHUNK + 4] {
            bytes[at] = 1;
            assert_ne!(digest_of(&bytes), whole, "byte {at}");
            bytes[at] = 0;
        }
        assert_eq!(digest_of(&bytes), whole);
    }

    #[test]
    fn weights_of_another_format_are_named_with_a_way_to_convert_them() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        std::fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
        let message = resolve(".", dir.path()).err().unwrap().to_string();
        assert!(
            message.contains("not pytorch_model.bin") && message.contains("save_pretrained"),
            "{message}"
        );
    }

    #[test]
    fn an_index_names_files_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join(INDEX);
        for name in ["../model.safetensors", "/model.safetensors", "a/b.safetensors", ".."] {
            std::fs::write(&index, serde_json::json!({ "weight_map": { "w": name } }).to_string()).unwrap();
            assert!(shards(&index).unwrap_err().to_string().contains("no file name"), "{name}");
        }
        std::fs::write(&index, r#"{"weight_map":{"w":3}}"#).unwrap();
        assert!(shards(&index).unwrap_err().to_string().contains("tensor `w`"));
    }
}
