//! Networks whose output layer is their embedding, under an adapter that makes two of them.

use std::collections::BTreeMap;

use peftlab_backbones::Head;
use peftlab_checkpoint::{CheckpointError, TensorInfo, TensorSource};
use peftlab_layers::params::HostTensor;
use peftlab_peft::DynMethod;
use serde_json::Value;

use crate::model::adapter;

/// A language model's output layer.
pub(crate) const LM_HEAD: &str = "lm_head.weight";
/// Its embedding, as it may be named in files.
pub(crate) const EMBEDDINGS: [&str; 2] = ["model.embed_tokens.weight", "embed_tokens.weight"];

/// Methods that take what they start from off the weight.
const FROM_THE_WEIGHT: [&str; 2] = ["olora", "pissa"];

/// A checkpoint whose output layer, where it has none of its own, has the embedding's values.
pub(crate) struct Untied<'a>(pub(crate) &'a dyn TensorSource);

impl Untied<'_> {
    fn place<'n>(&self, name: &'n str) -> &'n str {
        let embedding = || EMBEDDINGS.into_iter().find(|name| self.0.info(name).is_some());
        match name == LM_HEAD && self.0.info(LM_HEAD).is_none() {
            true => embedding().unwrap_or(name),
            false => name,
        }
    }
}

impl TensorSource for Untied<'_> {
    fn names(&self) -> Vec<String> {
        self.0.names()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.0.info(self.place(name))
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        self.0.read_f32(self.place(name))
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

/// Whether the adapter makes two of an embedding and an output layer that are one. PEFT puts a copy in the place of a
/// module that is saved, and leaves the other as it is. An embedding that was saved without being asked for (for tokens
/// were added) takes the place of both.
///
/// # Errors
/// Where the file has two tensors for what is one, or what the method starts from would be taken off both.
pub(crate) fn unties(
    network: &Value,
    head: Head,
    (config, method): (&Value, &dyn DynMethod),
    tensors: &mut BTreeMap<String, HostTensor>,
) -> Result<bool, String> {
    if head != Head::LanguageModel || network["tie_word_embeddings"] != true {
        return Ok(false);
    }
    let saved = |module: &str| adapter::modules_to_save(config).any(|name| module.ends_with(name));
    let adapted = tensors.keys().find(|name| name.starts_with("lm_head.") && *name != LM_HEAD);
    // the copy is a tensor of its own only after that: until then PEFT has changed the embedding, too
    if let Some(name) = adapted.filter(|_| FROM_THE_WEIGHT.contains(&method.card().name)) {
        return Err(format!(
            "tensor `{name}`: {} takes what it starts from off the weight, and the network's output layer is its \
             embedding (tie_word_embeddings), which PEFT changes with it; that is not implemented. Train it without \
             `lm_head` in target_modules, or on a model whose output layer is its own",
            method.card().title
        ));
    }
    if adapted.is_some() || saved("lm_head") || saved("model.embed_tokens") {
        return Ok(true);
    }
    match (tensors.get(LM_HEAD), tensors.get(EMBEDDINGS[0])) {
        (None, _) => Ok(false),
        (Some(layer), Some(embedding)) if layer == embedding => {
            tensors.remove(LM_HEAD);
            Ok(false)
        }
        _ => Err(format!(
            "tensor `{LM_HEAD}`: the network's output layer is its embedding (tie_word_embeddings), and the file says \
             otherwise of one of them alone; save both with modules_to_save"
        )),
    }
}
