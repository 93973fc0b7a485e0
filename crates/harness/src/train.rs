//! The training loop and the evaluation, for one cell.

pub(crate) mod kernels;
pub(crate) mod loss;
pub(crate) mod step;

use std::collections::HashSet;

use burn::module::ParamId;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Int, Tensor, TensorData};
use peftlab_layers::{Mode, Model, ModelInput, Output};
use peftlab_ops::split_mix;
use peftlab_peft::{Course, DynMethod, Outline};
use peftlab_record::{KernelProfile, Prediction, Step};
use peftlab_tasks::{
    Batch, BatchTargets, Example, Predictions, Split, Target, collate, epoch_order, eval_order,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::device;
use crate::error::HarnessError;
use crate::experiment::{Keep, TrainingSpec};
use crate::train::kernels::KernelWatch;
use crate::train::loss::{FirstToken, Targets, loss};
use crate::train::step::Stepper;

/// A batch on the device.
struct DeviceBatch {
    input: ModelInput,
    targets: Targets,
    /// Tokens that are not padding.
    tokens: usize,
}

/// What a task's network needs of its data set.
#[derive(Clone, Debug)]
pub struct Feeder {
    /// Longest row that the network has positions for.
    pub room: usize,
    /// Padding token.
    pub pad: u32,
    /// Where batches go; with autodiff for training and without for evaluation.
    pub device: Device,
    /// Whether the network reads segment ids.
    pub token_types: bool,
    /// Whether a language model is scored on the first token of a row.
    pub first: FirstToken,
}

impl Feeder {
    /// One example as a batch.
    pub(crate) fn feed_one(&self, example: &Example) -> ModelInput {
        self.feed(&[example]).input
    }

    fn feed(&self, examples: &[&Example]) -> DeviceBatch {
        // lengths in steps of 8: fewer shapes for a GPU to tune for
        self.upload(collate(examples, self.pad, 8, self.room))
    }

    fn upload(&self, batch: Batch) -> DeviceBatch {
        let shape = [batch.rows, batch.columns];
        let integers =
            |values: Vec<i64>| Tensor::<2, Int>::from_data(TensorData::new(values, shape), &self.device);
        let tokens = batch.attention_mask.iter().filter(|real| **real != 0).count();
        let padded = tokens < batch.rows * batch.columns;
        let padding = padded.then(|| {
            integers(batch.attention_mask.iter().map(|real| i64::from(*real)).collect()).equal_elem(0)
        });
        let types = self.token_types && batch.token_type_ids.iter().any(|id| *id != 0);
        let token_type_ids =
            types.then(|| integers(batch.token_type_ids.iter().map(|id| i64::from(*id)).collect()));
        let targets = match batch.targets {
            BatchTargets::Classes(classes) => {
                let rows = classes.len();
                Targets::Classes(Tensor::from_data(TensorData::new(classes, [rows]), &self.device))
            }
            BatchTargets::Values(values) => {
                let rows = values.len();
                Targets::Values(Tensor::from_data(TensorData::new(values, [rows]), &self.device))
            }
            BatchTargets::Tokens(labels) => Targets::tokens(labels, shape, self.first, &self.device),
        };
        let input_ids = integers(batch.input_ids.iter().map(|id| i64::from(*id)).collect());
        DeviceBatch { input: ModelInput { input_ids, padding, token_type_ids }, targets, tokens }
    }
}

/// What happens while a cell runs.
#[derive(Clone, Debug)]
pub enum Event {
    /// An optimizer step is done.
    Step {
        /// The step.
        step: Step,
        /// Steps in all.
        steps: usize,
    },
    /// The validation set was looked at.
    Validation {
        /// After this many steps.
        step: usize,
        /// Mean loss.
        loss: f64,
    },
}

/// What training gave besides the model.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Every step.
    pub steps: Vec<Step>,
    /// Validation losses, with the number of steps before each.
    pub validation: Vec<(usize, f64)>,
    /// Optimizer steps planned.
    pub planned: usize,
    /// Whether training stopped before the planned end.
    pub stopped_early: bool,
    /// The step whose weights were kept.
    pub best_step: usize,
    /// Rows seen.
    pub samples: usize,
    /// The parameters that received a gradient and an update, in one step or more.
    pub updated: HashSet<ParamId>,
    /// Where the device's time went, if that was asked for.
    pub kernels: Option<KernelProfile>,
}

/// A look at the validation set from inside the training loop: the mean loss of a model.
pub type Validate<'a> = &'a mut dyn FnMut(&Model) -> Result<f64, HarnessError>;

/// What training needs besides the model and the data.
pub struct Trainer<'a> {
    /// The method that the model has attached.
    pub method: &'a dyn DynMethod,
    /// The model's shape before the method.
    pub outline: &'a Outline,
    /// Settings.
    pub spec: &'a TrainingSpec,
    /// The run's seed.
    pub seed: u64,
    /// Where batches go.
    pub feeder: &'a Feeder,
}

