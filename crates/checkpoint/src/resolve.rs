//! From what an experiment file says to the files of a model.

mod hub;

use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use self::hub::HubSource;
use crate::guard::guarded;
use crate::shards::{Index, Shards};
use crate::{
    CheckpointError, Gguf, Safetensors, SpecialTokens, TensorSource, Tokenizer, map, only_gguf_model,
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
/// What makes a folder that of an adapter.
const ADAPTER: &str = "adapter_config.json";
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

/// Reads a `tokenizer.json`, and what the files beside it say of special tokens.
///
/// # Errors
/// Where it cannot be read, or is not one.
pub fn load_tokenizer(path: &Path) -> Result<(Tokenizer, SpecialTokens), CheckpointError> {
    let path = &if path.is_dir() { path.join(TOKENIZER) } else { path.to_owned() };
    if !path.is_file() {
        return Err(CheckpointError::new(path, "there is no such tokenizer.json"));
    }
    let beside = SpecialTokens::read(path.parent().unwrap_or(Path::new(".")))?;
    let tokenizer = Tokenizer::from_file(path)?.with(&beside);
    Ok((tokenizer.map_err(|message| CheckpointError::new(path, message))?, beside))
}

fn open_folder(folder: &Path) -> Result<ModelFiles, CheckpointError> {
    let shards = match (folder.join(SINGLE), folder.join(INDEX)) {
        (single, _) if single.is_file() => Shards { files: vec![single], index: None },
        (_, index) if index.is_file() => Shards::of(Index::read(&index)?, |name| Ok(folder.join(name)))?,
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
    shards: &Shards,
    tokenizer: Option<PathBuf>,
) -> Result<ModelFiles, CheckpointError> {
    let config = load_config(config_path)?;
    let weights = Safetensors::open(&shards.files)?;
    if let Some(index) = &shards.index {
        index.check(&weights)?;
    }
    let folder = config_path.parent().unwrap_or(Path::new("."));
    let (tokenizer, special) = match tokenizer {
        Some(path) => load_tokenizer(&path).map(|(tokenizer, special)| (Some(tokenizer), special))?,
        None => (None, SpecialTokens::read(folder)?),
    };
    let adapter = folder.join(ADAPTER).is_file().then(|| {
        format!(
            "{}: the adapter beside the model is not read, though transformers puts it on the model by itself; score it \
             with `bench import`",
            folder.join(ADAPTER).display()
        )
    });
    Ok(ModelFiles {
        digest: digest(&shards.files, &config)?,
        config,
        weights: Box::new(weights),
        tokenizer,
        warnings: adapter.into_iter().collect(),
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
    if folder.join(ADAPTER).is_file() {
        return format!(
            "holds an adapter ({ADAPTER}) and no model; name the model that it belongs to as source in [model], and score \
             the adapter with `bench import`"
        );
    }
    let missing = format!(
        "holds neither {SINGLE} nor {INDEX}; only safetensors checkpoints and .gguf files can be read"
    );
    let Some(first) = other_format(names_in(folder)) else { return missing };
    let class = class_of(&folder.join(CONFIG));
    let converted = format!(
        "from transformers import {class} as M; M.from_pretrained('{0}').save_pretrained('{0}')",
        folder.display()
    );
    format!("{missing}, and not {first}. Convert it with\n  python -c \"{converted}\"{}", keeps_head(&class))
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The first file with weights in a format that is not read.
fn other_format(names: Vec<String>) -> Option<String> {
    let ends = [".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx"];
    // of a training's state these hold no weights
    let state = ["training_args.bin", "optimizer.pt", "scheduler.pt"];
    let other = |name: &String| ends.iter().any(|end| name.ends_with(end)) && !state.contains(&&**name);
    names.into_iter().filter(other).min()
}

const ANY_CLASS: &str = "AutoModel";

/// The class of `transformers` that `config.json` names: what is saved by another one may lose its head.
fn class_of(config: &Path) -> String {
    let config = load_config(config).unwrap_or_default();
    let named = config["architectures"][0].as_str();
    // it becomes part of a command that a user copies
    let plain = named.filter(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric()));
    plain.unwrap_or(ANY_CLASS).to_owned()
}

fn keeps_head(class: &str) -> &'static str {
    match class {
        ANY_CLASS => {
            "\nwhere a model with a head needs the class of its task in the place of AutoModel, such as \
             AutoModelForSequenceClassification: AutoModel leaves the head out"
        }
        _ => "",
    }
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
    Ok(hex::encode(digest.finalize()))
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
    fn an_adapter_is_no_model_and_is_told_beside_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(ADAPTER), "{}").unwrap();
        let message = resolve(".", dir.path()).err().unwrap().to_string();
        assert!(message.contains(ADAPTER) && message.contains("bench import"), "{message}");
        crate::write_safetensors(&dir.path().join(SINGLE), &[("w".to_owned(), vec![1], vec![0.0])]).unwrap();
        std::fs::write(dir.path().join(CONFIG), "{}").unwrap();
        let told = resolve(".", dir.path()).unwrap().warnings;
        assert!(told.len() == 1 && told[0].contains(ADAPTER), "{told:?}");
    }

    #[test]
    fn weights_of_another_format_are_named_with_a_way_to_convert_them() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
        std::fs::write(dir.path().join("optimizer.pt"), "").unwrap();
        for (architectures, class) in [
            (r#"["BertForSequenceClassification"]"#, "import BertForSequenceClassification as M"),
            ("null", "import AutoModel as M"),
            // never a part of a command
            (r#"["x; import os"]"#, "import AutoModel as M"),
        ] {
            let config = format!(r#"{{"architectures":{architectures}}}"#);
            std::fs::write(dir.path().join("config.json"), config).unwrap();
            let message = resolve(".", dir.path()).err().unwrap().to_string();
            for part in ["not pytorch_model.bin", class, "save_pretrained("] {
                assert!(message.contains(part), "{part} is not in {message}");
            }
            assert_eq!(
                message.contains("AutoModel leaves the head out"),
                class.contains("Auto"),
                "{message}"
            );
        }
    }
}
