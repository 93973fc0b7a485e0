//! A backbone with what methods attached to it.

use burn::module::Module;

use crate::context::{Context, Mode, ModelInput, Output};
use crate::erased::Attached;
use crate::sites::{Backbone, Dimensions, ModelAdapter, ProjectionInfo, Sites};

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
        let mut context = Context::new(mode);
        for adapter in &self.adapters {
            adapter.prepare(&mut context);
        }
        self.base_model.forward(input, &context)
    }

    /// Every site of the network.
    pub fn sites(&mut self) -> Sites<'_> {
        self.base_model.sites()
    }

    /// The network's sizes.
    pub fn dimensions(&self) -> Dimensions {
        self.base_model.dimensions()
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
        if !self.adapters.is_empty() {
            return Err("the model".to_owned());
        }
        let sites = self.sites();
        let attached = sites.attentions.iter().any(|site| !site.adapters.is_empty())
            || sites.blocks.iter().any(|site| !site.adapters.is_empty())
            || !sites.embedding.adapters.is_empty();
        if attached {
            return Err("a block, an attention or the embedding".to_owned());
        }
        for projection in sites.projections {
            projection.merge()?;
        }
        Ok(())
    }
}
