//! Checks against bundles of what a reference implementation computes.
//!
//! A bundle is a folder with a tiny random model, a method on it, and the reference's logits, loss, gradients,
//! weights after some steps and merged logits; `tests/fixtures/parity/FORMAT.md` describes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Formatter, Result as FmtResult};
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use peftlab_backbones::{BACKBONES, Head, build, card};
use peftlab_checkpoint::{Safetensors, TensorSource};
use peftlab_layers::params::{self, HostTensor};
use peftlab_layers::{Builder, HeadRows, Mode, Model, ModelInput, Output, Weights};
use peftlab_peft::{Course, DynMethod, Registry};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{HarnessError, read_json};
use crate::experiment::TrainingSpec;
use crate::model::adapter;
use crate::model::attach::Attached;
use crate::optimizer::OptimizerSpec;
use crate::train::loss::{FirstToken, Targets, loss};
use crate::train::step::Stepper;

#[derive(Deserialize)]
struct Bundle {
    architecture: String,
    method: String,
    trainable_parameters: usize,
    merge: String,
    /// Whether the loss and its gradients are of a pass as in training; logits never are.
    #[serde(default)]
    mode: BundleMode,
    optimizer: Steps,
    tolerance: Tolerance,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum BundleMode {
    #[default]
    Evaluate,
    Train,
}

#[derive(Deserialize)]
struct Steps {
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    steps: usize,
}

#[derive(Deserialize)]
struct Tolerance {
    logits: f64,
    loss: f64,
    grad_relative: f64,
    after: f64,
}

/// How a bundle came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Every difference is within its tolerance.
    Pass,
    /// One is not.
    Fail,
    /// The harness does not have the method or the architecture yet.
    Skip,
}

/// A bundle's result.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// The bundle's folder name.
    pub name: String,
    /// How it came out.
    pub verdict: Verdict,
    /// The largest error of each kind over its tolerance: above 1 is a failure.
    pub errors: BTreeMap<&'static str, f64>,
    /// What else is wrong, or why it was skipped.
    pub notes: Vec<String>,
}

impl Display for Check {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        let verdict = match self.verdict {
            Verdict::Pass => "PASS",
            Verdict::Fail => "FAIL",
            Verdict::Skip => "SKIP",
        };
        write!(f, "{verdict} {:<32}", self.name)?;
        for (kind, error) in &self.errors {
            write!(f, " {kind} {error:.3}")?;
        }
        for note in &self.notes {
            write!(f, "  {note}")?;
        }
        Ok(())
    }
}

/// Every bundle at or below `dir`, in the order of their paths.
///
/// # Errors
/// Where `dir` cannot be read or holds none.
pub fn find(dir: &Path) -> Result<Vec<PathBuf>, HarnessError> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) -> Result<(), HarnessError> {
        if dir.join("bundle.json").is_file() {
            found.push(dir.to_owned());
            return Ok(());
        }
        let entries = std::fs::read_dir(dir).map_err(|error| HarnessError::read(dir, &error))?;
        for entry in entries {
            let path = entry.map_err(|error| HarnessError::read(dir, &error))?.path();
            if path.is_dir() {
                walk(&path, found)?;
            }
        }
        Ok(())
    }
    if dir.is_file() {
        return Err(HarnessError::input(dir, "is no folder; give a bundle, or a folder that holds bundles"));
    }
    let mut found = Vec::new();
    walk(dir, &mut found)?;
    if found.is_empty() {
        return Err(HarnessError::input(dir, "holds no bundle: no folder below it has a bundle.json"));
    }
    found.sort();
    Ok(found)
}

