//! A backbone with what methods attached to it.

use std::collections::BTreeMap;

use burn::module::Module;

use crate::attention::AttentionSite;
use crate::context::{Context, Mode, ModelInput, Output};
use crate::erased::Attached;
use crate::params::{self, ParamInfo};
use crate::projection::{Projection, ProjectionInfo};
use crate::sites::{Backbone, Dimensions, ModelAdapter, Sites};

/// A backbone with what methods attached to it: the module that is trained, saved and measured.
#[derive(Module, Debug)]
pub struct Model {
    /// The network, with its sites.
    pub base_model: Attached<dyn Backbone>,
    /// What methods hold once for the whole model.
    pub adapters: Vec<Attached<dyn ModelAdapter>>,
}

impl Model {
    /// A backbone with nothing attached.
    pub fn new(backbone: Box<dyn Backbone>) -> Self {
        Self { base_model: Attached::new(backbone), adapters: Vec::new() }
    }

    /// Logits for a batch.
    pub fn forward(&self, input: &ModelInput, mode: Mode) -> Output {
        self.base_model.forward(input, &self.context(mode))
    }

    fn context(&self, mode: Mode) -> Context {
        let mut context = Context::new(mode);
        for adapter in &self.adapters {
            adapter.prepare(&mut context);
        }
        context
    }

    /// Every site of the network.
    pub fn sites(&mut self) -> Sites<'_> {
        self.base_model.sites()
    }

    /// The network's sizes.
    pub fn dimensions(&self) -> Dimensions {
        self.base_model.dimensions()
    }

    /// Whether virtual tokens stand in front of the sequence, the last of which predicts its first token.
    pub fn has_virtual_tokens(&mut self) -> bool {
        !self.sites().embedding.adapters.is_empty()
    }

    /// A fingerprint of everything that the model holds, by name: of every parameter's bits, whatever its type, and
    /// of the packed weights, which are no parameters.
    pub fn fingerprints(&mut self) -> BTreeMap<String, u64> {
        let mut all = params::fingerprints(self);
        let packed = |projection: &&mut Projection| {
            Some((format!("{}.packed_weight", projection.info.name), projection.packed_fingerprint()?))
        };
        all.extend(self.sites().projections.iter().filter_map(packed));
        all
    }

    /// Name and shape of every projection.
    pub fn projections(&mut self) -> Vec<ProjectionInfo> {
        self.sites().projections.iter().map(|projection| projection.info.clone()).collect()
    }

    /// Whether the parameter `name`, as this module's [`params`](crate::params) name it, belongs to the head.
    pub fn is_head(&self, name: &str) -> bool {
        self.base_model.is_head(name)
    }

    /// Brings what was trained into the form that is deployed; the logits stay the same.
    pub fn bake(&mut self) {
        for adapter in &mut self.adapters {
            adapter.bake();
        }
    }

    /// Puts every projection's adapters into its weights.
    ///
    /// # Errors
    /// The name of a place where a method cannot be merged.
    pub fn merge(&mut self) -> Result<(), String> {
        self.merge_with(Projection::merge).map(|_| ())
    }

    /// As [`merge`](Self::merge), with weights that were packed packed again. Returns how many were, and would be
    /// dense after merging.
    ///
    /// # Errors
    /// As [`merge`](Self::merge).
    pub fn merge_packed(&mut self) -> Result<usize, String> {
        self.merge_with(|projection, context| projection.merge_packed(context).map(usize::from))
            .map(|each| each.into_iter().sum())
    }

    fn merge_with<T>(
        &mut self,
        merge: impl Fn(&mut Projection, &Context) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let context = self.context(Mode::Evaluate);
        let sites = self.sites();
        let needed = |site: &AttentionSite| site.adapters.iter().any(|a| !a.only_in_training());
        let attached = sites.attentions.iter().any(|site| needed(site))
            || sites.blocks.iter().any(|site| !site.adapters.is_empty())
            || !sites.embedding.adapters.is_empty();
        if attached {
            return Err("a block, an attention or the embedding".to_owned());
        }
        sites.attentions.into_iter().for_each(|site| site.adapters.clear());
        let merged = sites.projections.into_iter().map(|p| merge(p, &context)).collect::<Result<_, _>>()?;
        // whatever they held served the projections alone
        self.adapters.clear();
        Ok(merged)
    }

    /// Bytes of the base model's parameters as they are kept, adapters left out: `is_base` tells which parameters
    /// are the base's.
    pub fn base_bytes(&mut self, is_base: impl Fn(&ParamInfo) -> bool) -> usize {
        let names: Vec<String> = self.projections().into_iter().map(|info| info.name).collect();
        let in_projection = |info: &ParamInfo| {
            let module = info.name.strip_suffix(".weight").or(info.name.strip_suffix(".bias"));
            module.is_some_and(|module| names.iter().any(|name| name == module))
        };
        let others: usize = params::infos(self)
            .iter()
            .filter(|info| is_base(info) && !in_projection(info))
            .map(|info| info.elements() * info.dtype.size())
            .sum();
        others + self.sites().projections.iter().map(|projection| projection.bytes()).sum::<usize>()
    }
}
