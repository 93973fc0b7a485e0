//! Parameters by the names they have on the Hub.
//!
//! A parameter's name is its path in the module tree, since fields are named as on the Hub, without the
//! segments that are ours alone: sites (`*_site`), lists of attached modules (`adapters.0`), and the wrapper
//! (`base_model`). Methods name their tensors as PEFT does, so these names are a PEFT file's, too, but for the
//! prefix that PEFT puts before everything inside a wrapped model.
//! Weights of linears are stored `[in, out]`, on the Hub `[out, in]`: everything in this module speaks the
//! Hub's layout.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hasher;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Gradients, Int, Tensor, TensorData};
use rustc_hash::FxHasher;

/// Struct names whose `weight` is a linear's.
const LINEARS: [&str; 2] = ["Struct:Linear", "Struct:Projection"];

/// A parameter's name, shape and state.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamInfo {
    /// Name as on the Hub; a method's tensors are named below the module they are attached to.
    pub name: String,
    /// Shape in the Hub's layout.
    pub shape: Vec<usize>,
    /// Whether training changes it.
    pub trained: bool,
    /// Burn's identity: shared tensors have one.
    pub id: ParamId,
    /// Element type.
    pub dtype: DType,
}

impl ParamInfo {
    /// Number of values.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A tensor in the Hub's layout, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Shape in the Hub's layout.
    pub shape: Vec<usize>,
    /// Values, row-major.
    pub values: Vec<f32>,
}

/// Tracks where in the module tree a visitor or mapper is.
#[derive(Default)]
struct Path {
    segments: Vec<String>,
    containers: Vec<String>,
}

impl Path {
    fn enter(&mut self, name: &str, container: &str) {
        self.segments.push(name.to_owned());
        self.containers.push(container.to_owned());
    }

    fn exit(&mut self) {
        self.segments.pop();
        self.containers.pop();
    }

    fn name(&self) -> String {
        let mut kept: Vec<&str> = Vec::with_capacity(self.segments.len() + 1);
        let mut segments = self.segments.iter().map(String::as_str);
        while let Some(segment) = segments.next() {
            match segment {
                "adapters" => {
                    segments.next();
                }
                "base_model" => {}
                _ if segment.ends_with("_site") => {}
                // `self_` is `self` on the Hub, a word that no field of ours can have
                _ => kept.push(segment.strip_suffix('_').unwrap_or(segment)),
            }
        }
        kept.join(".")
    }

    /// Whether the parameter here is stored transposed with respect to the Hub.
    fn is_transposed(&self) -> bool {
        let last = self.segments.last().is_some_and(|s| s == "weight");
        last && self.containers.last().is_some_and(|c| LINEARS.contains(&c.as_str()))
    }
}

fn hub_shape(shape: &[usize], transposed: bool) -> Vec<usize> {
    let mut shape = shape.to_vec();
    if transposed {
        shape.reverse();
    }
    shape
}

/// The transpose of a row-major `[rows, columns]` matrix.
pub fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    for row in 0..rows {
        for column in 0..columns {
            out[column * rows + row] = values[row * columns + column];
        }
    }
    out
}

fn to_host<const D: usize>(tensor: Tensor<D>, transposed: bool) -> HostTensor {
    let shape = tensor.dims().to_vec();
    let values: Vec<f32> = tensor.into_data().iter::<f32>().collect();
    if transposed {
        HostTensor { values: transpose(&values, shape[0], shape[1]), shape: hub_shape(&shape, true) }
    } else {
        HostTensor { shape, values }
    }
}

/// A parameter's info and whether it is stored transposed.
struct Place {
    info: ParamInfo,
    transposed: bool,
}

/// Reads every parameter of a module; the one visitor behind this module's functions.
trait Reader {
    fn read<const D: usize>(&mut self, place: Place, param: &Param<Tensor<D>>);

    /// One of integers: it is never trained, and most do not ask.
    fn read_int<const D: usize>(&mut self, name: String, param: &Param<Tensor<D, Int>>) {
        let _ = (name, param);
    }
}