/// Checks the bundle in `dir` on `device`.
///
/// # Errors
/// Where the bundle itself cannot be read.
pub fn check(dir: &Path, registry: &Registry, device: &Device) -> Result<Check, HarnessError> {
    let name = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned();
    let mut check = Check { name, verdict: Verdict::Skip, errors: BTreeMap::new(), notes: Vec::new() };
    let bundle: Bundle = read_json(&dir.join("bundle.json"))?;
    if !BACKBONES.iter().any(|card| card.name == bundle.architecture) {
        check.notes.push(format!("no architecture `{}`", bundle.architecture));
        return Ok(check);
    }
    match method(dir, &bundle, registry)? {
        Ok(method) => Run { dir, bundle: &bundle, method: &*method, device: device.clone().autodiff() }
            .check(&mut check)?,
        Err(reason) => check.notes.push(reason),
    }
    Ok(check)
}

/// The bundle's method, or why the harness does not have it.
fn method(
    dir: &Path,
    bundle: &Bundle,
    registry: &Registry,
) -> Result<Result<Box<dyn DynMethod>, String>, HarnessError> {
    let absent = || format!("no method `{}`", bundle.method);
    let parse = |name: &str, settings: Value| match registry.get(name) {
        Ok(entry) => entry.parse(settings).map_err(|error| error.to_string()),
        Err(_) => Err(absent()),
    };
    if bundle.method == "none" {
        return Ok(parse("full", json!({})));
    }
    let config: Value = read_json(&dir.join("adapter/adapter_config.json"))?;
    if config.get("peft_type").is_some() {
        return Ok(match registry.from_peft(&config) {
            Ok(described) => Ok(described.method),
            Err(reason) => Err(format!("{}: {reason}", absent())),
        });
    }
    let mut settings = config;
    if let Some(table) = settings.as_object_mut() {
        table.retain(|key, value| key != "method" && key != "reference" && !value.is_null());
    }
    Ok(parse(&bundle.method, settings))
}

struct Run<'a> {
    dir: &'a Path,
    bundle: &'a Bundle,
    method: &'a dyn DynMethod,
    device: Device,
}

