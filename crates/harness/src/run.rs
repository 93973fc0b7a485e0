//! One cell: from a plan to a record. It runs in a process of its own, so that its peak memory is its own.

pub mod card;
pub(crate) mod checks;
mod record;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use peftlab_layers::params::{self, HostTensor};
use peftlab_layers::{Mode, Model, Output};
use peftlab_meter::{Timeline, TimelineSummary, percentile};
use peftlab_peft::{DynMethod, Identity, MergeKind, Outline};
use peftlab_record::{
    Checks, Look, Measured, Memory, MergedLoss, Record, Score, Spread, Status, Step, Time, Training,
    predictions_path, steps_path, validation_predictions_path, write_table,
};
use peftlab_tasks::{Metric, Split, TaskData, TaskSpec, score};
use sha2::{Digest, Sha256};

use crate::device::gpu::Gpu;
use crate::error::HarnessError;
use crate::experiment::TrainingSpec;
use crate::model::adapter;
use crate::model::attach::Attached;
use crate::model::source::TaskHead;
use crate::plan::{Cell, Plan, check_memory};
use crate::run::card::{
    Difference, Rounding, check_count, check_merge, check_step_0, check_stored, without_updates,
};
use crate::run::checks::Held;
use crate::train::loss::FirstToken;
use crate::train::{Evaluation, Event, Feeder, History, Trainer, evaluate};

pub use record::empty_record;

/// Runs `cell` and writes its record, `runs/STEM.json` in `out`, with its tables and adapter beside it. Of a trial
/// no more is kept than its record, in `trials/`, and the table of its steps.
///
/// # Errors
/// Where training goes wrong, a check fails, or the results cannot be written.
pub fn run_cell(
    plan: &Plan,
    cell: &Cell,
    program: &str,
    out: &Path,
    event: &mut dyn FnMut(Event),
) -> Result<Record, HarnessError> {
    let mut record = empty_record(plan, cell, program);
    let training = &cell.training;
    let (data, head) = (&plan.data[cell.task_index], &plan.heads[cell.task_index]);
    let task = &plan.experiment.tasks[cell.task_index];
    let virtual_tokens = plan.experiment.methods[cell.row].method.virtual_tokens();
    let run = Run { cell, scorer: Scorer { plan, task, data, head, virtual_tokens, training } };
    let outcome = run.measure(event)?;
    let path = out.join(cell.folder()).join(format!("{}.json", cell.stem()));
    write_table(&steps_path(&path), &outcome.history.steps)?;
    if !cell.trial {
        match &outcome.test {
            Some(test) => {
                write_table(&predictions_path(&path), &test.items)?;
                write_table(&validation_predictions_path(&path), &outcome.validation.items)?;
            }
            None => write_table(&predictions_path(&path), &outcome.validation.items)?,
        }
        adapter::write(&outcome.kept, &path.with_extension("safetensors"))?;
    }
    record.status = Status::Done;
    record.measured = Some(outcome.measured);
    record.write(&path)?;
    Ok(record)
}

struct Run<'a> {
    cell: &'a Cell,
    scorer: Scorer<'a>,
}

/// Evaluates models on a task.
pub(crate) struct Scorer<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) task: &'a TaskSpec,
    pub(crate) data: &'a TaskData,
    pub(crate) head: &'a TaskHead,
    /// Those that the method puts before every sequence.
    pub(crate) virtual_tokens: usize,
    pub(crate) training: &'a TrainingSpec,
}

impl Scorer<'_> {
    /// What feeds `model`.
    pub(crate) fn feeder(&self, model: &mut Model, device: &Device) -> Feeder {
        let config = &self.plan.source.config;
        let outline = &self.head.outline;
        Feeder {
            room: match outline.rotary {
                true => usize::MAX,
                false => outline.dimensions.positions.saturating_sub(self.virtual_tokens),
            },
            pad: self.plan.source.padding(),
            device: device.clone(),
            token_types: config["type_vocab_size"].as_u64().is_some_and(|types| types > 1),
            first: FirstToken::with(model, self.task.score_first_token),
        }
    }

    /// Evaluates `model` on the split of this name.
    ///
    /// # Errors
    /// Where an answer of the model is no finite number.
    pub(crate) fn evaluate(
        &self,
        model: &Model,
        (name, split): (&str, &Split),
        feeder: &Feeder,
    ) -> Result<Evaluation, HarnessError> {
        let (batch, classes) = (self.training.evaluate_batch_size, self.data.classes.len());
        evaluate(model, split, name, batch, classes, feeder)
    }

    /// Evaluates `model` on the validation set.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    pub(crate) fn validate(&self, model: &Model, feeder: &Feeder) -> Result<Evaluation, HarnessError> {
        self.evaluate(model, (VALIDATION, &self.data.validation), feeder)
    }

    pub(crate) fn scores(&self, evaluation: &Evaluation) -> Vec<Score> {
        let one = |metric: &Metric| {
            let scored = score(*metric, &evaluation.predictions);
            Score {
                metric: metric.name().to_owned(),
                value: scored.value,
                standard_error: scored.standard_error,
                items: evaluation.items.len() as u64,
            }
        };
        self.data.metrics.iter().map(one).collect()
    }
}