/// Replaces float parameters of a module.
trait Writer {
    fn write<const D: usize>(&mut self, place: Place, param: Param<Tensor<D>>) -> Param<Tensor<D>>;
}

struct Walk<'a, T>(Path, &'a mut T);

impl<T> Walk<'_, T> {
    fn place<const D: usize>(&self, param: &Param<Tensor<D>>) -> Place {
        let transposed = self.0.is_transposed();
        let shape = hub_shape(&param.lazy_shape().to_vec(), transposed);
        let (name, trained, id) = (self.0.name(), is_trained(param), param.id);
        // what is not there yet has the type that it will have, and nobody asks
        let dtype = if param.is_initialized() { param.val().dtype() } else { DType::F32 };
        let info = ParamInfo { name, shape, trained, id, dtype };
        Place { info, transposed }
    }
}

impl<T: Reader> ModuleVisitor for Walk<'_, T> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let place = self.place(param);
        self.1.read(place, param);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.1.read_int(self.0.name(), param);
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.0.exit();
    }
}

impl<T: Writer> ModuleMapper for Walk<'_, T> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let place = self.place(&param);
        self.1.write(place, param)
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.0.exit();
    }
}

fn read<M: Module, R: Reader>(module: &M, mut reader: R) -> R {
    module.visit(&mut Walk(Path::default(), &mut reader));
    reader
}

/// Whether training changes `param`. One that is not there yet (an outline's) is not trained.
fn is_trained<const D: usize>(param: &Param<Tensor<D>>) -> bool {
    param.is_initialized() && param.is_require_grad()
}

/// Every float parameter of `module`, in the order of the module tree.
pub fn infos<M: Module>(module: &M) -> Vec<ParamInfo> {
    struct Infos(Vec<ParamInfo>);
    impl Reader for Infos {
        fn read<const D: usize>(&mut self, place: Place, _: &Param<Tensor<D>>) {
            self.0.push(place.info);
        }
    }
    read(module, Infos(Vec::new())).0
}

/// The values of the parameters that `select` picks, on the host in the Hub's layout, by name.
pub fn tensors<M: Module>(module: &M, select: impl Fn(&ParamInfo) -> bool) -> BTreeMap<String, HostTensor> {
    struct Values<F>(F, BTreeMap<String, HostTensor>);
    impl<F: Fn(&ParamInfo) -> bool> Reader for Values<F> {
        fn read<const D: usize>(&mut self, place: Place, param: &Param<Tensor<D>>) {
            if (self.0)(&place.info) {
                self.1.insert(place.info.name, to_host(param.val(), place.transposed));
            }
        }
    }
    read(module, Values(select, BTreeMap::new())).1
}

/// The gradients of the trained parameters, on the host in the Hub's layout, by name; parameters that the
/// loss does not depend on are absent.
pub fn gradients<M: Module>(module: &M, gradients: &Gradients) -> BTreeMap<String, HostTensor> {
    struct OfLoss<'a>(&'a Gradients, BTreeMap<String, HostTensor>);
    impl Reader for OfLoss<'_> {
        fn read<const D: usize>(&mut self, place: Place, param: &Param<Tensor<D>>) {
            let gradient = if place.info.trained { param.val().grad(self.0) } else { None };
            if let Some(gradient) = gradient {
                self.1.insert(place.info.name, to_host(gradient, place.transposed));
            }
        }
    }
    read(module, OfLoss(gradients, BTreeMap::new())).1
}

/// A fingerprint of every parameter's bits, integers' too, by name: two of them differ where a bit does.
pub fn fingerprints<M: Module>(module: &M) -> BTreeMap<String, u64> {
    struct Hashes(BTreeMap<String, u64>);
    impl Hashes {
        fn add(&mut self, name: String, data: &TensorData) {
            // many times as fast as the standard library's: a 7B model is hashed twice a run
            let mut hasher = FxHasher::default();
            hasher.write(data.as_bytes());
            self.0.insert(name, hasher.finish());
        }
    }
    impl Reader for Hashes {
        fn read<const D: usize>(&mut self, place: Place, param: &Param<Tensor<D>>) {
            self.add(place.info.name, &param.val().into_data());
        }

        fn read_int<const D: usize>(&mut self, name: String, param: &Param<Tensor<D, Int>>) {
            self.add(name, &param.val().into_data());
        }
    }
    read(module, Hashes(BTreeMap::new())).0
}