impl Run<'_> {
    fn check(&self, check: &mut Check) -> Result<(), HarnessError> {
        let expected = Safetensors::open(&[self.dir.join("expected.safetensors")])?;
        let mut attached = Attached::new(self.model(&expected)?, self.method, 0, &self.device)
            .map_err(|error| HarnessError::input(self.dir, error.to_string()))?;
        // as in PEFT, whose last virtual token predicts a row's first one
        let (input, targets) = self.data(FirstToken::with(&mut attached.model, true))?;
        let before = named(&expected, "before.")?;
        let mut problems = same_names(&before, &attached.model);
        let values = before.into_iter().chain(self.buffers(&attached)?).collect();
        let (mut model, _) = params::assign(attached.model, &values)
            .map_err(|error| HarnessError::input(self.dir, error.to_string()))?;
        let frozen = model.fingerprints();
        let trained: usize = params::infos(&model)
            .iter()
            .filter(|p| p.trained)
            .map(peftlab_layers::params::ParamInfo::elements)
            .sum();
        if trained != self.bundle.trainable_parameters {
            problems.push(format!("trains {trained} parameters, not {}", self.bundle.trainable_parameters));
        }

        let Tolerance { logits, loss: loss_tolerance, grad_relative, after } = self.bundle.tolerance;
        let mut errors = Errors { check, input: &input };
        errors.logits("logits", &model, &expected, "logits", logits)?;
        let Steps { betas, eps, weight_decay, steps, .. } = self.bundle.optimizer;
        let optimizer = OptimizerSpec::AdamW { betas, eps, weight_decay };
        let training = TrainingSpec { optimizer, max_grad_norm: None, ..TrainingSpec::default() };
        let course = Course { steps, seed: 0 };
        let mut stepper = Stepper::new(self.method, &model, &attached.outline, &training, course);
        let batch = Batch { input: &input, targets: &targets };
        let (first, gradients) = self.backward(&mut model, &stepper, batch);
        errors.add("loss", (first - f64::from(expected.read_f32("loss")?[0])).abs(), loss_tolerance);
        let gradients = params::gradients(&model, &gradients);
        errors.relative("grad", &gradients, &named(&expected, "grad.")?, grad_relative);

        let (mut model, losses) = self.train(model, &mut stepper, batch)?;
        for (loss, expected) in losses.iter().zip(expected.read_f32("losses")?) {
            errors.add("losses", (loss - f64::from(expected)).abs(), loss_tolerance);
        }
        let now = params::tensors(&model, |info| info.trained);
        errors.absolute("after", &now, &named(&expected, "after.")?, after);
        errors.logits("logits_after", &model, &expected, "logits_after", after)?;
        problems.extend(changed(&frozen, &mut model));
        let mut baked = model.clone();
        baked.bake();
        errors.logits("baked", &baked, &expected, "logits_after", after)?;
        if self.bundle.merge == "exact" && self.bundle.method != "none" {
            match model.merge() {
                Ok(()) => {
                    errors.logits("merged", &model, &expected, "logits_merged_after", after)?;
                    let infos = params::infos(&model);
                    let left = infos.iter().filter(|info| !attached.outline.has(&info.name)).count();
                    if left > 0 {
                        problems.push(format!("{left} tensors are left after merging"));
                    }
                }
                Err(place) => problems.push(format!("cannot be merged at {place}")),
            }
        }
        if self.adapter_file().is_file() {
            self.import(&expected, &mut errors)?;
        }
        let fine = check.errors.values().all(|error| *error <= 1.0) && problems.is_empty();
        check.verdict = if fine { Verdict::Pass } else { Verdict::Fail };
        check.notes.extend(problems);
        Ok(())
    }

    /// The adapter as the reference saved it, read from its file, must give the same logits.
    fn import(&self, expected: &Safetensors, errors: &mut Errors<'_>) -> Result<(), HarnessError> {
        let attached = Attached::new(self.model(expected)?, self.method, 0, &self.device)
            .map_err(|error| HarnessError::input(self.dir, error.to_string()))?;
        let model = adapter::load(attached.model, &attached.outline, &self.adapter_file())?;
        errors.logits("import", &model, expected, "logits", self.bundle.tolerance.logits)
    }

    fn model(&self, expected: &Safetensors) -> Result<Model, HarnessError> {
        let config: Value = read_json(&self.dir.join("base/config.json"))?;
        let source = Safetensors::open(&[self.dir.join("base/model.safetensors")])?;
        let shape = expected.info("logits").map(|info| info.shape).unwrap_or_default();
        let head = match shape[..] {
            [_, outputs] => Head::Sequence { outputs },
            _ => Head::LanguageModel,
        };
        let base_prefix = card(&config)?.base_prefix;
        let weights =
            Weights::Checkpoint { source: &source, base_prefix, fresh: &[], head: HeadRows::Kept, seed: 0 };
        Ok(Model::new(build(&config, head, &Builder::new(weights, &self.device, DType::F32))?))
    }

    /// The batch, and what it should give.
    fn data(&self, first: FirstToken) -> Result<(ModelInput, Targets), HarnessError> {
        let data = Safetensors::open(&[self.dir.join("data.safetensors")])?;
        let shape = |name: &str| data.info(name).map(|info| info.shape).unwrap_or_default();
        let plain = self.device.clone();
        let integers = |name: &str| -> Result<(Vec<i64>, Vec<usize>), HarnessError> {
            Ok((data.read_i64(name)?, shape(name)))
        };
        let (ids, ids_shape) = integers("input_ids")?;
        let matrix = |values: Vec<i64>, shape: &[usize]| {
            Tensor::<2, Int>::from_data(TensorData::new(values, shape.to_vec()), &plain)
        };
        let (mask, mask_shape) = integers("attention_mask")?;
        let padded = mask.contains(&0);
        let padding = padded.then(|| matrix(mask, &mask_shape).equal_elem(0));
        let (labels, labels_shape) = integers("labels")?;
        let targets = match labels_shape[..] {
            [rows, length] => Targets::tokens(labels, [rows, length], first, &plain),
            _ => {
                let rows = labels.len();
                Targets::Classes(Tensor::from_data(TensorData::new(labels, [rows]), &plain))
            }
        };
        let input = ModelInput { input_ids: matrix(ids, &ids_shape), padding, token_type_ids: None };
        Ok((input, targets))
    }

    fn adapter_file(&self) -> PathBuf {
        self.dir.join("adapter/adapter_model.safetensors")
    }

    /// The frozen tensors that the method brings along, as the reference drew them.
    fn buffers(&self, attached: &Attached) -> Result<Named, HarnessError> {
        let file = self.adapter_file();
        if !file.is_file() {
            return Ok(Named::new());
        }
        let all = named(&Safetensors::open(&[file])?, "")?;
        let buffers = attached.buffers();
        Ok(all.into_iter().filter(|(name, _)| buffers.contains(name)).collect())
    }

    fn backward(
        &self,
        model: &mut Model,
        stepper: &Stepper,
        batch: Batch<'_>,
    ) -> (f64, burn::tensor::Gradients) {
        let mode = match self.bundle.mode {
            BundleMode::Evaluate => Mode::Evaluate,
            BundleMode::Train => Mode::Train,
        };
        let sum = loss(model.forward(batch.input, mode), batch.targets).sum;
        let mean = sum / batch.targets.counted() as f64;
        let total = stepper.with_extra_loss(mean, 1.0, model);
        let value = f64::from(total.clone().into_scalar::<f32>());
        (value, total.backward())
    }

    fn train(
        &self,
        mut model: Model,
        stepper: &mut Stepper,
        batch: Batch<'_>,
    ) -> Result<(Model, Vec<f64>), HarnessError> {
        let Steps { lr, steps, .. } = self.bundle.optimizer;
        let mut losses = Vec::new();
        for _ in 0..steps {
            stepper.begin(&mut model);
            let (value, gradients) = self.backward(&mut model, stepper, batch);
            losses.push(value);
            let gradients = GradientsParams::from_grads(gradients, &model);
            model = stepper.step(lr, model, gradients)?;
        }
        Ok((model, losses))
    }
}

