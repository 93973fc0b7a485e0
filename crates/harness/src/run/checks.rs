//! What every run checks after training: that all that was to be trained was, and nothing else.

use std::collections::{BTreeMap, HashSet};

use burn::module::ParamId;
use peftlab_layers::Model;
use peftlab_layers::params::{self, ParamInfo};

use crate::error::HarnessError;

/// What a model holds before training, for the checks after it.
#[derive(Debug)]
pub struct Held {
    fingerprints: BTreeMap<String, u64>,
    trained: Vec<ParamInfo>,
}

impl Held {
    /// What `model` holds now.
    pub fn by(model: &mut Model) -> Self {
        let fingerprints = model.fingerprints();
        Self { fingerprints, trained: params::infos(model).into_iter().filter(|info| info.trained).collect() }
    }

    /// What was declared as trained.
    pub fn trained(&self) -> &[ParamInfo] {
        &self.trained
    }

    /// Every tensor that was declared as trained must have received a gradient from the loss and an update from the
    /// optimizer (those `updated`), and nothing that is frozen, packed weights included, may have changed by a bit.
    /// Returns the number of frozen tensors, and of trained ones.
    ///
    /// # Errors
    /// Where one of the two is not so.
    pub(crate) fn check(
        &self,
        model: &mut Model,
        updated: &HashSet<ParamId>,
    ) -> Result<(u64, u64), HarnessError> {
        self.check_updated(updated)?;
        let frozen = self.check_frozen(model)?;
        Ok((frozen, params::infos(model).iter().filter(|info| info.trained).count() as u64))
    }

    /// Every tensor that was declared as trained must be among those `updated`. Whether one changed says nothing: the
    /// gradient or the rate may have been zero, and the weights that are kept may be those of an early step. Returns
    /// how many they are.
    ///
    /// # Errors
    /// Where one is not, by its name.
    pub fn check_updated(&self, updated: &HashSet<ParamId>) -> Result<u64, HarnessError> {
        match self.trained.iter().find(|info| !updated.contains(&info.id)) {
            None => Ok(self.trained.len() as u64),
            Some(info) => Err(HarnessError::Failed(format!(
                "`{}` is declared as trained, but received no gradient: the loss does not depend on it",
                info.name
            ))),
        }
    }

    /// Nothing that is frozen, packed weights included, may have changed by a bit. Returns how many tensors that are.
    ///
    /// A method may bring in further tensors while it trains, and train what waited frozen.
    ///
    /// # Errors
    /// Where one has, or is gone, by its name.
    pub fn check_frozen(&self, model: &mut Model) -> Result<u64, HarnessError> {
        let now = model.fingerprints();
        let trained: HashSet<String> =
            params::infos(model).into_iter().filter(|info| info.trained).map(|info| info.name).collect();
        let mut unchanged = 0;
        for (name, before) in self.fingerprints.iter().filter(|(name, _)| !trained.contains(*name)) {
            match now.get(name) {
                Some(after) if after == before => unchanged += 1,
                Some(_) => return Err(HarnessError::Failed(format!("`{name}` is frozen, but changed"))),
                None => return Err(HarnessError::Failed(format!("`{name}` is frozen, but is gone"))),
            }
        }
        Ok(unchanged)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use peftlab_backbones::{Head, build};
    use peftlab_layers::{Builder, Weights};
    use peftlab_ops::codec::Levels;
    use peftlab_ops::{Packed, Scheme};
    use serde_json::json;

    use super::*;

    /// A tiny LLaMA of which the norms are trained.
    fn model() -> Model {
        let device = Device::flex().autodiff();
        let config = json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 11, "max_position_embeddings": 16,
            "rms_norm_eps": 1e-5,
        });
        let builder = Builder::new(Weights::Random { seed: 0 }, &device, DType::F32);
        let model = Model::new(build(&config, Head::LanguageModel, &builder).unwrap());
        params::set_trained(model, |info| info.name.contains("norm"))
    }

    fn trained(model: &Model) -> HashSet<ParamId> {
        params::infos(model).into_iter().filter(|info| info.trained).map(|info| info.id).collect()
    }

    #[test]
    fn what_received_an_update_need_not_have_changed() {
        let mut model = model();
        let held = Held::by(&mut model);
        let updated = trained(&model);
        let (frozen, trained) = held.check(&mut model, &updated).unwrap();
        assert_eq!((frozen, trained), (params::infos(&model).len() as u64 - 3, 3));
    }

    #[test]
    fn a_trained_tensor_without_a_gradient_is_named() {
        let mut model = model();
        let held = Held::by(&mut model);
        let last = params::infos(&model).into_iter().find(|info| info.name == "model.norm.weight").unwrap();
        let updated = trained(&model).into_iter().filter(|id| *id != last.id).collect();
        let message = held.check(&mut model, &updated).unwrap_err().to_string();
        assert!(message.contains("`model.norm.weight`") && message.contains("no gradient"), "{message}");
    }

    #[test]
    fn a_packed_weight_is_part_of_what_is_frozen() {
        let mut model = model();
        let pack = |model: &mut Model, scale: f32| {
            let projection = model.sites().projections.remove(0);
            let weight = projection.weight().transpose() * scale;
            let scheme = Scheme::Blocks { levels: Levels::Nf4, block: 8, double: false };
            projection.set_packed(Packed::quantise(&weight, scheme));
        };
        pack(&mut model, 1.0);
        let held = Held::by(&mut model);
        let updated = trained(&model);
        assert!(held.check(&mut model, &updated).is_ok());
        pack(&mut model, 2.0);
        let message = held.check(&mut model, &updated).unwrap_err().to_string();
        assert!(message.contains("q_proj.packed_weight` is frozen, but changed"), "{message}");
    }
}
