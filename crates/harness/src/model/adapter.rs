//! Adapters as Hugging Face PEFT saves them: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use peftlab_checkpoint::{Safetensors, TensorSource, write_safetensors};
use peftlab_layers::Model;
use peftlab_layers::params::{self, HostTensor};
use peftlab_peft::{DynMethod, Outline};

use crate::error::HarnessError;
use crate::model::labels::Order;

/// What PEFT puts before the names inside a model that a tuner wraps, and inside one with a prompt in front.
const PREFIXES: [&str; 2] = ["base_model.model.", "base_model."];
/// The one tensor that PEFT saves of a prompt or a prefix, whatever made it.
const PROMPT: &str = "prompt_embeddings";
/// Our name for it.
const PROMPT_ENCODER: &str = "prompt_encoder.";
const PROMPT_TABLE: &str = "prompt_encoder.embedding.weight";

/// What PEFT's own modules put into names: where it stands in front of a norm's parameter, and where it follows a
/// tensor that is a module to PEFT while it trains, and none in its files.
const NORM_WRAPPER: &str = ".ln_tuning_layers";
const MAGNITUDE: &str = "lora_magnitude_vector";
/// In names of BERT's pooler, which a checkpoint without a head for sequences may lack.
const POOLER: &str = ".pooler.";
/// A tensor of zeros that PEFT keeps where one of GLoRA's paths is absent.
const ABSENT_PATH: &str = ".zeros";
/// A tensor that PEFT names after the first module that uses it, though all do.
const VECTOR_BANK: &str = "vblora_vector_bank";

/// What PEFT's modules are called that hold a tensor for each adapter: in the names of `state_dict()`, which are not those
/// of `save_pretrained`, the adapter's own name follows.
const BY_ADAPTER: [&str; 9] = [
    "lora_A",
    "lora_B",
    "lora_E",
    "lora_magnitude_vector",
    "lora_embedding_A",
    "lora_embedding_B",
    "modules_to_save",
    "ln_tuning_layers",
    "ia3_l",
];

