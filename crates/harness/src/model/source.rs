//! The model of an experiment: its configuration, where its weights are, and what of them a task uses.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use peftlab_backbones::{BackboneCard, BackboneError, Head, build, card};
use peftlab_checkpoint::{ModelFiles, SpecialTokens, Tokenizer, load_config, load_tokenizer, resolve};
use peftlab_layers::{BuildLog, Builder, HeadRows, Model, Weights};
use peftlab_peft::{DynMethod, Outline};
use peftlab_tasks::{TaskData, TaskKind, TaskSpec};
use serde_json::Value;

use crate::error::HarnessError;
use crate::experiment::{DtypeSpec, Experiment, HeadSpec, WeightsSpec};
use crate::model::attach::is_trained;
use crate::model::labels::{self, Followed, Order, Whose};
use crate::model::special::padding;
use crate::model::untied::{EMBEDDINGS, LM_HEAD, Untied};

/// A model's configuration, and where its weights are.
pub struct ModelSource {
    /// `config.json`, with the experiment's changes.
    pub config: Value,
    /// The checkpoint; none for random weights.
    pub files: Option<ModelFiles>,
    /// What to call it.
    pub name: String,
    /// Where it came from.
    pub path: PathBuf,
    /// Identifies it.
    pub digest: String,
    /// Element type of frozen weights.
    pub dtype: DType,
    /// The tokenizer, if there is one.
    pub tokenizer: Option<Tokenizer>,
    /// What the files beside the tokenizer say of its special tokens.
    pub special: SpecialTokens,
    /// What a reader of the numbers should know of the model's files; a sentence each.
    pub warnings: Vec<String>,
    head: HeadSpec,
    card: &'static BackboneCard,
}

impl ModelSource {
    pub(crate) fn read(experiment: &Experiment) -> Result<Self, HarnessError> {
        let spec = &experiment.model;
        let path = match spec.source.starts_with("hub:") {
            true => PathBuf::from(&spec.source),
            false => experiment.base().join(&spec.source),
        };
        let (mut config, files, mut digest) = match spec.weights {
            WeightsSpec::Pretrained => {
                let files = resolve(&spec.source, experiment.base())?;
                (files.config.clone(), Some(files), String::new())
            }
            WeightsSpec::Random => (load_config(&path)?, None, "random".to_owned()),
        };
        for (key, value) in &spec.config {
            config[key] = value.clone();
        }
        if let Some(files) = &files {
            digest.clone_from(&files.digest);
        }
        let refused = |reason| HarnessError::backbone(&path, reason);
        let card = card(&config).map_err(refused)?;
        config = card.with_defaults(&config);
        if let (HeadSpec::New, Some(reason)) = (spec.head, without_head(card, spec.weights)) {
            let message = format!("head = \"new\" in [model]: {reason}; leave it out");
            return Err(HarnessError::input(&experiment.path, message));
        }
        let mut warnings = files.as_ref().map(|files| files.warnings.clone()).unwrap_or_default();
        warnings.extend(card.check(&config, &spec.config).map_err(refused)?);
        if let Some(files) = &files {
            warnings.extend(untied(&mut config, files)?);
        }
        let (tokenizer, special) = match (&spec.tokenizer, &files) {
            (Some(own), _) => {
                let (tokenizer, beside) = load_tokenizer(&experiment.base().join(own))?;
                (Some(tokenizer), beside)
            }
            (None, Some(files)) => (files.tokenizer.clone(), files.special.clone()),
            (None, None) => (None, SpecialTokens::default()),
        };
        if let Some(tokenizer) = &tokenizer {
            warnings.extend(special.contradictions(tokenizer));
        }
        let last = spec.source.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or(&spec.source);
        let name = spec.name.clone().unwrap_or_else(|| last.to_owned());
        let dtype = match spec.dtype {
            DtypeSpec::F32 => DType::F32,
            DtypeSpec::Bf16 => DType::BF16,
        };
        let head = spec.head;
        Ok(Self { config, files, name, path, digest, dtype, tokenizer, special, warnings, head, card })
    }

