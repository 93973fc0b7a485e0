//! The promises of a method, one function each.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use peftlab_checkpoint::guarded;
use peftlab_harness::card::{self, Contradiction, Difference, Rounding};
use peftlab_harness::{Attached, adapter};
use peftlab_layers::params::{self, HostTensor, ParamInfo};
use peftlab_layers::{Mode, Model};
use peftlab_peft::{DynMethod, Entry, Identity, MergeKind};
use serde::Serialize;
use serde_json::json;

use crate::learning::{self, Learnt, STEPS};
use crate::network::{Network, logits, randomised};
use crate::report::Check;

/// What a method promises, by its card, its count, or by being a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Promise {
    /// Its card lists all settings, unknown ones are refused, and settings that were written are read again.
    Settings,
    /// The model is, or is not, unchanged by attaching it.
    Identity,
    /// As many parameters are trained, and as many brought along frozen, as counted.
    Count,
    /// Merged, the model gives the same logits, and nothing of the method is left; or it refuses to be merged.
    Merge,
    /// As many values are kept as counted.
    Stored,
    /// What is kept gives the same logits to the bit on a model that the method was attached to anew.
    Reload,
    /// One batch is learnt by heart.
    Learns,
    /// Every trained tensor receives a gradient.
    Gradients,
    /// No bit of what is frozen changes in training.
    Frozen,
}

impl Promise {
    /// What it is called in a report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Identity => "identity",
            Self::Count => "count",
            Self::Merge => "merge",
            Self::Stored => "stored",
            Self::Reload => "reload",
            Self::Learns => "learns",
            Self::Gradients => "gradients",
            Self::Frozen => "frozen",
        }
    }
}

/// These networks are small, and on the CPU: sums hardly differ by their order.
const ROUNDING: Rounding = Rounding { repeated: 0.0, reordered: 1e-5 };

/// What a check found.
struct Found {
    promised: String,
    measured: String,
    value: Option<f64>,
    failure: Option<String>,
}

impl Found {
    fn new(promised: impl Into<String>, measured: impl Into<String>, value: Option<f64>) -> Self {
        Self { promised: promised.into(), measured: measured.into(), value, failure: None }
    }

    /// The same, failed where `outcome` is an error.
    fn after(self, outcome: Result<(), impl ToString>) -> Self {
        Self { failure: outcome.err().map(|error| error.to_string()), ..self }
    }

    fn check(self, promise: Promise, network: Option<Network>) -> Check {
        let Self { promised, measured, value, failure } = self;
        Check { network, promise, promised, measured, value, failure }
    }
}

/// A method on a network.
struct Subject<'a> {
    method: &'a dyn DynMethod,
    network: Network,
    learnt: OnceCell<Result<Learnt, String>>,
}

type Checked = Result<Found, String>;

/// Checks `method` on `network`. A panic of the method is a failure of the check that met it.
pub(crate) fn check(method: &dyn DynMethod, network: Network) -> Vec<Check> {
    let subject = Subject { method, network, learnt: OnceCell::new() };
    let checks: [(Promise, &dyn Fn() -> Checked); 8] = [
        (Promise::Identity, &|| subject.identity()),
        (Promise::Count, &|| subject.count()),
        (Promise::Merge, &|| subject.merge()),
        (Promise::Stored, &|| subject.stored()),
        (Promise::Reload, &|| subject.reload()),
        (Promise::Learns, &|| subject.learns()),
        (Promise::Gradients, &|| subject.gradients()),
        (Promise::Frozen, &|| subject.frozen()),
    ];
    let run = |(promise, check): (Promise, &dyn Fn() -> Checked)| {
        let found = guarded(check).unwrap_or_else(|panic| Err(format!("panicked: {panic}")));
        let found = found.unwrap_or_else(|why| Found::new("", "nothing", None).after(Err::<(), _>(why)));
        found.check(promise, Some(network))
    };
    checks.into_iter().map(run).collect()
}