/// Bytes of a base model up to which a method's merging is checked although nobody asked for the merged model's loss:
/// beyond, a second set of weights may be too much for the device.
const MERGED_UNASKED: u64 = 1 << 30;

/// What the splits are called that are scored.
pub(crate) const VALIDATION: &str = "validation";
pub(crate) const TEST: &str = "test";

struct Outcome {
    /// Tensors that were trained, or drawn for want of others.
    kept: BTreeMap<String, HostTensor>,
    history: History,
    validation: Evaluation,
    /// Where there is a test set.
    test: Option<Evaluation>,
    measured: Measured,
}

impl Run<'_> {
    fn measure(&self, event: &mut dyn FnMut(Event)) -> Result<Outcome, HarnessError> {
        let timeline = RefCell::new(Timeline::new());
        let phase = |name: &str| switch(&mut timeline.borrow_mut(), name);
        phase("load")?;
        let device = self.scorer.plan.device.tensors.clone().autodiff();
        let (mut attached, step0_difference) = self.attach(&device)?;
        check_count(self.method(), &attached)?;
        let base_bytes = attached.base_bytes() as u64;
        let feeder = self.scorer.feeder(&mut attached.model, &device);
        let held = Held::by(&mut attached.model);
        phase("evaluate")?;
        let before = match self.scorer.training.evaluate_start {
            true => Some(self.scorer.validate(&attached.model.valid(), &feeder)?.loss),
            false => None,
        };
        let gpu = Gpu::watch(&self.scorer.plan.device)?;
        let mut look = |model: &Model| -> Result<f64, HarnessError> {
            phase("evaluate")?;
            gpu.iter().try_for_each(Gpu::pause)?;
            let evaluation = self.after_training(self.scorer.validate(&model.valid(), &feeder))?;
            gpu.iter().try_for_each(Gpu::resume)?;
            phase("train")?;
            Ok(evaluation.loss)
        };
        phase("train")?;
        let trainer = Trainer {
            method: self.method(),
            outline: &attached.outline,
            spec: self.scorer.training,
            seed: self.cell.seed,
            feeder: &feeder,
        };
        let (model, history) = trainer.train(attached.model, &self.scorer.data.train, &mut look, event)?;
        phase("check")?;
        let on_device = on_device(&device, gpu.as_ref());
        let mut attached = Attached { model, outline: attached.outline };
        let (frozen_unchanged, trained_updated) = held.check(&mut attached.model, &history.updated)?;
        self.check_finite(&attached.model)?;
        let parameters_end =
            attached.parameters(self.method()).map_err(|reason| HarnessError::Failed(reason.to_string()))?;
        let Attached { mut model, outline } = attached;
        let trained = params::infos(&model).into_iter().filter(|info| info.trained).map(|info| info.name);
        let own: Vec<String> = trained.chain(self.scorer.head.drawn.iter().cloned()).collect();
        model.bake();
        // baking may replace what was trained by something else that stands for it; what was drawn is in no checkpoint
        let kept = params::tensors(&model, |info| info.trained || own.contains(&info.name));
        self.check_card(&model.valid(), &outline, &kept, base_bytes)?;

        phase("evaluate")?;
        let valid = model.valid();
        let validation = self.after_training(self.scorer.validate(&valid, &feeder))?;
        // a trial chooses by validation: it never sees the test set
        let test = self.scorer.data.test.as_ref().filter(|_| !self.cell.trial);
        let test = test.map(|split| self.scorer.evaluate(&valid, (TEST, split), &feeder)).transpose();
        let test = self.after_training(test)?;
        let merged = self.merged(&valid, &feeder)?;
        phase("end")?;

        let summary = timeline.borrow().summary();
        let measured = Measured {
            training: self.training_record(&history, before, validation.loss),
            validation: self.scorer.scores(&validation),
            test: test.as_ref().map(|test| self.scorer.scores(test)).unwrap_or_default(),
            merged,
            parameters_end: Some(parameters_end),
            time: self.time(&history, &summary),
            kernels: history.kernels.clone(),
            memory: Memory { base_bytes: Some(base_bytes), ..memory(&summary, on_device) },
            checks: Checks { frozen_unchanged, trained_updated, step0_difference },
            weights_digest: weights_digest(&model),
            losses_digest: losses_digest(&history),
        };
        Ok(Outcome { kept, history, validation, test, measured })
    }

    /// Says of an evaluation that failed after training began what to do.
    fn after_training<T>(&self, evaluation: Result<T, HarnessError>) -> Result<T, HarnessError> {
        evaluation
            .map_err(|error| HarnessError::diverged(&error.to_string(), self.scorer.training.learning_rate))
    }

    /// No weight that was trained may be NaN or infinite.
    fn check_finite(&self, model: &Model) -> Result<(), HarnessError> {
        match params::not_finite(model, |info| info.trained) {
            Some(name) => Err(HarnessError::diverged(
                &format!("`{name}` holds a value that is no finite number after the last step"),
                self.scorer.training.learning_rate,
            )),
            None => Ok(()),
        }
    }

    /// Validation with the method merged, in every way that there is, if the experiment asks for it.
    fn merged(&self, model: &Model, feeder: &Feeder) -> Result<Vec<MergedLoss>, HarnessError> {
        let into = match self.method().card().merge {
            MergeKind::Exact => "weights",
            MergeKind::ZeroPoints => "zero points",
            MergeKind::Already | MergeKind::No => return Ok(Vec::new()),
        };
        if !self.scorer.training.evaluate_merged || self.cell.trial {
            return Ok(Vec::new());
        }
        let failed = |place: String| {
            let label = &self.cell.label;
            HarnessError::Failed(format!("`{label}` cannot be merged at {place}, though its card says so"))
        };
        let evaluated = |into: &str, model: &Model| -> Result<MergedLoss, HarnessError> {
            let evaluation = self
                .scorer
                .validate(model, feeder)
                .map_err(|error| HarnessError::Failed(format!("merged into {into}: {error}")))?;
            let (loss, validation) = (evaluation.loss, self.scorer.scores(&evaluation));
            Ok(MergedLoss { into: into.to_owned(), validation_loss: loss, validation })
        };
        let mut merged = model.clone();
        merged.merge().map_err(failed)?;
        let mut all = vec![evaluated(into, &merged)?];
        let mut packed = model.clone();
        if packed.merge_packed().map_err(failed)? > 0 {
            all.push(evaluated("re-quantised weights", &packed)?);
        }
        Ok(all)
    }

    fn method(&self) -> &dyn DynMethod {
        &*self.scorer.plan.experiment.methods[self.cell.row].method
    }

    /// The model with the method on it, and how much that changed its logits.
    fn attach(&self, device: &Device) -> Result<(Attached, f64), HarnessError> {
        let method = self.method();
        let plan = self.scorer.plan;
        check_memory(&plan.device, &self.scorer.head.outline, plan.source.dtype, method)
            .map_err(HarnessError::Failed)?;
        let mut model =
            self.scorer.plan.source.build_for(method, self.scorer.head, self.cell.seed, device)?;
        let before = self.first_logits(&mut model, device);
        let mut attached = Attached::new(model, method, self.cell.seed, device)
            .map_err(|reason| HarnessError::input(&self.scorer.plan.experiment.path, reason.to_string()))?;
        let after = self.first_logits(&mut attached.model, device);
        let card = method.card();
        let to_base = Difference::between(&before, &after);
        let to_quantised = (card.identity == Identity::Quantised).then(|| {
            let mut quantised = without_updates(&attached.model);
            Difference::between(&self.first_logits(&mut quantised, device), &after)
        });
        check_step_0(card, to_base, to_quantised, self.rounding())?;
        Ok((attached, to_base.largest))
    }

    /// Logits of one example, for the comparison at step 0.
    fn first_logits(&self, model: &mut Model, device: &Device) -> Vec<f32> {
        let batch = self.scorer.feeder(model, device).feed_one(&self.scorer.data.train.examples[0]);
        let values = match model.valid().forward(&batch, Mode::Evaluate) {
            Output::Sequence(logits) => logits.into_data(),
            Output::Tokens(logits) => logits.into_data(),
        };
        values.iter::<f32>().collect()
    }

    /// How far computations of the same logits may lie apart.
    fn rounding(&self) -> Rounding {
        let plan = self.scorer.plan;
        Rounding::of(plan.source.dtype, plan.device.kind() == "cpu")
    }

    /// What the method's card says of merging, and its count of what is stored, against the model after training.
    fn check_card(
        &self,
        model: &Model,
        outline: &Outline,
        kept: &BTreeMap<String, HostTensor>,
        base_bytes: u64,
    ) -> Result<(), HarnessError> {
        let method = self.method();
        let drawn = &self.scorer.head.drawn;
        let own = kept.iter().filter(|(name, _)| !drawn.contains(name));
        check_stored(method, outline, own.map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice())))?;
        let card = method.card();
        let merges = matches!(card.merge, MergeKind::Exact | MergeKind::ZeroPoints);
        // merged weights stand beside the old ones for a moment
        if !merges || !(self.scorer.training.evaluate_merged || base_bytes <= MERGED_UNASKED) {
            return Ok(());
        }
        let device = &self.scorer.plan.device.tensors;
        let (mut model, mut merged) = (model.clone(), model.clone());
        let place = merged.merge().err();
        let difference = Difference::between(
            &self.first_logits(&mut model, device),
            &self.first_logits(&mut merged, device),
        );
        check_merge(card, place.as_deref().map_or(Ok(difference), Err), self.rounding())?;
        Ok(())
    }

    fn training_record(&self, history: &History, before: Option<f64>, after: f64) -> Training {
        let losses: Vec<f64> = history.steps.iter().map(|step| step.loss).collect();
        let last = &losses[losses.len() - losses.len().div_ceil(10)..];
        Training {
            steps: history.steps.len() as u64,
            planned_steps: history.planned as u64,
            batch_size: (self.scorer.training.batch_size * self.scorer.training.gradient_accumulation) as u64,
            learning_rate: self.scorer.training.learning_rate,
            tokens: history.steps.iter().map(|step| step.tokens).sum(),
            samples: history.samples as u64,
            stopped_early: history.stopped_early,
            best_step: history.best_step as u64,
            final_loss: last.iter().sum::<f64>() / last.len().max(1) as f64,
            validation_loss_before: before,
            validation_loss_after: after,
            looks: history
                .validation
                .iter()
                .map(|(step, loss)| Look { step: *step as u64, loss: *loss })
                .collect(),
            searched: self.cell.searched.clone(),
        }
    }

    fn time(&self, history: &History, summary: &TimelineSummary) -> Time {
        let warmup = self.scorer.training.timing_warmup_steps.min(history.steps.len().saturating_sub(1));
        let timed = &history.steps[warmup..];
        let spread = |value: &dyn Fn(&Step) -> f64| {
            let values: Vec<f64> = timed.iter().map(value).collect();
            let at = |share| percentile(&values, share).unwrap_or_default();
            Spread { p10: at(10.0), median: at(50.0), p90: at(90.0) }
        };
        let rows = history.samples as f64 / history.steps.len().max(1) as f64;
        let seconds = |name: &str| {
            summary.phases.iter().filter(|phase| phase.name == name).map(|phase| phase.seconds).sum()
        };
        Time {
            load: seconds("load"),
            train: seconds("train"),
            evaluate: seconds("evaluate"),
            warmup_steps: warmup as u64,
            step: spread(&|step| step.seconds),
            tokens_per_second: spread(&|step| step.tokens as f64 / step.seconds),
            samples_per_second: spread(&|step| rows / step.seconds),
        }
    }
}