    /// The GGUF file that the weights are from, if they are.
    pub(crate) fn gguf(&self) -> Option<String> {
        let from = self.files.as_ref()?.weights.describe();
        Path::new(&from).extension().is_some_and(|extension| extension == "gguf").then_some(from)
    }

    /// The token that fills rows up.
    pub fn padding(&self) -> u32 {
        padding(&self.config, &self.special, self.tokenizer.as_ref())
    }

    /// The `model_type`.
    pub fn architecture(&self) -> &'static str {
        self.card.name
    }

    /// Builds the model. What the checkpoint lacks (a new head) is drawn from `seed`.
    ///
    /// # Errors
    /// Where the checkpoint does not fit.
    pub fn build(&self, head: &TaskHead, seed: u64, device: &Device) -> Result<Model, HarnessError> {
        if head.untied {
            return self.build_untied(head, seed, device, false);
        }
        let weights = self.weights(head.rows.as_deref(), seed);
        self.with(head.head, &Builder::new(weights, device, self.dtype))
    }

    /// `head` on the network with an output layer of its own, which has the embedding's values.
    ///
    /// # Errors
    /// Where the network is drawn, so that the values are not known.
    pub(crate) fn untied(&self, head: &TaskHead) -> Result<TaskHead, HarnessError> {
        if self.files.is_none() {
            return Err(HarnessError::backbone(
                &self.path,
                BackboneError::Config(
                    "tie_word_embeddings: the adapter makes two of the embedding and the output layer, and with \
                     weights = \"random\" the second is not known"
                        .to_owned(),
                ),
            ));
        }
        let mut model = self.build_untied(head, 0, &Device::flex(), true)?;
        let (outline, warnings) = (Outline::of(&mut model), head.warnings.clone());
        let (rows, drawn) = (head.rows.clone(), head.drawn.clone());
        Ok(TaskHead { head: head.head, rows, outline, drawn, warnings, untied: true })
    }

    fn build_untied(
        &self,
        head: &TaskHead,
        seed: u64,
        device: &Device,
        outline: bool,
    ) -> Result<Model, HarnessError> {
        let mut config = self.config.clone();
        config["tie_word_embeddings"] = false.into();
        let Weights::Checkpoint { source, base_prefix, fresh, head: rows, .. } =
            self.weights(head.rows.as_deref(), seed)
        else {
            return self.with(head.head, &Builder::new(Weights::Random { seed }, device, self.dtype));
        };
        let source = Untied(source);
        let weights = Weights::Checkpoint { source: &source, base_prefix, fresh, head: rows, seed };
        let builder = Builder::new(weights, device, self.dtype);
        let backbone = build(&config, head.head, &if outline { builder.outline() } else { builder });
        Ok(Model::new(backbone.map_err(|reason| HarnessError::backbone(&self.path, reason))?))
    }

    /// As [`build`](Self::build), with what `method` trains of it in `f32`, as it is in the checkpoint.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn build_for(
        &self,
        method: &dyn DynMethod,
        head: &TaskHead,
        seed: u64,
        device: &Device,
    ) -> Result<Model, HarnessError> {
        if self.dtype == DType::F32 {
            return self.build(head, seed, device);
        }
        let outline = &head.outline;
        let trained = outline.parameters.iter().filter(|info| is_trained(method, outline, info));
        let masters = trained.map(|info| info.name.clone()).collect();
        let builder = Builder::new(self.weights(head.rows.as_deref(), seed), device, self.dtype);
        self.with(head.head, &builder.with_masters(&masters))
    }

    /// The head of `task` on this model, with nothing allocated.
    ///
    /// # Errors
    /// Where the configuration is not one, there is no such head, the checkpoint does not fit, or the classes of its
    /// head are others than the task's.
    pub fn head(&self, task: &TaskSpec, data: &TaskData) -> Result<TaskHead, HarnessError> {
        let head = head_of(data);
        let builder = Builder::new(self.weights(None, 0), &Device::flex(), self.dtype).outline();
        let outline = Outline::of(&mut self.with(head, &builder)?);
        let log = builder.log();
        let output = format!("{}.weight", self.card.head_output);
        let has_head = self.files.is_some() && head != Head::LanguageModel && !log.drawn.contains(&output);
        let (rows, about_labels) = match has_head {
            true => labels::follow(&self.config, task, data, Whose::Checkpoint)
                .map_err(|message| HarnessError::input(&self.path.join("config.json"), message))?,
            false => (None, None),
        };
        let mut warnings = self.about_files(head, &log)?;
        warnings.extend(about_labels);
        Ok(TaskHead { head, rows, outline, drawn: log.drawn, warnings, untied: false })
    }

    /// The order of the outputs in the head of an adapter that is for this model, where it is another than the task's,
    /// and what a reader should know. PEFT's classes have the names that the model's `config.json` gives them, whether
    /// or not the model has a head of its own.
    ///
    /// # Errors
    /// Where the names there are others than the task's.
    pub(crate) fn order_of_adapters(
        &self,
        task: &TaskSpec,
        data: &TaskData,
    ) -> Result<(Option<Order>, Option<String>), HarnessError> {
        if head_of(data) == Head::LanguageModel {
            return Ok((None, None));
        }
        let followed: Followed = match labels::follow(&self.config, task, data, Whose::Adapter) {
            Ok(followed) => followed,
            // the names are those of the head that is left out
            Err(_) if self.head == HeadSpec::New => {
                let told = format!(
                    "config.json speaks of another head (id2label, problem_type), and head = \"new\" leaves that out: \
                     the adapter's has the classes in the task's order, {}",
                    data.classes.join(", ")
                );
                (None, (data.kind == TaskKind::Classification).then_some(told))
            }
            Err(message) => return Err(HarnessError::input(&self.path.join("config.json"), message)),
        };
        let (rows, told) = followed;
        Ok((rows.map(|rows| Order { module: self.card.head_output, rows }), told))
    }

    /// What the files have and nobody reads, and what they lack.
    fn about_files(&self, head: Head, log: &BuildLog) -> Result<Vec<String>, HarnessError> {
        let Some(files) = &self.files else { return Ok(Vec::new()) };
        let mut told = Vec::new();
        if !log.drawn.is_empty() {
            let names = log.drawn.join(", ");
            let pooler = match log.drawn.iter().any(|name| name.contains(".pooler.")) {
                true => "; a method that trains no pooler leaves it as it was drawn",
                false => "",
            };
            told.push(format!("not in the checkpoint, so drawn anew from the seed: {names}{pooler}"));
        }
        let unread: Vec<String> = files
            .weights
            .names()
            .into_iter()
            .filter(|name| !log.read.contains(name) && !is_buffer(name))
            .collect();
        // where it is the same as the embedding it says nothing: one that differs is used
        let tied = |name: &&String| head == Head::LanguageModel && *name == LM_HEAD;
        let others = unread.iter().filter(|name| !tied(name)).map(String::as_str);
        told.extend(unread_tensors(&others.collect::<Vec<_>>()));
        if head != Head::LanguageModel && log.read.iter().any(|name| name.starts_with(NEW_HEAD)) {
            told.extend(other_architecture(&self.config, self.card));
        }
        Ok(told)
    }

    fn weights<'a>(&'a self, rows: Option<&'a [usize]>, seed: u64) -> Weights<'a> {
        let Some(files) = &self.files else { return Weights::Random { seed } };
        let head = match (self.head, rows) {
            (HeadSpec::New, _) => HeadRows::New { prefix: NEW_HEAD },
            (HeadSpec::Checkpoint, Some(rows)) => HeadRows::Ordered { module: self.card.head_output, rows },
            (HeadSpec::Checkpoint, None) => HeadRows::Kept,
        };
        Weights::Checkpoint {
            source: &*files.weights,
            base_prefix: self.card.base_prefix,
            fresh: self.card.fresh,
            head,
            seed,
        }
    }

    fn with(&self, head: Head, builder: &Builder<'_>) -> Result<Model, HarnessError> {
        let backbone = build(&self.config, head, builder);
        Ok(Model::new(backbone.map_err(|reason| HarnessError::backbone(&self.path, reason))?))
    }
}