/// Checks what a registered method promises of its settings, those of `method` among them.
pub(crate) fn settings(entry: &Entry, method: &dyn DynMethod) -> Check {
    const UNKNOWN: &str = "no_such_setting";
    let written = method.settings();
    let keys: Vec<&str> =
        written.as_object().into_iter().flat_map(|table| table.keys()).map(String::as_str).collect();
    let unlisted = keys.iter().find(|key| !entry.card.settings.iter().any(|(name, ..)| name == *key));
    let read = || entry.parse(written.clone()).map(|method| method.settings());
    let outcome = if let Some(key) = unlisted {
        Err(format!("`{key}` is a setting, but the card does not list it; add it to `settings`"))
    } else if entry.parse(json!({ UNKNOWN: 0 })).is_ok() {
        Err("a setting that does not exist is passed over; put #[serde(deny_unknown_fields)] on the struct"
            .to_owned())
    } else {
        match read() {
            Ok(again) if again == written => Ok(()),
            Ok(again) => Err(format!("settings that were written, {written}, are read as {again}")),
            Err(error) => Err(format!("settings that were written, {written}, are not read: {error}")),
        }
    };
    let listed = format!("{} are listed", entry.card.settings.len());
    Found::new(listed, format!("{} are written and read", keys.len()), None)
        .after(outcome)
        .check(Promise::Settings, None)
}

