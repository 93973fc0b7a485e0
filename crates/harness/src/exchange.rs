//! Adapters to and from Hugging Face PEFT.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use peftlab_backbones::Head;
use peftlab_layers::Model;
use peftlab_layers::params::HostTensor;
use peftlab_peft::{Described, DynMethod, Outline, Registry};
use peftlab_record::{Record, Score, Status};
use serde_json::Value;

use crate::error::{HarnessError, read_json};
use crate::execute::changed;
use crate::experiment::{MethodSpec, WeightsSpec};
use crate::model::adapter;
use crate::model::attach::Attached;
use crate::model::labels::Order;
use crate::model::source::TaskHead;
use crate::model::untied::unties;
use crate::plan::{Cell, Plan, check_length, check_memory};
use crate::run::{Scorer, TEST, VALIDATION};

/// Writes the adapter of the run whose record is at `record` into the folder `out`. Gives what a reader of the adapter
/// should know; a sentence each.
///
/// # Errors
/// Where the record is not of a cell of `plan`, or PEFT has no such method.
pub fn export(record: &Path, plan: &Plan, out: &Path) -> Result<Vec<String>, HarnessError> {
    let read = Record::read(record)?;
    if read.status != Status::Done {
        let status = serde_json::to_value(read.status).unwrap_or_default();
        let message =
            format!("has status {status} ({}), and no adapter to export; run it again", read.message);
        return Err(HarnessError::input(record, message));
    }
    let cell = cell_of(plan, &read).ok_or_else(|| {
        let file = plan.experiment.path.display();
        let here = plan.cells.iter().find(|cell| cell.label == read.label && cell.task == read.task.name);
        let why = here.map(|cell| format!(" ({})", changed(&read.inputs, &cell.inputs))).unwrap_or_default();
        HarnessError::input(record, format!("is not of a cell of {file} as it is now{why}"))
    })?;
    let mut warnings = about_base(plan)?;
    let (task, data) = (&plan.experiment.tasks[cell.task_index], &plan.data[cell.task_index]);
    let (order, told) = plan.source.order_of_adapters(task, data)?;
    warnings.extend(order.as_ref().map(|order| in_order(order, &data.classes)).or(told));
    let device = plan.device.tensors.clone().autodiff();
    let model = plan.source.build(&plan.heads[cell.task_index], cell.seed, &device)?;
    let method = &*plan.experiment.methods[cell.row].method;
    let attached = Attached::new(model, method, cell.seed, &device)
        .map_err(|reason| HarnessError::input(&plan.experiment.path, reason.to_string()))?;
    let model = adapter::load(attached.model, &attached.outline, &record.with_extension("safetensors"))?;
    let drawn = &plan.heads[cell.task_index].drawn;
    let experiment = &plan.experiment;
    let base = adapter::BaseName::of(&experiment.model.source, experiment.base());
    adapter::save(&model, method, &attached.outline, drawn, (&base, order.as_ref()), out)?;
    Ok(warnings)
}

/// What a reader of an exported adapter should know of the base that it names; a sentence each.
///
/// # Errors
/// Where nobody else has such a base.
fn about_base(plan: &Plan) -> Result<Vec<String>, HarnessError> {
    let (experiment, spec) = (&plan.experiment, &plan.experiment.model);
    if spec.weights == WeightsSpec::Random {
        let message = "weights = \"random\" in [model]: the base was drawn, and PEFT would draw another; there is nothing \
                       that an adapter could be put on";
        return Err(HarnessError::input(&experiment.path, message));
    }
    let name = adapter::BaseName::of(&spec.source, experiment.base()).name;
    let mut told = Vec::new();
    if !spec.config.is_empty() {
        let keys: Vec<String> = spec.config.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        told.push(format!(
            "`{name}` is named as the base, and the run had it with other settings (config in [model]); load it for PEFT \
             with the same: from_pretrained(\"{name}\", {})",
            keys.join(", ")
        ));
    }
    if let Some(file) = plan.source.gguf() {
        told.push(format!(
            "`{name}` is named as the base, and the run had the weights of {file}: PEFT needs the same ones in \
             safetensors, and on others the adapter is another"
        ));
    }
    Ok(told)
}

