//! Building networks: every parameter is asked for by its name on the Hub.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;

use burn::module::{Param, ParamId};
use burn::tensor::{DType, Device, Distribution, Tensor, TensorData};
use peftlab_checkpoint::{CheckpointError, TensorInfo, TensorSource};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use crate::params::transpose;
use crate::plain::{Embedding, LayerNorm, Linear, RmsNorm};
use crate::projection::{Projection, ProjectionInfo, Role};

/// Where the values of a network's parameters come from.
#[derive(Clone, Copy)]
pub enum Weights<'a> {
    /// A checkpoint. Parameters under one of `fresh` (the head of a task the checkpoint was not trained for)
    /// are drawn when the checkpoint has none.
    Checkpoint {
        /// The tensors.
        source: &'a dyn TensorSource,
        /// Prefix of every name in the file that the network's own names lack, and the reverse: `bert.` for
        /// a bare `BertModel` in a file.
        base_prefix: &'a str,
        /// Prefixes of parameters that may be missing.
        fresh: &'a [&'a str],
        /// What becomes of the checkpoint's head.
        head: HeadRows<'a>,
        /// Seed of what is missing.
        seed: u64,
    },
    /// Drawn on the device: N(0, 0.02) weights, zero biases, unit norms.
    Random {
        /// Seed; a tensor's values depend on it and on its name alone.
        seed: u64,
    },
}

/// What becomes of the head that a checkpoint has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadRows<'a> {
    /// It is used as it is.
    Kept,
    /// Parameters below this prefix are drawn, whatever the checkpoint has.
    New {
        /// Such as `classifier.`.
        prefix: &'a str,
    },
    /// The outputs of one module are put into another order.
    Ordered {
        /// The module, such as `classifier`.
        module: &'a str,
        /// For each output the row of the checkpoint.
        rows: &'a [usize],
    },
}

impl HeadRows<'_> {
    /// `values` of the parameter `name`, of the shape `shape`, with the outputs of the head in the order that is asked
    /// for. One of another size stays as it is.
    pub fn in_order(&self, name: &str, values: Vec<f32>, shape: &[usize]) -> Vec<f32> {
        let Self::Ordered { module, rows } = self else { return values };
        let ours = name.strip_prefix(module).is_some_and(|rest| rest == ".weight" || rest == ".bias");
        if !ours || shape.first() != Some(&rows.len()) {
            return values;
        }
        let width: usize = shape[1..].iter().product();
        rows.iter().flat_map(|row| values[row * width..(row + 1) * width].to_vec()).collect()
    }
}

/// What building a network took from a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct BuildLog {
    /// Tensors of the file that were used, by their names there.
    pub read: BTreeSet<String>,
    /// Parameters that were drawn, for the file has none, by the network's names.
    pub drawn: Vec<String>,
}

/// Why a network could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The checkpoint lacks a tensor.
    #[error("{file}: tensor `{name}` is missing; is it a checkpoint of another architecture?")]
    Missing {
        /// The checkpoint.
        file: String,
        /// Name of the tensor.
        name: String,
    },
    /// A tensor has another shape than `config.json` says.
    #[error(
        "{file}: tensor `{name}` has shape {found:?}, but config.json asks for {expected:?}; \
         the two files do not belong together"
    )]
    Shape {
        /// The checkpoint.
        file: String,
        /// Name of the tensor.
        name: String,
        /// Shape that the configuration asks for.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// The checkpoint's head is that of another task.
    #[error(
        "{file}: tensor `{name}` has shape {found:?}, but this task needs {expected:?}: the head is another task's; \
         set `head = \"new\"` in [model] to keep the body and have the head drawn anew"
    )]
    Head {
        /// The checkpoint.
        file: String,
        /// Name of the tensor.
        name: String,
        /// Shape that the task asks for.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// A tensor holds no floats.
    #[error("{file}: tensor `{name}` has dtype {found}; weights are F64, F32, F16 or BF16, convert it")]
    Dtype {
        /// The checkpoint.
        file: String,
        /// Name of the tensor.
        name: String,
        /// Element type in the file.
        found: String,
    },
    /// Reading failed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// How a parameter starts when it is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// N(0, std).
    Normal(f64),
    /// A constant.
    Constant(f64),
}

/// Makes parameters below one name of the module tree. Everything it makes is frozen.
#[derive(Clone)]
pub struct Builder<'a> {
    weights: Weights<'a>,
    device: Device,
    dtype: DType,
    path: String,
    outline: bool,
    log: Rc<RefCell<BuildLog>>,
    masters: Option<&'a HashSet<String>>,
}

impl<'a> Builder<'a> {
    /// A builder at the root of the tree; parameters of element type `dtype` on `device`.
    pub fn new(weights: Weights<'a>, device: &Device, dtype: DType) -> Self {
        let log = Rc::default();
        let (path, outline, masters) = (String::new(), false, None);
        Self { weights, device: device.clone(), dtype, path, outline, log, masters }
    }