impl Subject<'_> {
    fn attached(&self) -> Result<Attached, String> {
        self.network.with(self.method).map_err(|reason| reason.to_string())
    }

    fn logits(&self, model: &Model) -> Vec<f32> {
        logits(model, &self.network.input(), Mode::Evaluate)
    }

    fn learnt(&self) -> Result<&Learnt, String> {
        self.learnt.get_or_init(|| learning::learn(self.method, self.network)).as_ref().map_err(Clone::clone)
    }

    fn identity(&self) -> Checked {
        let card = self.method.card();
        // how near depends on how large the weights are
        let base = match card.identity {
            Identity::Within(_) => self.network.drawn(),
            Identity::Exact | Identity::Quantised | Identity::No => self.network.model(),
        };
        let before = self.logits(&base);
        let attached =
            Attached::new(base, self.method, 11, &Network::device()).map_err(|reason| reason.to_string())?;
        let after = self.logits(&attached.model);
        let to_base = Difference::between(&before, &after);
        let quantised = || Difference::between(&self.logits(&card::without_updates(&attached.model)), &after);
        let to_quantised = (card.identity == Identity::Quantised).then(quantised);
        let measured = match to_quantised {
            None => format!("logits differ by {:.1e}", to_base.largest),
            Some(own) => format!("logits differ by {:.1e}, of the base {:.1e}", own.largest, to_base.largest),
        };
        let promised = match card.identity {
            Identity::Exact => "unchanged at step 0".to_owned(),
            Identity::Within(tolerance) => format!("unchanged at step 0 within {tolerance:.1e}"),
            Identity::Quantised => "at step 0 the quantised model".to_owned(),
            Identity::No => "changed at step 0".to_owned(),
        };
        let value = to_quantised.unwrap_or(to_base).largest;
        let outcome = card::check_step_0(card, to_base, to_quantised, ROUNDING);
        Ok(Found::new(promised, measured, Some(value)).after(outcome))
    }

    fn count(&self) -> Checked {
        let attached = self.attached()?;
        let count = self.method.count(&attached.outline).map_err(|reason| reason.to_string())?;
        let own = attached.parameters(self.method).map_err(|reason| reason.to_string())?;
        let promised = format!("{} trained, {} frozen", count.adapter, count.buffers);
        let measured = format!("{} trained, {} frozen", own.adapter, attached.frozen_values());
        Ok(Found::new(promised, measured, Some(own.adapter as f64))
            .after(card::check_count(self.method, &attached)))
    }

    fn merge(&self) -> Checked {
        let card = self.method.card();
        let attached = self.attached()?;
        if card.merge == MergeKind::Already {
            let outcome = card::check_nothing_beside(card, &attached.model, &attached.outline);
            return Ok(Found::new("nothing to merge", "nothing beside the weights", None).after(outcome));
        }
        let model = randomised(&attached);
        let mut merged = model.clone();
        let refused = merged.merge().err();
        let difference = Difference::between(&self.logits(&model), &self.logits(&merged));
        let place = refused.as_deref();
        let outcome = card::check_merge(card, place.map_or(Ok(difference), Err), ROUNDING);
        let promised = match card.merge {
            MergeKind::Already | MergeKind::No => "cannot be merged",
            MergeKind::Exact => "merges exactly",
            MergeKind::ZeroPoints => "merges into zero points exactly",
        };
        Ok(match refused {
            Some(place) => Found::new(promised, format!("refused at {place}"), None).after(outcome),
            None => {
                let left = || card::check_nothing_beside(card, &merged, &attached.outline);
                let measured = format!("logits differ by {:.1e}", difference.largest);
                Found::new(promised, measured, Some(difference.largest)).after(outcome.and_then(|()| left()))
            }
        })
    }

    /// The tensors that are kept of `model`, which was made of `attached`.
    fn kept(&self, attached: &Attached, model: &Model) -> BTreeMap<String, HostTensor> {
        let trained: Vec<ParamInfo> =
            params::infos(&attached.model).into_iter().filter(|info| info.trained).collect();
        // baking may put something else in the place of what was trained
        params::tensors(model, |info| info.trained || trained.iter().any(|own| own.name == info.name))
    }

    fn stored(&self) -> Checked {
        let attached = self.attached()?;
        let mut model = attached.model.clone();
        model.bake();
        let kept = self.kept(&attached, &model);
        let tensors = || kept.iter().map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice()));
        let own = tensors().filter(|(name, _)| !attached.outline.is_head(name));
        let values: usize = own.map(|(name, shape)| self.method.kept_values(name, shape)).sum();
        let count = self.method.count(&attached.outline).map_err(|reason| reason.to_string())?;
        let measured = match count.buffers {
            0 => format!("{values} kept"),
            buffers => format!("{values} kept, {buffers} frozen"),
        };
        let promised =
            format!("{}{} stored", if self.method.grows() { "grows to " } else { "" }, count.stored);
        let outcome: Result<(), Contradiction> =
            card::check_stored(self.method, &attached.outline, tensors());
        Ok(Found::new(promised, measured, Some(values as f64)).after(outcome))
    }

    fn reload(&self) -> Checked {
        let attached = self.attached()?;
        let mut model = randomised(&attached);
        model.bake();
        let dir = tempfile::tempdir().map_err(|error| format!("no folder for a file: {error}"))?;
        let file = dir.path().join("adapter.safetensors");
        adapter::write(&self.kept(&attached, &model), &file).map_err(|error| error.to_string())?;
        let fresh = self.attached()?;
        let loaded = adapter::load(fresh.model, &fresh.outline, &file).map_err(|error| error.to_string())?;
        let difference = Difference::between(&self.logits(&model), &self.logits(&loaded)).largest;
        let outcome = match difference == 0.0 {
            true => Ok(()),
            false => Err(format!(
                "the adapter that was saved and read again gives other logits, by {difference:.3e}: something that it \
                 computes with is neither trained nor made from the seed"
            )),
        };
        let measured = format!("logits differ by {difference:.1e}");
        Ok(Found::new("equal to the bit when read again", measured, Some(difference)).after(outcome))
    }

    fn learns(&self) -> Checked {
        let Learnt { enough, share, steps, learning_rate, .. } = self.learnt()?;
        let outcome = match share < enough {
            true => Ok(()),
            false => Err(format!(
                "in {STEPS} steps on one batch the loss fell to {:.1} % of its start, not below {:.0} %",
                100.0 * share,
                100.0 * enough
            )),
        };
        let promised = format!("loss of one batch below {:.0} %", 100.0 * enough);
        let measured = format!("{:.1} % after {steps} steps at {learning_rate:.0e}", 100.0 * share);
        Ok(Found::new(promised, measured, Some(*share)).after(outcome))
    }

    fn gradients(&self) -> Checked {
        let learnt = self.learnt()?;
        let trained = learnt.held.trained();
        let reached = trained.iter().filter(|info| learnt.updated.contains(&info.id)).count();
        let promised = format!("{} tensors receive a gradient", trained.len());
        let outcome = learnt.held.check_updated(&learnt.updated).map(|_| ());
        Ok(Found::new(promised, format!("{reached} do"), Some(reached as f64)).after(outcome))
    }

    fn frozen(&self) -> Checked {
        let learnt = self.learnt()?;
        let (unchanged, outcome) = match learnt.held.check_frozen(&mut learnt.model.clone()) {
            Ok(unchanged) => (Some(unchanged), Ok(())),
            Err(error) => (None, Err(error)),
        };
        let measured = unchanged.map_or("one changed".to_owned(), |count| format!("{count} are unchanged"));
        let value = unchanged.map(|count| count as f64);
        Ok(Found::new("frozen tensors keep every bit", measured, value).after(outcome))
    }
}