/// That the outputs of an exported head are in the order of the base model's names.
fn in_order(order: &Order, classes: &[String]) -> String {
    let mut theirs: Vec<(usize, &str)> =
        order.rows.iter().copied().zip(classes.iter().map(String::as_str)).collect();
    theirs.sort_unstable();
    let theirs: Vec<&str> = theirs.into_iter().map(|(_, class)| class).collect();
    format!(
        "the adapter's head has the classes in the base model's order, {} (id2label); the task's is {}",
        theirs.join(", "),
        classes.join(", ")
    )
}

/// The cell whose adapter the record's is: of the same method on the same model, with the same head, whatever the labels.
/// How the classes are called in the model's config.json may be said afterwards.
fn cell_of<'p>(plan: &'p Plan, record: &Record) -> Option<&'p Cell> {
    let parts = ["/method", "/model/weights", "/model/dtype", "/task/kind", "/task/classes"];
    let config = |inputs: &Value| {
        let mut config = inputs["model"]["config"].clone();
        if let Some(config) = config.as_object_mut() {
            config.retain(|key, _| key != "id2label" && key != "label2id");
        }
        config
    };
    let same = |cell: &&Cell| {
        cell.seed == record.seed
            && parts.iter().all(|part| cell.inputs.pointer(part) == record.inputs.pointer(part))
            && config(&cell.inputs) == config(&record.inputs)
    };
    plan.cells.iter().find(same)
}

