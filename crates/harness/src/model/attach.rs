//! Putting a method on a model, and knowing which parameters are whose.

use burn::tensor::Device;
use peftlab_layers::params::{self, ParamInfo};
use peftlab_layers::{Initializer, Model};
use peftlab_peft::{DynMethod, NotApplicable, Outline};
use peftlab_record::Parameters;
use std::collections::HashSet;

/// A model with a method on it, ready to be trained.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The model.
    pub model: Model,
    /// Its shape before the method.
    pub outline: Outline,
}

impl Attached {
    /// Attaches `method` to `model`, with tensors drawn from `seed`. The method's own tensors, the base
    /// parameters it names, and the task's head are trained, in `f32`; all else is frozen.
    ///
    /// # Errors
    /// Where the method does not apply to the model.
    pub fn new(
        mut model: Model,
        method: &dyn DynMethod,
        seed: u64,
        device: &Device,
    ) -> Result<Self, NotApplicable> {
        let outline = Outline::of(&mut model);
        method.count(&outline)?;
        method.attach(&mut model, &outline, &mut Initializer::new(seed, device))?;
        let base: HashSet<&str> = outline.parameters.iter().map(|info| info.name.as_str()).collect();
        let model = params::set_trained(model, |info| {
            // what is neither the base's nor marked by the method keeps what the method gave it
            info.trained || (base.contains(info.name.as_str()) && is_trained(method, &outline, info))
        });
        Ok(Self { model, outline })
    }

    /// Bytes of the base model as it is kept.
    pub fn base_bytes(&mut self) -> usize {
        let Self { model, outline } = self;
        model.base_bytes(|info| outline.has(&info.name))
    }

    /// The names of the frozen tensors that the method brought along.
    pub fn buffers(&self) -> HashSet<String> {
        let infos = params::infos(&self.model).into_iter();
        infos.filter(|info| !info.trained && !self.outline.has(&info.name)).map(|info| info.name).collect()
    }

    /// How many values the frozen tensors have that the method brought along.
    pub fn frozen_values(&self) -> usize {
        let infos = params::infos(&self.model).into_iter();
        infos.filter(|info| !info.trained && !self.outline.has(&info.name)).map(|info| info.elements()).sum()
    }

    /// The parameters as counted on the model itself, after `method` predicted `stored` and `frozen_buffers`.
    pub fn parameters(&self, method: &dyn DynMethod) -> Result<Parameters, NotApplicable> {
        let count = method.count(&self.outline)?;
        let trained = params::infos(&self.model).into_iter().filter(|info| info.trained);
        let (mut adapter, mut head) = (0, 0);
        for info in trained {
            *(if self.outline.is_head(&info.name) { &mut head } else { &mut adapter }) += info.elements();
        }
        Ok(parameters(adapter, head, count.stored, count.buffers, self.outline.total()))
    }
}

/// Whether `method` trains the parameter `info` of the base model.
pub(crate) fn is_trained(method: &dyn DynMethod, outline: &Outline, info: &ParamInfo) -> bool {
    method.trains(info) || outline.is_head(&info.name)
}

/// The five numbers of a method's size, and the share of the whole.
pub fn parameters(
    adapter: usize,
    head: usize,
    stored: usize,
    buffers: usize,
    base_total: usize,
) -> Parameters {
    let trained = adapter + head;
    Parameters {
        adapter: adapter as u64,
        head: head as u64,
        trained: trained as u64,
        stored: (stored + head) as u64,
        frozen_buffers: buffers as u64,
        base_total: base_total as u64,
        percent: 100.0 * trained as f64 / base_total.max(1) as f64,
    }
}