/// What `head = "new"` draws, whatever the checkpoint has.
const NEW_HEAD: &str = "classifier.";

/// Buffers that older versions of `transformers` saved: they are computed, and say nothing.
fn is_buffer(name: &str) -> bool {
    let ends = ["position_ids", "token_type_ids", "rotary_emb.inv_freq", "attn.bias", "attn.masked_bias"];
    ends.iter().any(|end| name.ends_with(end))
}

/// Why there is no head of a checkpoint to draw anew.
fn without_head(card: &BackboneCard, weights: WeightsSpec) -> Option<String> {
    match weights {
        _ if card.head_output.is_empty() => {
            Some(format!("a `{}` network has no head but the language model's own", card.name))
        }
        WeightsSpec::Random => Some("with weights = \"random\" everything is drawn".to_owned()),
        WeightsSpec::Pretrained => None,
    }
}

/// As `transformers` does since version 5, an output layer that differs from the embedding is not tied to it, whatever
/// `config.json` says. Gives a sentence where that is so.
fn untied(config: &mut Value, files: &ModelFiles) -> Result<Option<String>, HarnessError> {
    let tied = config["tie_word_embeddings"].as_bool() == Some(true);
    let there = |name: &&str| files.weights.info(name).is_some();
    let embedding = EMBEDDINGS.into_iter().find(there);
    let (true, true, Some(embedding)) = (tied, there(&LM_HEAD), embedding) else { return Ok(None) };
    if files.weights.equal(LM_HEAD, embedding)? {
        return Ok(None);
    }
    config["tie_word_embeddings"] = false.into();
    Ok(Some(format!(
        "config.json says tie_word_embeddings, but the checkpoint's `{LM_HEAD}` differs from `{embedding}`: it is used \
         and the two are not tied, as in transformers; say tie_word_embeddings = false there"
    )))
}

