//! Checkpoints in several files, and the index that says which tensor is where.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{CheckpointError, Safetensors};

/// A checkpoint's files, and the index that named them.
pub(crate) struct Shards {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) index: Option<Index>,
}

impl Shards {
    /// The shards of `index`; `place` says where one is.
    pub(crate) fn of(
        index: Index,
        place: impl Fn(&str) -> Result<PathBuf, CheckpointError>,
    ) -> Result<Self, CheckpointError> {
        let mut names: Vec<&str> = index.places.values().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        let files = names.into_iter().map(place).collect::<Result<_, _>>()?;
        Ok(Self { files, index: Some(index) })
    }
}

/// `model.safetensors.index.json`: for each tensor the file it is in.
pub(crate) struct Index {
    path: PathBuf,
    places: BTreeMap<String, String>,
}

impl Index {
    pub(crate) fn read(path: &Path) -> Result<Self, CheckpointError> {
        let text = std::fs::read_to_string(path).map_err(|error| CheckpointError::io(path, &error))?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| CheckpointError::new(path, format!("is no JSON: {error}")))?;
        let map = value["weight_map"]
            .as_object()
            .ok_or_else(|| CheckpointError::new(path, "lacks `weight_map`"))?;
        let mut places = BTreeMap::new();
        for (tensor, name) in map {
            // a shard lies beside its index
            let plain =
                name.as_str().filter(|name| Path::new(name).file_name().is_some_and(|file| file == *name));
            let Some(name) = plain else {
                return Err(CheckpointError::new(
                    path,
                    format!("`weight_map`: {name} of tensor `{tensor}` is no file name"),
                ));
            };
            places.insert(tensor.clone(), name.to_owned());
        }
        if places.is_empty() {
            return Err(CheckpointError::new(path, "`weight_map` names no tensor; get the file again"));
        }
        Ok(Self { path: path.to_owned(), places })
    }

    /// Holds the shards against what the index promises: where they differ they are of two checkpoints.
    pub(crate) fn check(&self, weights: &Safetensors) -> Result<(), CheckpointError> {
        for (tensor, promised) in &self.places {
            let found = weights.file_of(tensor).and_then(Path::file_name).map(|name| name.to_string_lossy());
            let wrong = match found {
                Some(found) if found == **promised => continue,
                Some(found) => format!("it is in {found}"),
                None => "no shard holds it".to_owned(),
            };
            return Err(CheckpointError::new(
                &self.path,
                format!(
                    "`weight_map` says that tensor `{tensor}` is in {promised}, but {wrong}; the index and the shards \
                     do not belong together: get them again"
                ),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_names_files_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("model.safetensors.index.json");
        for name in ["../model.safetensors", "/model.safetensors", "a/b.safetensors", ".."] {
            std::fs::write(&index, serde_json::json!({ "weight_map": { "w": name } }).to_string()).unwrap();
            let error = Index::read(&index).err().unwrap().to_string();
            assert!(error.contains("no file name"), "{name}");
        }
        std::fs::write(&index, r#"{"weight_map":{"w":3}}"#).unwrap();
        assert!(Index::read(&index).err().unwrap().to_string().contains("tensor `w`"));
    }
}