/// Ends the phase that is running, and begins another: training is never measured together with anything else.
fn switch(timeline: &mut Timeline, name: &str) -> Result<(), HarnessError> {
    let failed = |error: peftlab_meter::MeterError| HarnessError::Failed(error.to_string());
    if timeline.running().is_some() {
        timeline.stop().map_err(failed)?;
    }
    timeline.start(name).map_err(failed)
}

/// The device's part of the memory record; the host's allocator does not count as one.
fn on_device(device: &Device, gpu: Option<&Gpu<'_>>) -> Memory {
    let pools = device.memory_pool_usage();
    let allocator = Memory {
        device_used: pools.as_ref().map(|pools| pools.bytes_in_use),
        device_reserved: pools.as_ref().map(|pools| pools.bytes_reserved),
        ..Memory::default()
    };
    match gpu {
        Some(gpu) => gpu.read(allocator),
        None => allocator,
    }
}

/// The host's memory in the training phase, beside the device's.
fn memory(summary: &TimelineSummary, on_device: Memory) -> Memory {
    let Some(train) = summary.phases.iter().find(|phase| phase.name == "train") else {
        return on_device;
    };
    Memory {
        host_allocated_peak: train.allocated_peak_bytes,
        host_allocated_before: train.allocated_start_bytes,
        host_resident_peak: train.resident_peak_bytes,
        ..on_device
    }
}

fn weights_digest(model: &Model) -> String {
    let mut digest = Sha256::new();
    for (name, tensor) in params::tensors(model, |info| info.trained) {
        digest.update(name.as_bytes());
        for value in tensor.values {
            digest.update(value.to_le_bytes());
        }
    }
    hex::encode(digest.finalize())
}

fn losses_digest(history: &History) -> String {
    let mut digest = Sha256::new();
    for step in &history.steps {
        digest.update(step.loss.to_le_bytes());
    }
    hex::encode(digest.finalize())
}
