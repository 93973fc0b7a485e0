//! Models of the Hub: from its cache, or else fetched.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use super::{
    CONFIG, INDEX, ModelFiles, SINGLE, TOKENIZER, class_of, keeps_head, names_in, only_gguf, open, open_gguf,
    other_format,
};
use crate::shards::{Index, Shards};
use crate::{CheckpointError, gguf_parts};

/// Files that say which tokens are special.
const SPECIAL: [&str; 3] = ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json"];

/// A model on the Hub.
pub(super) struct HubSource {
    name: String,
    revision: String,
    file: Option<String>,
}

impl HubSource {
    pub(super) fn parse(text: &str) -> Result<Self, CheckpointError> {
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

    pub(super) fn open(&self) -> Result<ModelFiles, CheckpointError> {
        if let Some(file) = &self.file {
            return self.open_gguf(file);
        }
        if let Some(gguf) = self.only_gguf()? {
            let name = gguf.file_name().map(|name| name.to_string_lossy().into_owned());
            return self.open_gguf(&name.unwrap_or_default());
        }
        let config = self.get(CONFIG)?;
        let shards = match self.get(SINGLE) {
            Ok(single) => Shards { files: vec![single], index: None },
            Err(single) => {
                let index = self.get(INDEX).map_err(|_| self.no_weights(&config).unwrap_or(single))?;
                Shards::of(Index::read(&index)?, |name| self.get(name))?
            }
        };
        let mut warnings = Vec::new();
        let mut optional = |file| match self.look(file) {
            Looked::Found(path) => Some(path),
            Looked::Absent(_) => None,
            Looked::Unknown(error) => {
                warnings.push(format!("{error}; until then it is read as if there were no such file"));
                None
            }
        };
        // they are looked for beside the configuration
        SPECIAL.into_iter().for_each(|file| drop(optional(file)));
        let tokenizer = optional(TOKENIZER);
        let mut files = open(&config, &shards, tokenizer)?;
        files.warnings.append(&mut warnings);
        Ok(files)
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

    /// What the cache has of the repository.
    fn snapshot(&self) -> Option<PathBuf> {
        let folder = Self::cache().path().join(self.repo().folder_name());
        let commit = std::fs::read_to_string(folder.join("refs").join(&self.revision)).ok()?;
        Some(folder.join("snapshots").join(commit.trim()))
    }

    /// The one GGUF file of a repository without a configuration, where the cache has it.
    fn only_gguf(&self) -> Result<Option<PathBuf>, CheckpointError> {
        match self.snapshot().filter(|snapshot| !snapshot.join(CONFIG).exists()) {
            Some(snapshot) => only_gguf(&snapshot),
            None => Ok(None),
        }
    }

    /// An error with the way to convert what a repository without safetensors has; none where that is not known.
    fn no_weights(&self, config: &Path) -> Option<CheckpointError> {
        let cached = self.snapshot().map(|snapshot| names_in(&snapshot)).unwrap_or_default();
        let first = other_format(cached).or_else(|| other_format(self.names_on_the_hub()))?;
        let (class, name, revision) = (class_of(config), &self.name, &self.revision);
        let folder = name.rsplit('/').next().unwrap_or(name);
        let message = format!(
            "holds no {SINGLE}, and {first} is not read. Convert it with\n  python -c \"from transformers import {class} \
             as M, AutoTokenizer as T; a, k = '{name}', dict(revision='{revision}'); M.from_pretrained(a, \
             **k).save_pretrained('{folder}'); T.from_pretrained(a, **k).save_pretrained('{folder}')\"\nand set \
             source = \"{folder}\" in [model]{}",
            keeps_head(&class)
        );
        Some(CheckpointError::new(format!("hub:{name}@{revision}"), message))
    }

    /// The repository's files; none where the Hub cannot be asked.
    fn names_on_the_hub(&self) -> Vec<String> {
        if is_offline() {
            return Vec::new();
        }
        let info = hub(Self::cache()).and_then(|api| api.repo(self.repo()).info());
        info.map(|info| info.siblings.into_iter().map(|file| file.rfilename).collect()).unwrap_or_default()
    }

    /// A file of the repository, from the cache or else from the Hub.
    fn get(&self, file: &str) -> Result<PathBuf, CheckpointError> {
        match self.look(file) {
            Looked::Found(path) => Ok(path),
            Looked::Absent(error) | Looked::Unknown(error) => Err(error),
        }
    }

    fn look(&self, file: &str) -> Looked {
        let cache = Self::cache();
        if let Some(path) = cache.repo(self.repo()).get(file) {
            return Looked::Found(path);
        }
        let place = cache.path().display().to_string();
        let error = |what: &str| {
            let message = format!("{file} is not in the cache {place}, and {what}");
            CheckpointError::new(format!("hub:{}@{}", self.name, self.revision), message)
        };
        if is_offline() {
            return Looked::Absent(error("HF_HUB_OFFLINE forbids to fetch it"));
        }
        match hub(cache).and_then(|api| api.repo(self.repo()).get(file)) {
            Ok(path) => Looked::Found(path),
            Err(cause) => {
                let error = error(&format!(
                    "fetching it failed: {cause}; check the name and the network, or give a local folder"
                ));
                if is_not_found(&cause) { Looked::Absent(error) } else { Looked::Unknown(error) }
            }
        }
    }
}

/// What asking for a file of a repository gave.
enum Looked {
    Found(PathBuf),
    Absent(CheckpointError),
    /// The Hub could not be asked, or gave no answer.
    Unknown(CheckpointError),
}

/// Whether the Hub answered that there is no such file.
fn is_not_found(error: &ApiError) -> bool {
    match error {
        ApiError::RequestError(error) => error.to_string() == "http status: 404",
        ApiError::TooManyRetries(error) => is_not_found(error),
        _ => false,
    }
}

/// The Hub, or the mirror that `HF_ENDPOINT` names, with the token that `HF_TOKEN` or the cache's folder has.
fn hub(cache: Cache) -> Result<Api, ApiError> {
    let given = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let mut builder = ApiBuilder::from_cache(cache).with_progress(false);
    if let Some(endpoint) = given("HF_ENDPOINT") {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    if let Some(token) = given("HF_TOKEN") {
        builder = builder.with_token(Some(token));
    }
    builder.build()
}

/// Whether the Hub must not be asked.
fn is_offline() -> bool {
    std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !["", "0"].contains(&value.as_str()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_file_that_the_hub_lacks_is_not_one_that_it_could_not_be_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        for (status, absent) in [("404 Not Found", true), ("503 Service Unavailable", false)] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let _ = stream.read(&mut [0; 4096]).unwrap();
                    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                        .unwrap();
                }
            });
            let cache = Cache::new(dir.path().to_owned());
            let builder = ApiBuilder::from_cache(cache).with_endpoint(endpoint);
            let api = builder.with_progress(false).build().unwrap();
            let error = api.model("a/b".to_owned()).get("tokenizer_config.json").unwrap_err();
            assert_eq!(is_not_found(&error), absent, "{error}");
        }
    }
}
