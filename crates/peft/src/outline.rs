use peftlab_layers::params::{self, ParamInfo};
use peftlab_layers::{Dimensions, Model, ProjectionInfo};

/// A network's shape: what a method can be counted from without building anything.
#[derive(Clone, Debug)]
pub struct Outline {
    /// Sizes.
    pub dimensions: Dimensions,
    /// Every projection, in the order of the network.
    pub projections: Vec<ProjectionInfo>,
    /// Every parameter, with names as on the Hub.
    pub parameters: Vec<ParamInfo>,
    /// Whether positions are rotary.
    pub rotary: bool,
    /// The head's parameters, by position in `parameters`.
    head: Vec<bool>,
}

impl Outline {
    /// The outline of a model that nothing is attached to.
    pub fn of(model: &mut Model) -> Self {
        let parameters = params::infos(model);
        let head = parameters.iter().map(|info| model.is_head(&info.name)).collect();
        let rotary = model.sites().rotary.is_some();
        Self { dimensions: model.dimensions(), projections: model.projections(), parameters, rotary, head }
    }

    /// Number of parameters in all, head included.
    pub fn total(&self) -> usize {
        self.parameters.iter().map(ParamInfo::elements).sum()
    }

    /// Number of parameters of the head.
    pub fn head(&self) -> usize {
        self.parameters
            .iter()
            .zip(&self.head)
            .filter(|(_, head)| **head)
            .map(|(info, _)| info.elements())
            .sum()
    }

    /// Every parameter that is not the head's.
    pub fn body(&self) -> impl Iterator<Item = &ParamInfo> {
        self.parameters.iter().zip(&self.head).filter(|(_, head)| !**head).map(|(info, _)| info)
    }

    /// The projections that a method can act on: all but those of a task's head, which is trained itself.
    pub fn targets(&self) -> impl Iterator<Item = &ProjectionInfo> {
        self.projections.iter().filter(|p| !self.is_head(&format!("{}.weight", p.name)))
    }

    /// The names of the modules that hold parameters.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.parameters.iter().filter_map(|info| Some(info.name.rsplit_once('.')?.0))
    }

    /// Whether `name`, as on the Hub, is a parameter of the network.
    pub fn has(&self, name: &str) -> bool {
        self.parameters.iter().any(|info| info.name == name)
    }

    /// Whether `name`, as on the Hub, is a parameter of the head.
    pub fn is_head(&self, name: &str) -> bool {
        self.parameters.iter().zip(&self.head).any(|(info, head)| *head && info.name == name)
    }
}