    /// What was taken from the checkpoint so far, by this builder and all that were made from it.
    pub fn log(&self) -> BuildLog {
        self.log.borrow().clone()
    }

    /// A builder that reads and allocates nothing: what it builds has names and shapes alone. Whether a
    /// checkpoint has every tensor in the right shape is checked all the same.
    #[must_use]
    pub fn outline(self) -> Self {
        Self { outline: true, ..self }
    }

    /// A builder that keeps the parameters of these names in `f32`, as they are in the file, for they will be trained;
    /// in the forward pass they are cast to the builder's element type.
    #[must_use]
    pub fn with_masters(self, names: &'a HashSet<String>) -> Self {
        Self { masters: Some(names), ..self }
    }

    /// The element type that the parameter `name` is kept in.
    fn kept(&self, name: &str) -> DType {
        if self.masters.is_some_and(|names| names.contains(name)) { DType::F32 } else { self.dtype }
    }

    /// The builder for the child `name`.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Self { path: self.name(&name.to_string()), ..self.clone() }
    }

    fn name(&self, last: &str) -> String {
        if self.path.is_empty() { last.to_owned() } else { format!("{}.{last}", self.path) }
    }

    /// The name of this place in the tree.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The device that parameters are made on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A site for a method at a linear map, named by this builder's place.
    pub fn projection(
        &self,
        role: Role,
        [input, output]: [usize; 2],
        bias: bool,
    ) -> Result<Projection, BuildError> {
        let Linear { weight, bias } = self.linear([input, output], bias)?;
        let info = ProjectionInfo { name: self.path.clone(), role, input, output, bias: bias.is_some() };
        Ok(Projection::new(weight, bias, info))
    }

    /// A linear map that is no site.
    pub fn linear(&self, [input, output]: [usize; 2], bias: bool) -> Result<Linear, BuildError> {
        let weight = self.parameter(&["weight"], [output, input], true, Init::Normal(0.02))?;
        let bias =
            if bias { Some(self.parameter(&["bias"], [output], false, Init::Constant(0.0))?) } else { None };
        Ok(Linear { weight, bias })
    }

    /// A table of `entries` vectors, one of which may stand for padding.
    pub fn embedding(
        &self,
        entries: usize,
        hidden: usize,
        padding: Option<i64>,
    ) -> Result<Embedding, BuildError> {
        let weight = self.parameter(&["weight"], [entries, hidden], false, Init::Normal(0.02))?;
        Ok(Embedding { weight, padding, compute: self.dtype })
    }

    /// A layer norm.
    pub fn layer_norm(&self, hidden: usize, epsilon: f64) -> Result<LayerNorm, BuildError> {
        // BERT's first checkpoints have TensorFlow's names, and so do many made from them
        let weight = self.parameter(&["weight", "gamma"], [hidden], false, Init::Constant(1.0))?;
        let bias = self.parameter(&["bias", "beta"], [hidden], false, Init::Constant(0.0))?;
        Ok(LayerNorm { weight, bias, epsilon })
    }

    /// A root-mean-square norm.
    pub fn rms_norm(&self, hidden: usize, epsilon: f64) -> Result<RmsNorm, BuildError> {
        Ok(RmsNorm { weight: self.parameter(&["weight"], [hidden], false, Init::Constant(1.0))?, epsilon })
    }

    /// A parameter; `names` are those that files have for it below this place, the Hub's own first, `shape` is the
    /// Hub's, `transposed` says that we store the transpose.
    fn parameter<const D: usize>(
        &self,
        names: &[&str],
        shape: [usize; D],
        transposed: bool,
        init: Init,
    ) -> Result<Param<Tensor<D>>, BuildError> {
        let name = self.name(names[0]);
        let mut stored = shape;
        if transposed {
            stored.reverse();
        }
        let in_file = self.in_file(names, &shape)?;
        if self.outline {
            return Ok(self.absent(stored));
        }
        let tensor = match in_file {
            Some((source, head, in_file)) => {
                let values = head.in_order(&name, source.read_f32(&in_file)?, &shape);
                let values = if transposed { transpose(&values, shape[0], shape[1]) } else { values };
                let dtype = self.kept(&name);
                let data = TensorData::new(values, stored).convert_dtype(dtype);
                Tensor::from_data(data, (&self.device, dtype))
            }
            None => self.drawn(&name, stored, init),
        };
        Ok(Param::from_tensor(tensor).set_require_grad(false))
    }

    /// The checkpoint, what becomes of its head, and the name it has for a parameter; none where the parameter is to be
    /// drawn.
    fn in_file(
        &self,
        names: &[&str],
        shape: &[usize],
    ) -> Result<Option<(&'a dyn TensorSource, HeadRows<'a>, String)>, BuildError> {
        let Weights::Checkpoint { source, base_prefix, fresh, head, .. } = self.weights else {
            return Ok(None);
        };
        let name = self.name(names[0]);
        let may_be_drawn = fresh.iter().any(|prefix| name.starts_with(prefix));
        let redrawn = matches!(head, HeadRows::New { prefix } if name.starts_with(prefix));
        let places = names.iter().map(|last| self.name(last));
        let places = places.flat_map(|name| {
            let bare = name.strip_prefix(base_prefix).map(str::to_owned);
            std::iter::once(name).chain(bare)
        });
        let found = places.filter_map(|name| source.info(&name).map(|info| (name, info))).next();
        let mut log = self.log.borrow_mut();
        match found {
            _ if redrawn => {
                // read for this: it is no tensor that was overlooked
                log.read.extend(found.map(|(name, _)| name));
                log.drawn.push(name);
                Ok(None)
            }
            Some((name, TensorInfo { shape: found, .. })) if found != shape => {
                let (file, expected) = (source.describe(), shape.to_vec());
                Err(match may_be_drawn {
                    true => BuildError::Head { file, name, expected, found },
                    false => BuildError::Shape { file, name, expected, found },
                })
            }
            Some((name, info)) if !info.dtype.is_float() => {
                Err(BuildError::Dtype { file: source.describe(), name, found: info.dtype.to_string() })
            }
            Some((in_file, _)) => {
                log.read.insert(in_file.clone());
                Ok(Some((source, head, in_file)))
            }
            None if may_be_drawn => {
                log.drawn.push(name);
                Ok(None)
            }
            None => Err(BuildError::Missing { file: source.describe(), name }),
        }
    }

    /// A parameter that has a shape and no values.
    fn absent<const D: usize>(&self, shape: [usize; D]) -> Param<Tensor<D>> {
        let dtype = self.dtype;
        let make = move |device: &Device, _| Tensor::zeros(shape, (device, dtype));
        Param::uninitialized(ParamId::new(), make, self.device.clone(), false, shape.into())
    }

    /// Drawn on the device, so that a model larger than the host's memory can be made.
    fn drawn<const D: usize>(&self, name: &str, shape: [usize; D], init: Init) -> Tensor<D> {
        let (Weights::Checkpoint { seed, .. } | Weights::Random { seed }) = self.weights;
        let dtype = self.kept(name);
        match init {
            Init::Constant(value) => Tensor::full(shape, value, (&self.device, dtype)),
            Init::Normal(std) => {
                self.device.seed(seed ^ name_hash(name));
                Tensor::random(shape, Distribution::Normal(0.0, std), (&self.device, dtype))
            }
        }
    }
}