/// A batch with what it should give.
#[derive(Clone, Copy)]
struct Batch<'a> {
    input: &'a ModelInput,
    targets: &'a Targets,
}

/// Collects the largest error of each kind over its tolerance.
struct Errors<'a> {
    check: &'a mut Check,
    input: &'a ModelInput,
}

impl Errors<'_> {
    fn add(&mut self, kind: &'static str, error: f64, tolerance: f64) {
        // a NaN must not vanish in a comparison
        let ratio = if error.is_nan() { f64::INFINITY } else { error / tolerance };
        let largest = self.check.errors.entry(kind).or_insert(0.0);
        *largest = largest.max(ratio);
    }

    fn absolute(&mut self, kind: &'static str, ours: &Named, theirs: &Named, tolerance: f64) {
        for (name, expected) in theirs {
            let error = ours.get(name).map_or(f64::INFINITY, |ours| largest(&ours.values, &expected.values));
            self.add(kind, error, tolerance);
        }
    }

    /// Errors over the largest value of each expected tensor. A tensor whose gradient is zero but for rounding
    /// (a key's bias, to which softmax is blind) has only noise to compare with: it must stay noise.
    fn relative(&mut self, kind: &'static str, ours: &Named, theirs: &Named, tolerance: f64) {
        let size =
            |tensor: &HostTensor| tensor.values.iter().fold(0.0f64, |size, v| size.max(f64::from(v.abs())));
        let noise = 16.0 * f64::from(f32::EPSILON) * theirs.values().map(size).fold(0.0, f64::max);
        for (name, expected) in theirs {
            let expected_size = size(expected);
            match ours.get(name) {
                // a loss that does not depend on a tensor gives no gradient here, and zeros there
                None if expected_size == 0.0 => {}
                None => self.add(kind, f64::INFINITY, tolerance),
                Some(ours) if expected_size <= noise => self.add(kind, size(ours), noise),
                Some(ours) => {
                    self.add(kind, largest(&ours.values, &expected.values) / expected_size, tolerance);
                }
            }
        }
    }

    fn logits(
        &mut self,
        kind: &'static str,
        model: &Model,
        expected: &Safetensors,
        name: &str,
        tolerance: f64,
    ) -> Result<(), HarnessError> {
        let theirs = expected.read_f32(name)?;
        let (ours, width, virtual_tokens) = match model.valid().forward(self.input, Mode::Evaluate) {
            Output::Sequence(logits) => (logits.into_data(), 0, 0),
            Output::Tokens(logits) => {
                let [_, length, width] = logits.dims();
                (logits.into_data(), width, length - self.input.input_ids.dims()[1])
            }
        };
        let ours: Vec<f32> = ours.iter::<f32>().collect();
        if ours.len() != theirs.len() {
            self.add(kind, f64::INFINITY, tolerance);
            return Ok(());
        }
        let skipped = if width > 0 { padded_rows(self.input, virtual_tokens) } else { Vec::new() };
        let rows = ours.chunks(width.max(1)).zip(theirs.chunks(width.max(1))).enumerate();
        for (row, (ours, theirs)) in rows {
            if !skipped.get(row).copied().unwrap_or(false) {
                self.add(kind, largest(ours, theirs), tolerance);
            }
        }
        Ok(())
    }
}