/// A sentence about a head that is of another kind than a sequence's, though it has the same names and shapes.
fn other_architecture(config: &Value, card: &BackboneCard) -> Option<String> {
    let named = config["architectures"].as_array()?.first()?.as_str()?;
    let ours = named.ends_with("ForSequenceClassification");
    (!ours).then(|| {
        format!(
            "the checkpoint's head `{}` is that of a {named} (config.json), not of a sequence's classifier; set \
             head = \"new\" in [model] to have one drawn",
            card.head_output
        )
    })
}

/// A sentence about tensors that nobody reads, those of one module together; none where there are none.
fn unread_tensors(names: &[&str]) -> Option<String> {
    let mut groups: Vec<(String, usize)> = Vec::new();
    for name in names {
        // such as `cls.predictions`, or `model.layers.3`
        let numbered = name.split('.').position(|part| part.parse::<usize>().is_ok());
        let group = name.split('.').take(numbered.map_or(2, |at| at + 1)).collect::<Vec<_>>().join(".");
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, count)) => *count += 1,
            None => groups.push((group, 1)),
        }
    }
    let listed: Vec<String> = groups
        .iter()
        .map(|(group, count)| match (count, names.contains(&group.as_str())) {
            (1, true) => group.clone(),
            (1, false) => names.iter().find(|name| name.starts_with(group)).unwrap_or(&"").to_string(),
            _ => format!("{group}.* ({count})"),
        })
        .collect();
    (!listed.is_empty())
        .then(|| format!("tensors of the checkpoint that this network does not use: {}", listed.join(", ")))
}

/// A task's head on the model, with the network's shape.
pub struct TaskHead {
    /// What the network gives.
    pub head: Head,
    /// For each class the output of the checkpoint's head, where its order is another than the task's.
    pub rows: Option<Vec<usize>>,
    /// The network with it.
    pub outline: Outline,
    /// Parameters that the checkpoint lacks and that are drawn from the seed; none where all are drawn.
    pub drawn: Vec<String>,
    /// What a reader of the task's numbers should know of the model; a sentence each.
    pub warnings: Vec<String>,
    /// Whether an adapter makes two of an embedding and an output layer that are one in the checkpoint.
    pub(crate) untied: bool,
}

fn head_of(data: &TaskData) -> Head {
    match data.kind {
        TaskKind::Classification => Head::Sequence { outputs: data.classes.len() },
        TaskKind::Regression => Head::Sequence { outputs: 1 },
        TaskKind::CausalLm | TaskKind::Instruction => Head::LanguageModel,
    }
}
