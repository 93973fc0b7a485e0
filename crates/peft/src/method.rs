use std::fmt::Debug;

use burn::optim::ModuleOptimizer;
use dyn_clone::DynClone;
use peftlab_layers::params::ParamInfo;
use peftlab_layers::{Initializer, Model};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::adamw::AdamConstants;
use crate::outline::Outline;
use crate::peft_config::PeftConfig;
use crate::policy::{Course, Policy};

/// The families of Xu et al. 2023, arXiv 2312.12148.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Not efficient: the yardsticks.
    Baseline,
    /// New parameters beside the old ones.
    Additive,
    /// A part of the old parameters.
    Partial,
    /// The change of the old parameters in another form.
    Reparameterized,
    /// Several methods in one.
    Hybrid,
    /// Several methods' places, one method.
    Unified,
}

impl Family {
    /// Its name, as records and tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Additive => "additive",
            Self::Partial => "partial",
            Self::Reparameterized => "reparameterized",
            Self::Hybrid => "hybrid",
            Self::Unified => "unified",
        }
    }
}

/// Whether a model is unchanged by attaching the method, before the first step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// To the bit.
    Exact,
    /// Logits differ by at most this.
    Within(f64),
    /// To the bit that of the model with its base quantised, which itself is changed.
    Quantised,
    /// It is changed.
    No,
}

/// Whether a trained model can do without the method's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MergeKind {
    /// The weights themselves were trained.
    Already,
    /// Into the weights, exactly.
    Exact,
    /// Into the zero points of a quantised weight, exactly.
    ZeroPoints,
    /// Not at all.
    No,
}

/// What a method says about itself.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Card {
    /// Name in experiment files.
    pub name: &'static str,
    /// What it is called in the literature.
    pub title: &'static str,
    /// Family in the survey.
    pub family: Family,
    /// Paper.
    pub paper: &'static str,
    /// What it computes, in one sentence with its equation.
    pub summary: &'static str,
    /// Whether the model is unchanged at step 0.
    pub identity: Identity,
    /// Whether it can be merged into the weights.
    pub merge: MergeKind,
    /// Where it does not apply, and why; empty if it always does.
    pub not_for: &'static str,
    /// Its settings: name, default and meaning.
    pub settings: &'static [(&'static str, &'static str, &'static str)],
}

/// A method's parameters, without the head's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Trained.
    pub adapter: usize,
    /// Kept for deployment beside the base model.
    pub stored: usize,
    /// Frozen tensors that the method brings along.
    pub buffers: usize,
}

impl Count {
    /// All that is trained is stored, and nothing else.
    pub fn all(adapter: usize) -> Self {
        Self { adapter, stored: adapter, buffers: 0 }
    }
}

/// Why a method cannot be attached to a model, as its user reads it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotApplicable(String);

impl NotApplicable {
    /// A reason, and where there is one a remedy.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// A fine-tuning method: its settings, and what it does with them.
///
/// The implementing struct holds the settings as an experiment file gives them; give every field a default
/// and deny unknown ones. The head of a sequence task is trained with every method, and is not its business.
pub trait Method: Debug + Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What the method says about itself.
    const CARD: Card;

    /// Version of the method's numerics: raised when the same settings come to other numbers than before, so that
    /// records of before are run again.
    const NUMERICS: u32 = 1;

    /// A row's label, with the settings that tell rows apart.
    fn label(&self) -> String {
        Self::CARD.name.to_owned()
    }

    /// Parameters for a network of this shape.
    ///
    /// # Errors
    /// Where the settings make no sense, or the method does not apply to such a network.
    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable>;

    /// How many values of the trained tensor `name`, of this shape, are kept for deployment: all of them, unless the
    /// method has a smaller form. With them [`Count::stored`] is held against the tensors of a run.
    fn kept_values(&self, name: &str, shape: &[usize]) -> usize {
        let _ = name;
        shape.iter().product()
    }

    /// Whether training brings in further tensors, so that [`Count::stored`] is not of those that it begins with.
    fn grows(&self) -> bool {
        false
    }

    /// Positions that come before those of a sequence's tokens: virtual tokens, or a prefix.
    fn virtual_tokens(&self) -> usize {
        0
    }