impl Trainer<'_> {
    /// Trains `model` on `split`.
    ///
    /// Every step's random numbers depend on the seed and the step alone, and the order of the examples on the seed
    /// and the epoch.
    ///
    /// # Errors
    /// Where a loss, in training or on validation, or a norm of the gradients is no finite number any more.
    pub fn train(
        &self,
        mut model: Model,
        split: &Split,
        validate: Validate<'_>,
        event: &mut dyn FnMut(Event),
    ) -> Result<(Model, History), HarnessError> {
        let spec = self.spec;
        let lengths: Vec<usize> = split.examples.iter().map(|example| example.input_ids.len()).collect();
        let steps = spec.planned_steps(lengths.len());
        let warmup = spec.warmup_steps.unwrap_or((spec.warmup_ratio * steps as f64).ceil() as usize);
        let course = Course { steps, seed: self.seed };
        let mut stepper = Stepper::new(self.method, &model, self.outline, spec, course);
        let mut history = History { planned: steps, best_step: steps, ..History::default() };
        // the loss, and the weights where they are kept
        let mut best: Option<(f64, Option<Model>)> = None;
        let mut looks_without_gain = 0;
        let mut watch = spec.profile_kernels.then(KernelWatch::default);

        'training: for epoch in 0.. {
            let mut rng = ChaCha8Rng::seed_from_u64(split_mix(self.seed, epoch));
            let order = epoch_order(&lengths, spec.batch_size, spec.length_buckets, &mut rng);
            for group in order.chunks(spec.gradient_accumulation) {
                let step = history.steps.len();
                if step == steps {
                    break 'training;
                }
                let learning_rate = spec.learning_rate * spec.schedule.factor(step, warmup, steps);
                let examples =
                    group.iter().map(|rows| rows.iter().map(|row| &split.examples[*row]).collect()).collect();
                let record;
                let run = || self.step(model, &mut stepper, step, learning_rate, examples);
                (model, record) = match &mut watch {
                    Some(watch) if step >= spec.timing_warmup_steps => watch.step(run)?,
                    _ => run()?,
                };
                history.samples += group.iter().map(Vec::len).sum::<usize>();
                history.steps.push(record.clone());
                event(Event::Step { step: record, steps });

                let done = history.steps.len();
                if spec.evaluate_every.is_some_and(|every| done.is_multiple_of(every) || done == steps) {
                    let loss = validate(&model)?;
                    history.validation.push((done, loss));
                    event(Event::Validation { step: done, loss });
                    if best.as_ref().is_none_or(|(best, _)| loss < *best) {
                        best = Some((loss, (spec.keep == Keep::Best).then(|| model.clone())));
                        history.best_step = done;
                        looks_without_gain = 0;
                    } else {
                        looks_without_gain += 1;
                    }
                    if spec.patience.is_some_and(|patience| looks_without_gain >= patience) {
                        history.stopped_early = done < steps;
                        break 'training;
                    }
                }
            }
        }
        let timed = history.steps.iter().skip(spec.timing_warmup_steps).map(|step| step.seconds).sum();
        history.updated.clone_from(stepper.updated());
        history.kernels = watch.map(|watch| watch.profile(timed));
        if spec.keep == Keep::Last {
            history.best_step = history.steps.len();
        }
        Ok((best.and_then(|(_, best)| best).unwrap_or(model), history))
    }

    /// Optimizer step `step`, from 0, over `batches` of examples.
    fn step(
        &self,
        mut model: Model,
        stepper: &mut Stepper,
        step: usize,
        learning_rate: f64,
        batches: Vec<Vec<&Example>>,
    ) -> Result<(Model, Step), HarnessError> {
        let device = &self.feeder.device;
        device.seed(split_mix(self.seed, 1 << 32 | step as u64));
        let start = std::time::Instant::now();
        stepper.begin(&mut model);
        let batches: Vec<_> = batches.iter().map(|examples| self.feeder.feed(examples)).collect();
        let counted: usize = batches.iter().map(|batch| batch.targets.counted()).sum();
        let passes = batches.len() as f64;
        let (mut tokens, mut losses) = (0, Vec::new());
        let mut accumulator = GradientsAccumulator::new();
        for batch in batches {
            tokens += batch.tokens;
            let mean =
                loss(model.forward(&batch.input, Mode::Train), &batch.targets).sum / counted.max(1) as f64;
            losses.push(mean.clone().detach());
            let total = stepper.with_extra_loss(mean, passes, &mut model);
            accumulator.accumulate(&model, GradientsParams::from_grads(total.backward(), &model));
        }
        // not before the backward passes are on their way: a device would have nothing to do while the host waits
        let value: f64 = losses.into_iter().map(|loss| f64::from(loss.into_scalar::<f32>())).sum();
        if !value.is_finite() {
            let what = format!("the loss became {value} at step {step}");
            return Err(HarnessError::diverged(&what, self.spec.learning_rate));
        }
        let model = stepper
            .step(learning_rate, model, accumulator.grads())
            .map_err(|error| HarnessError::diverged(&error.to_string(), self.spec.learning_rate))?;
        device
            .sync()
            .map_err(|error| HarnessError::Failed(format!("the device failed at step {step}: {error:?}")))?;
        let seconds = start.elapsed().as_secs_f64();
        let (step, tokens, used_bytes) = (step as u64 + 1, tokens as u64, device::used_bytes(device));
        Ok((model, Step { step, loss: value, learning_rate, seconds, tokens, used_bytes }))
    }
}