/// A tensor's name in our model from its name in PEFT's model or files.
pub fn our_name(name: &str) -> String {
    // what torch.compile and data parallelism put around a model
    let mut rest = name.trim_start_matches("_orig_mod.").trim_start_matches("module.");
    rest = match PREFIXES.iter().find_map(|prefix| rest.strip_prefix(prefix)) {
        Some(rest) => rest,
        None if rest == PROMPT => PROMPT_TABLE,
        None => rest,
    };
    if rest.ends_with(VECTOR_BANK) {
        return VECTOR_BANK.to_owned();
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut parts = rest.split('.').peekable();
    while let Some(part) = parts.next() {
        let holds = BY_ADAPTER.contains(&part);
        // a base layer is the module itself, with an adapter around it
        if !["base_layer", "modules_to_save", "_orig_mod"].contains(&part) {
            kept.push(part);
        }
        if holds && parts.peek() == Some(&"default") {
            parts.next();
        }
    }
    let rest = kept.join(".").replace(NORM_WRAPPER, "");
    match rest.strip_suffix(".weight") {
        Some(tensor) if tensor.ends_with(MAGNITUDE) => tensor.to_owned(),
        _ => rest,
    }
}

/// The tensors of an adapter's file, by our names.
///
/// # Errors
/// Where the file cannot be read, holds no tensor, two of one name, or a value that is no number.
pub fn read(file: &Path) -> Result<BTreeMap<String, HostTensor>, HarnessError> {
    let source = Safetensors::open(&[file.to_owned()])?;
    let mut tensors = BTreeMap::new();
    // what a state dict has beside a module that was saved is what that took the place of
    let unused = |name: &str| name.ends_with(ABSENT_PATH) || name.contains(".original_module.");
    for name in source.names().into_iter().filter(|name| !unused(name)) {
        let shape = source.info(&name).map(|info| info.shape).unwrap_or_default();
        let values = source.read_f32(&name)?;
        if values.iter().any(|value| !value.is_finite()) {
            let message =
                format!("tensor `{name}` holds NaN or infinity; the training that wrote it had diverged");
            return Err(HarnessError::input(file, message));
        }
        let tensor = HostTensor { shape, values };
        // with bias = "all" PEFT saves a head's biases twice, under both of their names
        if tensors.get(&our_name(&name)).is_some_and(|other: &HostTensor| same(other, &tensor)) {
            continue;
        }
        if tensors.insert(our_name(&name), tensor).is_some() {
            let message = format!("two tensors are `{}`; save one adapter alone", our_name(&name));
            return Err(HarnessError::input(file, message));
        }
    }
    match tensors.is_empty() {
        true => Err(HarnessError::input(file, "holds no tensor")),
        false => Ok(tensors),
    }
}

fn same(one: &HostTensor, other: &HostTensor) -> bool {
    one.shape == other.shape && one.values.iter().zip(&other.values).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Reads `file` into a model that has `method` attached.
///
/// # Errors
/// Where the file cannot be read, a tensor has another shape (the adapter is another model's), or a trained
/// tensor is missing.
pub fn load(model: Model, outline: &Outline, file: &Path) -> Result<Model, HarnessError> {
    assign(model, outline, &read(file)?, file)
}

/// As [`load`], with tensors that are read already.
///
/// # Errors
/// As [`load`].
pub fn assign(
    mut model: Model,
    outline: &Outline,
    tensors: &BTreeMap<String, HostTensor>,
    file: &Path,
) -> Result<Model, HarnessError> {
    // a prompt or prefix is stored as the vectors themselves, not as what made them
    model.bake();
    let remedy = "is it an adapter for another model?";
    let (model, unused) = params::assign(model, tensors)
        .map_err(|error| HarnessError::input(file, format!("{error}; {remedy}")))?;
    // AdaLoRA's of a module that no rank is left of hold nothing
    if let Some(name) = unused.iter().find(|name| tensors.get(*name).is_none_or(|t| !t.values.is_empty())) {
        return Err(HarnessError::input(file, format!("the model has no tensor `{name}`; {remedy}")));
    }
    let is_stored = |info: &params::ParamInfo| info.trained && !outline.is_head(&info.name);
    match params::infos(&model).iter().find(|info| is_stored(info) && !tensors.contains_key(&info.name)) {
        Some(info) => Err(HarnessError::input(file, format!("tensor `{}` is missing; {remedy}", info.name))),
        None => Ok(model),
    }
}

/// What stands for a base model in `adapter_config.json`, so that PEFT finds it.
pub struct BaseName {
    /// `owner/name` on the Hub, or an absolute path.
    pub name: String,
    /// A revision on the Hub.
    pub revision: Option<String>,
}

impl BaseName {
    /// What stands for `source`, as an experiment in the folder `base` names it.
    pub fn of(source: &str, base: &Path) -> Self {
        let Some(hub) = source.strip_prefix("hub:") else {
            let path = base.join(source);
            let path = std::fs::canonicalize(&path).unwrap_or(path);
            return Self { name: path.display().to_string(), revision: None };
        };
        let hub = hub.split_once('#').map_or(hub, |(hub, _)| hub);
        let (name, revision) = hub.split_once('@').map_or((hub, None), |(name, at)| (name, Some(at)));
        Self { name: name.to_owned(), revision: revision.map(str::to_owned) }
    }
}

/// The names in `modules_to_save` of an adapter's configuration; each stands for the modules whose names end with it.
pub(crate) fn modules_to_save(config: &serde_json::Value) -> impl Iterator<Item = &str> {
    config["modules_to_save"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str)
}

/// Writes the trained tensors of `model`, those in `drawn` that the base model's checkpoint lacks, and the
/// configuration into the folder `dir`, as PEFT would. The head's outputs are in the base model's own `order`, if that
/// is another than the task's.
///
/// # Errors
/// Where PEFT has no such method, or the folder cannot be written.
pub(crate) fn save(
    model: &Model,
    method: &dyn DynMethod,
    outline: &Outline,
    drawn: &[String],
    (base_model, order): (&BaseName, Option<&Order>),
    dir: &Path,
) -> Result<(), HarnessError> {
    let Some(mut config) = method.to_peft(outline) else {
        let name = method.card().name;
        return Err(HarnessError::input(
            dir,
            format!(
                "Hugging Face PEFT has no method like `{name}`, or none with these settings; nothing is written"
            ),
        ));
    };
    let sequence = outline.head() > 0;
    config["base_model_name_or_path"] = base_model.name.as_str().into();
    config["revision"] = base_model.revision.as_deref().into();
    config["task_type"] = if sequence { "SEQ_CLS" } else { "CAUSAL_LM" }.into();
    config["inference_mode"] = true.into();
    // what a method brings along frozen was drawn, and PEFT draws otherwise
    let kept =
        |info: &params::ParamInfo| info.trained || !outline.has(&info.name) || drawn.contains(&info.name);
    let mut tensors = params::tensors(model, kept);
    if let Some(order) = order {
        order.to_file(&mut tensors);
    }
    let wrapped = wrapped(outline, &tensors);
    config["modules_to_save"] = match sequence {
        true => {
            // one with an update is a base layer in the file, for PEFT puts nothing inside what it saves
            let whole = !wrapped.iter().any(|module| module.contains(POOLER));
            let pooler = drawn.iter().any(|name| name.contains(POOLER)) && whole;
            ["classifier", "score"].into_iter().chain(pooler.then_some("pooler")).collect()
        }
        false => serde_json::Value::Null,
    };
    std::fs::create_dir_all(dir).map_err(|error| HarnessError::write(dir, &error))?;
    let text = serde_json::to_string_pretty(&config).unwrap_or_default();
    peftlab_record::write_atomic(&dir.join("adapter_config.json"), text.as_bytes())?;
    let name = |name: &str| match name.rsplit_once('.') {
        Some((module, last)) if wrapped.contains(module) && outline.has(name) => {
            format!("{module}.base_layer.{last}")
        }
        _ => method.peft_name(name),
    };
    let named = tensors.iter().map(|(ours, tensor)| (name(ours), tensor.clone())).collect();
    write(&named, &dir.join("adapter_model.safetensors"))
}

/// The projections that have a tensor of the adapter: what is trained of their own, a bias, is a base layer's to PEFT,
/// which passes over it in silence under its plain name.
fn wrapped(outline: &Outline, tensors: &BTreeMap<String, HostTensor>) -> BTreeSet<String> {
    let of_adapter: Vec<&String> = tensors.keys().filter(|name| !outline.has(name)).collect();
    let has_one = |module: &str| {
        of_adapter.iter().any(|name| name.strip_prefix(module).is_some_and(|rest| rest.starts_with('.')))
    };
    let names = outline.projections.iter().map(|projection| &projection.name);
    names.filter(|name| has_one(name)).cloned().collect()
}

/// Writes tensors under the names that PEFT gives them.
///
/// # Errors
/// Where the file cannot be written.
pub fn write(tensors: &BTreeMap<String, HostTensor>, file: &Path) -> Result<(), HarnessError> {
    let prompt = tensors.keys().any(|name| name.starts_with(PROMPT_ENCODER));
    let prefix = PREFIXES[usize::from(prompt)];
    let named: Vec<(String, Vec<usize>, Vec<f32>)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let name = match name.as_str() {
                PROMPT_TABLE => PROMPT.to_owned(),
                name if name.starts_with(PROMPT_ENCODER) => name.to_owned(),
                // what is the whole model's, and no module's
                name if !name.contains('.') => format!("{}{name}", PREFIXES[1]),
                name => format!("{prefix}{name}"),
            };
            (name, tensor.shape.clone(), tensor.values.clone())
        })
        .collect();

    Ok(write_safetensors(file, &named)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_form_are_ours() {
        let ours = "model.layers.0.self_attn.q_proj.lora_A.weight";
        for theirs in [
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
            "module.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
            "_orig_mod.base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model._orig_mod.model.layers.0.self_attn.q_proj.lora_A.weight",
        ] {
            assert_eq!(our_name(theirs), ours, "{theirs}");
        }
        assert_eq!(our_name("base_model.model.lm_head.base_layer.weight"), "lm_head.weight");
        assert_eq!(our_name("base_model.model.classifier.modules_to_save.default.bias"), "classifier.bias");
    }

    #[test]
    fn a_base_is_named_as_peft_finds_it() {
        let of = |source| {
            let BaseName { name, revision } = BaseName::of(source, Path::new("/nowhere"));
            (name, revision)
        };
        assert_eq!(of("hub:acme/tiny"), ("acme/tiny".to_owned(), None));
        assert_eq!(of("hub:acme/tiny@v1"), ("acme/tiny".to_owned(), Some("v1".to_owned())));
        assert_eq!(of("model"), ("/nowhere/model".to_owned(), None));
    }
}
