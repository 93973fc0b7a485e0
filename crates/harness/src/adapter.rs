//! Adapters as Hugging Face PEFT saves them: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::path::Path;

use peftlab_checkpoint::{Safetensors, TensorSource, write_safetensors};
use peftlab_layers::Model;
use peftlab_layers::params::{self, HostTensor};
use peftlab_peft::{DynMethod, Outline};

use crate::error::HarnessError;

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

/// A tensor's name in our model from its name in PEFT's model or files.
pub fn our_name(name: &str) -> String {
    let rest = match PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        Some(rest) => rest,
        None if name == PROMPT => PROMPT_TABLE,
        None => name,
    };
    if rest.ends_with(VECTOR_BANK) {
        return VECTOR_BANK.to_owned();
    }
    let rest = rest.replace(NORM_WRAPPER, "");
    match rest.strip_suffix(".weight") {
        Some(tensor) if tensor.ends_with(MAGNITUDE) => tensor.to_owned(),
        _ => rest,
    }
}

/// Reads `file` into a model that has `method` attached.
///
/// # Errors
/// Where the file cannot be read, a tensor has another shape (the adapter is another model's), or a trained
/// tensor is missing.
pub fn load(mut model: Model, outline: &Outline, file: &Path) -> Result<Model, HarnessError> {
    // a prompt or prefix is stored as the vectors themselves, not as what made them
    model.bake();
    let source = Safetensors::open(&[file.to_owned()])?;
    let mut tensors = BTreeMap::new();
    for name in source.names().into_iter().filter(|name| !name.ends_with(ABSENT_PATH)) {
        let shape = source.info(&name).map(|info| info.shape).unwrap_or_default();
        let values = source.read_f32(&name)?;
        tensors.insert(our_name(&name), HostTensor { shape, values });
    }
    let remedy = "is it an adapter for another model?";
    let (model, unused) = params::assign(model, &tensors)
        .map_err(|error| HarnessError::input(file, format!("{error}; {remedy}")))?;
    if let Some(name) = unused.first() {
        return Err(HarnessError::input(file, format!("the model has no tensor `{name}`; {remedy}")));
    }
    let is_stored = |info: &params::ParamInfo| info.trained && !outline.is_head(&info.name);
    match params::infos(&model).iter().find(|info| is_stored(info) && !tensors.contains_key(&info.name)) {
        Some(info) => Err(HarnessError::input(file, format!("tensor `{}` is missing; {remedy}", info.name))),
        None => Ok(model),
    }
}

/// Writes the trained tensors of `model`, those in `drawn` that the base model's checkpoint lacks, and the
/// configuration into the folder `dir`, as PEFT would.
///
/// # Errors
/// Where PEFT has no such method, or the folder cannot be written.
pub fn save(
    model: &Model,
    method: &dyn DynMethod,
    outline: &Outline,
    drawn: &[String],
    base_model: &str,
    dir: &Path,
) -> Result<(), HarnessError> {
    let Some(mut config) = method.to_peft(outline) else {
        let name = method.card().name;
        return Err(HarnessError::input(
            dir,
            format!("Hugging Face PEFT has no method like `{name}`; nothing is written"),
        ));
    };
    let sequence = outline.head() > 0;
    config["base_model_name_or_path"] = base_model.into();
    config["task_type"] = if sequence { "SEQ_CLS" } else { "CAUSAL_LM" }.into();
    config["inference_mode"] = true.into();
    config["modules_to_save"] = match sequence {
        true => {
            let pooler = drawn.iter().any(|name| name.contains(POOLER)).then_some("pooler");
            ["classifier", "score"].into_iter().chain(pooler).collect()
        }
        false => serde_json::Value::Null,
    };
    std::fs::create_dir_all(dir).map_err(|error| HarnessError::write(dir, &error))?;
    let text = serde_json::to_string_pretty(&config).unwrap_or_default();
    peftlab_record::write_atomic(&dir.join("adapter_config.json"), text.as_bytes())?;
    // what a method brings along frozen was drawn, and PEFT draws otherwise
    let kept =
        |info: &params::ParamInfo| info.trained || !outline.has(&info.name) || drawn.contains(&info.name);
    let tensors = params::tensors(model, kept);
    let named = tensors.into_iter().map(|(name, tensor)| (method.peft_name(&name), tensor)).collect();
    write(&named, &dir.join("adapter_model.safetensors"))
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