/// What an evaluation gave.
pub(crate) struct Evaluation {
    /// What the metrics are computed from, in the order of the split.
    pub predictions: Predictions,
    /// One for each item, in the order of the split.
    pub items: Vec<Prediction>,
    /// Mean loss over rows or tokens.
    pub loss: f64,
}

/// Evaluates `model`, which must be without autodiff (see Burn's `Module::valid`), on `split`, which is called `name`.
///
/// # Errors
/// Where an answer or its loss is no finite number: whatever is made of such an answer, be it the largest of logits that
/// are NaN, is not the model's prediction.
pub(crate) fn evaluate(
    model: &Model,
    split: &Split,
    name: &str,
    batch_size: usize,
    classes: usize,
    feeder: &Feeder,
) -> Result<Evaluation, HarnessError> {
    let lengths: Vec<usize> = split.examples.iter().map(|example| example.input_ids.len()).collect();
    let mut rows: Vec<Option<Row>> = vec![None; lengths.len()];
    for order in eval_order(&lengths, batch_size) {
        let examples: Vec<&Example> = order.iter().map(|row| &split.examples[*row]).collect();
        let batch = feeder.feed(&examples);
        let output = model.forward(&batch.input, Mode::Evaluate);
        for (row, result) in order.iter().zip(results(output, &batch.targets, order.len())) {
            if !(result.loss.is_finite() && result.predicted.is_finite()) {
                return Err(HarnessError::Failed(format!(
                    "what the model answers to item {row} of the {name} set is no finite number (its loss is {}), and \
                     has no score",
                    result.loss
                )));
            }
            rows[*row] = Some(result);
        }
    }
    let rows: Vec<Row> = rows.into_iter().flatten().collect();
    Ok(collect(&rows, &split.examples, classes))
}

/// One item's result.
#[derive(Clone, Copy)]
struct Row {
    loss: f64,
    counted: usize,
    /// Class or value; NaN where the logits are no finite numbers.
    predicted: f64,
}

fn results(output: Output, targets: &Targets, count: usize) -> Vec<Row> {
    let host = |tensor: Tensor<1>| tensor.into_data().iter::<f32>().map(f64::from).collect::<Vec<_>>();
    let predicted: Vec<f64> = match &output {
        Output::Sequence(logits) => {
            let [_, outputs] = logits.dims();
            let logits = host(logits.clone().reshape([count * outputs]));
            let classes = matches!(targets, Targets::Classes(_));
            logits.chunks(outputs).map(|row| if classes { best(row) } else { row[0] }).collect()
        }
        Output::Tokens(_) => vec![0.0; count],
    };
    let each = host(loss(output, targets).each);
    let width = each.len() / count;
    let row = |i: usize| Row {
        loss: each[i * width..(i + 1) * width].iter().sum(),
        counted: targets.counted_in(i),
        predicted: predicted[i],
    };
    (0..count).map(row).collect()
}

/// The class with the largest of `logits`, the first of several; NaN where one of them is no finite number.
fn best(logits: &[f64]) -> f64 {
    if !logits.iter().all(|logit| logit.is_finite()) {
        return f64::NAN;
    }
    let first = |best: usize, class: usize| if logits[class] > logits[best] { class } else { best };
    (0..logits.len()).fold(0, first) as f64
}

fn collect(rows: &[Row], examples: &[Example], classes: usize) -> Evaluation {
    let counted: usize = rows.iter().map(|row| row.counted).sum();
    let loss = rows.iter().map(|row| row.loss).sum::<f64>() / counted.max(1) as f64;
    let mut items = Vec::with_capacity(rows.len());
    let (mut known_classes, mut known_values) = (Vec::new(), Vec::new());
    for (item, (row, example)) in rows.iter().zip(examples).enumerate() {
        let (expected, predicted) = match &example.target {
            Target::Class(class) => {
                known_classes.push(*class);
                (*class as f64, row.predicted)
            }
            Target::Value(value) => {
                known_values.push(f64::from(*value));
                (f64::from(*value), row.predicted)
            }
            Target::Tokens(_) => (row.counted as f64, row.loss),
        };
        items.push(Prediction { item: item as u64, expected, predicted, loss: row.loss });
    }
    let predictions = match examples.first().map(|example| &example.target) {
        Some(Target::Class(_)) => Predictions::Classes {
            predicted: rows.iter().map(|row| row.predicted as usize).collect(),
            expected: known_classes,
            classes,
        },
        Some(Target::Value(_)) => Predictions::Values {
            predicted: rows.iter().map(|row| row.predicted).collect(),
            expected: known_values,
        },
        _ => Predictions::Tokens {
            sum_loss: rows.iter().map(|row| row.loss).collect(),
            tokens: rows.iter().map(|row| row.counted).collect(),
        },
    };
    Evaluation { predictions, items, loss }
}