/// The name of a parameter that `select` picks and that holds a value which is no finite number; none where there is
/// none.
pub fn not_finite<M: Module>(module: &M, select: impl Fn(&ParamInfo) -> bool) -> Option<String> {
    struct Find<F>(F, Option<String>);
    impl<F: Fn(&ParamInfo) -> bool> Reader for Find<F> {
        fn read<const D: usize>(&mut self, place: Place, param: &Param<Tensor<D>>) {
            if self.1.is_none() && (self.0)(&place.info) {
                let finite = param.val().into_data().iter::<f32>().all(f32::is_finite);
                self.1 = (!finite).then_some(place.info.name);
            }
        }
    }
    read(module, Find(select, None)).1
}

/// Replaces the values of the parameters that `values` names; a value of another shape is an error.
/// Whether a parameter is trained stays as it is. Returns the module and the names that no parameter has.
pub fn assign<M: Module>(
    module: M,
    values: &BTreeMap<String, HostTensor>,
) -> Result<(M, Vec<String>), ShapeMismatch> {
    struct Assign<'a> {
        values: &'a BTreeMap<String, HostTensor>,
        used: HashSet<String>,
        error: Option<ShapeMismatch>,
    }
    impl Writer for Assign<'_> {
        fn write<const D: usize>(&mut self, place: Place, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let ParamInfo { name, shape: expected, .. } = place.info;
            let Some(value) = self.values.get(&name) else { return param };
            if expected != value.shape {
                self.error.get_or_insert(ShapeMismatch { name, expected, found: value.shape.clone() });
                return param;
            }
            self.used.insert(name);
            replace(param, from_host(value, place.transposed))
        }
    }
    let mut assign = Assign { values, used: HashSet::new(), error: None };
    let module = module.map(&mut Walk(Path::default(), &mut assign));
    match assign.error {
        Some(error) => Err(error),
        None => Ok((module, values.keys().filter(|name| !assign.used.contains(*name)).cloned().collect())),
    }
}

/// Marks as trained exactly the parameters for which `select` says so. What is trained is in `f32` from then on,
/// whatever type it is computed in: a step that is small beside the weight would be rounded away in a narrower one.
pub fn set_trained<M: Module>(module: M, select: impl Fn(&ParamInfo) -> bool) -> M {
    struct Mark<F>(F);
    impl<F: Fn(&ParamInfo) -> bool> Writer for Mark<F> {
        fn write<const D: usize>(&mut self, place: Place, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let trained = (self.0)(&place.info);
            if trained == place.info.trained {
                return param;
            }
            let narrow = trained && place.info.dtype != DType::F32;
            let param = if narrow { param.map(|values| values.cast(DType::F32)) } else { param };
            param.set_require_grad(trained)
        }
    }
    module.map(&mut Walk(Path::default(), &mut Mark(select)))
}

fn from_host(value: &HostTensor, transposed: bool) -> TensorData {
    if transposed {
        let [rows, columns] = [value.shape[0], value.shape[1]];
        TensorData::new(transpose(&value.values, rows, columns), [columns, rows])
    } else {
        TensorData::new(value.values.clone(), value.shape.clone())
    }
}

/// `param` with other values: the same identity, device and element type, trained if it was.
fn replace<const D: usize>(param: Param<Tensor<D>>, data: TensorData) -> Param<Tensor<D>> {
    let trained = is_trained(&param);
    param.map(|old| {
        let new = Tensor::from_data(data.convert_dtype(old.dtype()), &old.device());
        new.set_require_grad(trained)
    })
}

/// A tensor in a file that is not of the shape the model has.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("tensor `{name}` has shape {found:?} where the model has {expected:?}")]
pub struct ShapeMismatch {
    /// The tensor's name.
    pub name: String,
    /// Shape in the model, in the Hub's layout.
    pub expected: Vec<usize>,
    /// Shape in the file.
    pub found: Vec<usize>,
}