/// For each row of a language model's logits, whether it is padding: nothing defines those.
fn padded_rows(input: &ModelInput, virtual_tokens: usize) -> Vec<bool> {
    let [batch, length] = input.input_ids.dims();
    let padding: Vec<bool> = match &input.padding {
        Some(padding) => padding.clone().into_data().iter::<bool>().collect(),
        None => vec![false; batch * length],
    };
    let row = |row: &[bool]| [vec![false; virtual_tokens], row.to_vec()].concat();
    padding.chunks(length).flat_map(row).collect()
}

type Named = BTreeMap<String, HostTensor>;

/// The tensors whose names start with `kind`, by the names we give them: without PEFT's prefix.
fn named(source: &Safetensors, kind: &str) -> Result<Named, HarnessError> {
    let mut found = BTreeMap::new();
    for name in source.names() {
        let Some(rest) = name.strip_prefix(kind) else { continue };
        let shape = source.info(&name).map(|info| info.shape).unwrap_or_default();
        let values = source.read_f32(&name)?;
        found.insert(adapter::our_name(rest), HostTensor { shape, values });
    }
    Ok(found)
}

fn largest(ours: &[f32], theirs: &[f32]) -> f64 {
    if ours.len() != theirs.len() {
        return f64::INFINITY;
    }
    let each = ours.iter().zip(theirs).map(|(a, b)| f64::from((a - b).abs()));
    each.fold(0.0, |largest, error| if error.is_nan() { f64::INFINITY } else { largest.max(error) })
}

fn same_names(theirs: &Named, model: &Model) -> Vec<String> {
    let ours: BTreeSet<String> =
        params::infos(model).into_iter().filter(|info| info.trained).map(|info| info.name).collect();
    let theirs: BTreeSet<String> = theirs.keys().cloned().collect();
    let extra = ours.difference(&theirs).map(|name| format!("trains `{name}` besides"));
    let missing = theirs.difference(&ours).map(|name| format!("does not train `{name}`"));
    extra.chain(missing).collect()
}

fn changed(before: &BTreeMap<String, u64>, model: &mut Model) -> Vec<String> {
    let after = model.fingerprints();
    let trained: BTreeSet<String> =
        params::infos(model).into_iter().filter(|info| info.trained).map(|info| info.name).collect();
    let frozen = before.iter().filter(|(name, _)| !trained.contains(*name));
    let moved = frozen.filter(|(name, old)| after.get(*name).is_some_and(|new| new != *old));
    moved.map(|(name, _)| format!("frozen `{name}` changed")).collect()
}