    /// Puts the method's state at the sites of `model`. What it puts there is trained.
    ///
    /// # Errors
    /// Where [`count`](Self::count) has one.
    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let _ = (model, outline, init);
        Ok(())
    }

    /// Whether a parameter of the base model, named as on the Hub, is trained.
    fn trains(&self, parameter: &ParamInfo) -> bool {
        let _ = parameter;
        false
    }

    /// What it does around training steps, if it does anything.
    fn policy(&self, course: Course) -> Option<Box<dyn Policy>> {
        let _ = course;
        None
    }

    /// The factor on the learning rate of a trained parameter.
    fn learning_rate_factor(&self, parameter: &ParamInfo) -> f64 {
        let _ = parameter;
        1.0
    }

    /// Whether weight decay acts on a trained parameter.
    fn decays(&self, parameter: &ParamInfo) -> bool {
        let _ = parameter;
        true
    }

    /// Whether what the method puts in the optimizer's place is built on AdamW, and goes with no other.
    fn needs_adamw(&self) -> bool {
        false
    }

    /// The optimizer with what the method puts in its place for some parameters of `model`.
    fn optimizer(
        &self,
        optimizer: ModuleOptimizer,
        constants: AdamConstants,
        model: &Model,
        outline: &Outline,
    ) -> ModuleOptimizer {
        let _ = (constants, model, outline);
        optimizer
    }

    /// The settings that `config`, an `adapter_config.json` of Hugging Face PEFT, stands for; `None` if it
    /// is another method's. A key that asks for something and is not read is refused afterwards.
    ///
    /// # Errors
    /// Where it is this method's, with an option that is not supported.
    fn from_peft(config: &PeftConfig<'_>) -> Result<Option<Self>, NotApplicable> {
        let _ = config;
        Ok(None)
    }

    /// The `adapter_config.json` for these settings, if PEFT has the method.
    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        let _ = outline;
        None
    }

    /// The name that PEFT's file has for our parameter `name`, but for the prefix before all of them.
    fn peft_name(&self, name: &str) -> String {
        name.to_owned()
    }
}

/// The object-safe form of [`Method`]; implemented for every method, never by hand.
pub trait DynMethod: Debug + DynClone + Send + Sync {
    /// See [`Method::CARD`].
    fn card(&self) -> &'static Card;
    /// See [`Method::NUMERICS`].
    fn numerics(&self) -> u32;
    /// See [`Method::label`].
    fn label(&self) -> String;
    /// See [`Method::count`].
    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable>;
    /// See [`Method::kept_values`].
    fn kept_values(&self, name: &str, shape: &[usize]) -> usize;
    /// See [`Method::grows`].
    fn grows(&self) -> bool;
    /// See [`Method::virtual_tokens`].
    fn virtual_tokens(&self) -> usize;
    /// See [`Method::attach`].
    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable>;
    /// See [`Method::trains`].
    fn trains(&self, parameter: &ParamInfo) -> bool;
    /// See [`Method::policy`].
    fn policy(&self, course: Course) -> Option<Box<dyn Policy>>;
    /// See [`Method::learning_rate_factor`].
    fn learning_rate_factor(&self, parameter: &ParamInfo) -> f64;
    /// See [`Method::decays`].
    fn decays(&self, parameter: &ParamInfo) -> bool;
    /// See [`Method::needs_adamw`].
    fn needs_adamw(&self) -> bool;
    /// See [`Method::optimizer`].
    fn optimizer(
        &self,
        optimizer: ModuleOptimizer,
        constants: AdamConstants,
        model: &Model,
        outline: &Outline,
    ) -> ModuleOptimizer;
    /// See [`Method::to_peft`].
    fn to_peft(&self, outline: &Outline) -> Option<Value>;
    /// See [`Method::peft_name`].
    fn peft_name(&self, name: &str) -> String;
    /// All settings, defaults included.
    fn settings(&self) -> Value;
}

dyn_clone::clone_trait_object!(DynMethod);

impl<M: Method> DynMethod for M {
    fn card(&self) -> &'static Card {
        const { &M::CARD }
    }

    fn numerics(&self) -> u32 {
        M::NUMERICS
    }

    fn label(&self) -> String {
        Method::label(self)
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        crate::limits::check(&DynMethod::settings(self))?;
        Method::count(self, outline)
    }

    fn kept_values(&self, name: &str, shape: &[usize]) -> usize {
        Method::kept_values(self, name, shape)
    }

    fn grows(&self) -> bool {
        Method::grows(self)
    }

    fn virtual_tokens(&self) -> usize {
        Method::virtual_tokens(self)
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        Method::attach(self, model, outline, init)
    }

    fn trains(&self, parameter: &ParamInfo) -> bool {
        Method::trains(self, parameter)
    }

    fn policy(&self, course: Course) -> Option<Box<dyn Policy>> {
        Method::policy(self, course)
    }

    fn learning_rate_factor(&self, parameter: &ParamInfo) -> f64 {
        Method::learning_rate_factor(self, parameter)
    }

    fn decays(&self, parameter: &ParamInfo) -> bool {
        Method::decays(self, parameter)
    }

    fn needs_adamw(&self) -> bool {
        Method::needs_adamw(self)
    }

    fn optimizer(
        &self,
        optimizer: ModuleOptimizer,
        constants: AdamConstants,
        model: &Model,
        outline: &Outline,
    ) -> ModuleOptimizer {
        Method::optimizer(self, optimizer, constants, model, outline)
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        Method::to_peft(self, outline)
    }

    fn peft_name(&self, name: &str) -> String {
        Method::peft_name(self, name)
    }

    fn settings(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}