/// FNV-1a: the same on every machine and in every release.
pub fn name_hash(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Makes a method's tensors. All are `f32` and trained; their values come from a stream of their own, so that
/// a seed gives the same adapter on every device.
pub struct Initializer {
    rng: ChaCha8Rng,
    device: Device,
}

impl Initializer {
    /// A stream for `seed`.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed), device: device.clone() }
    }

    /// A tensor of these values, row-major.
    pub fn values<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Param<Tensor<D>> {
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), (&self.device, DType::F32)))
    }

    /// A constant.
    pub fn constant<const D: usize>(&self, value: f32, shape: [usize; D]) -> Param<Tensor<D>> {
        self.values(vec![value; shape.iter().product()], shape)
    }

    /// U(-bound, bound).
    pub fn uniform<const D: usize>(&mut self, bound: f64, shape: [usize; D]) -> Param<Tensor<D>> {
        let count = shape.iter().product();
        let values = (0..count).map(|_| self.rng.random_range(-bound..bound) as f32).collect();
        self.values(values, shape)
    }

    /// N(0, std).
    pub fn normal<const D: usize>(&mut self, std: f64, shape: [usize; D]) -> Param<Tensor<D>> {
        let count = shape.iter().product();
        let values = (0..count).map(|_| (std * self.rng.sample::<f64, _>(StandardNormal)) as f32).collect();
        self.values(values, shape)
    }

    /// `count` integers below `bound`.
    pub fn integers(&mut self, bound: usize, count: usize) -> Vec<i64> {
        (0..count).map(|_| self.rng.random_range(0..bound as i64)).collect()
    }

    /// Kaiming-uniform with `a = sqrt(5)`, torch's default for a linear layer (He et al. 2015,
    /// arXiv 1502.01852): U(-1/sqrt(in), 1/sqrt(in)), stored `[in, out]`.
    pub fn kaiming(&mut self, [input, output]: [usize; 2]) -> Param<Tensor<2>> {
        self.uniform((input as f64).powf(-0.5), [input, output])
    }
}