/// What scoring an adapter gave.
#[derive(Debug)]
pub struct Imported {
    /// The name of each split, and its scores.
    pub scores: Vec<(&'static str, Score)>,
    /// What a reader of the scores should know; a sentence each.
    pub warnings: Vec<String>,
}

/// Scores the adapter in the folder `dir` on a task of `plan`.
///
/// # Errors
/// Where there is no adapter, one of its keys asks for what is not implemented, or it does not fit the model.
pub fn import(
    dir: &Path,
    plan: &Plan,
    task: Option<&str>,
    registry: &Registry,
) -> Result<Imported, HarnessError> {
    let config_path = dir.join("adapter_config.json");
    if !config_path.is_file() && dir.join("default").join("adapter_config.json").is_file() {
        let inner = dir.join("default");
        return Err(HarnessError::input(dir, format!("holds no adapter itself; import {}", inner.display())));
    }
    let mut config: Value = read_json(&config_path)?;
    let describe = |config: &Value| {
        registry.from_peft(config).map_err(|reason| HarnessError::input(&config_path, reason.to_string()))
    };
    let Described { mut method, mut warnings } = describe(&config)?;
    let names: Vec<&str> = plan.experiment.tasks.iter().map(|task| task.name.as_str()).collect();
    let index = match task {
        None => 0,
        Some(task) => names.iter().position(|name| *name == task).ok_or_else(|| {
            let message = format!("--task: there is no task `{task}`; there are {}", names.join(", "));
            HarnessError::input(&plan.experiment.path, message)
        })?,
    };
    let data = &plan.data[index];
    let head = &plan.heads[index];
    check_task(&config, head.head).map_err(|message| HarnessError::input(&config_path, message))?;
    warnings.extend(other_base(&config, plan));
    let file = tensor_file(dir)?;
    let mut tensors = adapter::read(&file)?;
    if let Some(steps) = butterfly_steps(&config, &tensors) {
        config[BUTTERFLY] = steps.into();
        method = describe(&config)?.method;
    }
    let spec = MethodSpec { label: method.label(), method, training: plan.experiment.training.clone() };
    let method = &*spec.method;
    let untied = match unties(&plan.source.config, head.head, (&config, method), &mut tensors) {
        Ok(true) => Some(plan.source.untied(head)?),
        Ok(false) => None,
        Err(message) => return Err(HarnessError::input(&file, message)),
    };
    let head = untied.as_ref().unwrap_or(head);
    has_room(method, &head.outline, &tensors)
        .and_then(|()| has_head(head, &tensors))
        .and_then(|()| has_saved(&config, &head.outline, &tensors))
        .map_err(|message| HarnessError::input(&file, message))?;
    if !head.drawn.is_empty() {
        // the plan, which knows no adapter, says that they are drawn
        warnings.push(format!(
            "what the checkpoint lacks is the adapter's, and not drawn: {}",
            head.drawn.join(", ")
        ));
    }
    if tensors.keys().any(|name| head.outline.is_head(name)) {
        let (order, told) = plan.source.order_of_adapters(&plan.experiment.tasks[index], data)?;
        warnings.extend(told);
        if let Some(order) = order {
            order.to_task(&mut tensors);
        }
    }

    check_memory(&plan.device, &head.outline, plan.source.dtype, method)
        .and_then(|()| has_positions(plan, index, &spec))
        .map(|told| warnings.extend(told))
        .map_err(|message| HarnessError::input(&plan.experiment.path, message))?;
    let device = plan.device.tensors.clone().autodiff();
    let model = plan.source.build(head, 0, &device)?;
    let attached = Attached::new(model, method, 0, &device)
        .map_err(|reason| HarnessError::input(&config_path, reason.to_string()))?;
    let model = adapter::assign(attached.model, &attached.outline, &tensors, &file)?;
    let scores = scored(plan, index, head, method.virtual_tokens(), model, &device)?;
    Ok(Imported { scores, warnings })
}

/// The scores of `model` on the task `index`, of validation and test.
fn scored(
    plan: &Plan,
    index: usize,
    head: &TaskHead,
    virtual_tokens: usize,
    model: Model,
    device: &Device,
) -> Result<Vec<(&'static str, Score)>, HarnessError> {
    let (task, data, training) =
        (&plan.experiment.tasks[index], &plan.data[index], &plan.experiment.training);
    let scorer = Scorer { plan, task, data, head, virtual_tokens, training };
    let mut model = model.valid();
    let feeder = scorer.feeder(&mut model, device);
    let mut scores = Vec::new();
    let splits = [(VALIDATION, Some(&data.validation)), (TEST, data.test.as_ref())];
    for (name, split) in splits.into_iter().filter_map(|(name, split)| Some((name, split?))) {
        let evaluation = scorer.evaluate(&model, (name, split), &feeder)?;
        scores.extend(scorer.scores(&evaluation).into_iter().map(|score| (name, score)));
    }
    Ok(scores)
}

/// BOFT's steps, as PEFT's configuration has them.
const BUTTERFLY: &str = "boft_n_butterfly_factor";

/// The steps that the tensors of a BOFT adapter are for: without its CUDA extension PEFT makes one, and leaves what the
/// configuration asks for as it is.
fn butterfly_steps(config: &Value, tensors: &BTreeMap<String, HostTensor>) -> Option<usize> {
    let rotation = || tensors.iter().find(|(name, _)| name.ends_with(".boft_R"));
    (config["peft_type"] == "BOFT").then(rotation)??.1.shape.first().copied()
}

/// The file with an adapter's tensors.
fn tensor_file(dir: &Path) -> Result<PathBuf, HarnessError> {
    let file = dir.join("adapter_model.safetensors");
    match !file.is_file() && dir.join("adapter_model.bin").is_file() {
        false => Ok(file),
        true => Err(HarnessError::input(
            &dir.join("adapter_model.bin"),
            "only safetensors can be read; convert it: PeftModel.from_pretrained(BASE, DIR).save_pretrained(DIR)",
        )),
    }
}

/// An error where the adapter is for another kind of task.
fn check_task(config: &Value, head: Head) -> Result<(), String> {
    let fits = match (&config["task_type"], head) {
        (Value::Null, _) => true,
        (Value::String(task), Head::LanguageModel) => task == "CAUSAL_LM",
        (Value::String(task), Head::Sequence { .. }) => task == "SEQ_CLS" || task == "FEATURE_EXTRACTION",
        _ => false,
    };
    match fits {
        true => Ok(()),
        false => {
            let asked = if head == Head::LanguageModel { "CAUSAL_LM" } else { "SEQ_CLS" };
            Err(format!("`task_type` = {}, but the experiment's task is {asked}", config["task_type"]))
        }
    }
}

/// A warning where the adapter names another base than the experiment.
fn other_base(config: &Value, plan: &Plan) -> Option<String> {
    let named = config["base_model_name_or_path"].as_str().filter(|name| !name.is_empty())?;
    let base = adapter::BaseName::of(&plan.experiment.model.source, plan.experiment.base());
    let last = |name: &str| name.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    let revision = config["revision"].as_str().filter(|revision| Some(*revision) != base.revision.as_deref());
    if last(named) != last(&base.name) {
        return Some(format!(
            "adapter_config.json: `base_model_name_or_path` is `{named}`, but the experiment's model is `{}`",
            base.name
        ));
    }
    revision.map(|revision| {
        format!("adapter_config.json: `revision` is `{revision}`, and the experiment's model is of another, or of none")
    })
}

/// An error where the settings ask for more values than the file has: nothing is allocated for what a file merely
/// claims.
fn has_room(
    method: &dyn DynMethod,
    outline: &Outline,
    tensors: &BTreeMap<String, HostTensor>,
) -> Result<(), String> {
    let count = method
        .count(outline)
        .map_err(|reason| format!("adapter_config.json (`r`, `num_virtual_tokens` or the like): {reason}"))?;
    let held: usize = tensors.values().map(|tensor| tensor.values.len()).sum();
    // what makes a prefix is in no file, and in those there are it is smaller than the network
    if count.adapter > held.max(outline.total()) {
        return Err(format!(
            "adapter_config.json asks for {} values to train (`encoder_hidden_size`), more than the whole network has; the \
             two do not belong together, or it is an adapter for another model",
            count.adapter
        ));
    }
    let asked = count.stored.max(count.buffers);
    match asked > held {
        false => Ok(()),
        true => Err(format!(
            "the sizes in adapter_config.json (`r`, `num_virtual_tokens` or the like) and its targets ask for {asked} \
             values, but the file holds {held}; the two do not belong together, or it is an adapter for another model"
        )),
    }
}

/// An error where a module that the adapter holds as a whole is not in its file: it would be the base model's.
fn has_saved(
    config: &Value,
    outline: &Outline,
    tensors: &BTreeMap<String, HostTensor>,
) -> Result<(), String> {
    let mut names: Vec<&str> = adapter::modules_to_save(config).collect();
    if config["task_type"] == "SEQ_CLS" {
        // PEFT takes these for saved, and as all names those that no module has for nothing
        names.extend(["classifier", "score"]);
    }
    let named = |module: &&str| names.iter().any(|name| module.ends_with(name));
    for info in outline.parameters.iter().filter(|info| !tensors.contains_key(&info.name)) {
        let modules = info.name.match_indices('.').map(|(at, _)| &info.name[..at]);
        if let Some(module) = modules.into_iter().find(named) {
            return Err(format!(
                "`modules_to_save` in adapter_config.json stands for `{module}`, but there is no tensor `{}`, and the \
                 model's own is not what was trained; save the adapter anew",
                info.name
            ));
        }
    }
    Ok(())
}

/// A plan knows nothing of the virtual tokens of an adapter that is read: as it does for its methods, this holds them
/// and the texts against the network's positions. Gives what a reader should know and the plan did not tell.
///
/// # Errors
/// Where there is no room.
fn has_positions(plan: &Plan, index: usize, spec: &MethodSpec) -> Result<Option<String>, String> {
    let (task, data) = (&plan.experiment.tasks[index], &plan.data[index]);
    let table = plan.source.config["max_position_embeddings"].as_u64().unwrap_or_default();
    let told = check_length(task, data, spec, &plan.heads[index].outline, table)?;
    Ok(told.filter(|told| !plan.warnings[index].contains(told)))
}

/// An error where a part of the network is in neither file: its score would be that of drawn values.
fn has_head(head: &TaskHead, tensors: &BTreeMap<String, HostTensor>) -> Result<(), String> {
    for info in &head.outline.parameters {
        match tensors.get(&info.name) {
            Some(tensor) if tensor.shape != info.shape && head.outline.is_head(&info.name) => {
                return Err(format!(
                    "the head's `{}` has shape {:?}, but the experiment's task asks for {:?}; it was trained for other \
                     classes",
                    info.name, tensor.shape, info.shape
                ));
            }
            None if head.drawn.contains(&info.name) => {
                return Err(format!(
                    "the head's `{}` is neither in the adapter nor in the model, and what it scores would mean nothing; \
                     save the adapter with task_type = \"SEQ_CLS\" or with modules_to_save",
                    info.name
                ));
            }
            _ => {}
        }
    }
    Ok(())
}
