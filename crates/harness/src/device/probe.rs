//! What a device can do, apart from any model: the figures that explain a training step's time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use burn::tensor::module::attention as fused_attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Device, Distribution, Tensor, TensorData};
use peftlab_meter::percentile;
use peftlab_ops::{attention, causal_mask};
use peftlab_record::Measure;

use crate::device::OpenDevice;

/// A part of the measurement; each is independent of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Rates of matrix products.
    MatrixProduct,
    /// Bandwidth on the device, and to and from it.
    Copy,
    /// Time between two operations that have nearly nothing to do.
    Launch,
    /// Attention, forward alone and with backward.
    Attention,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::MatrixProduct, Self::Copy, Self::Launch, Self::Attention];
}

/// How large the work is, and how often it is repeated.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// `[rows, inner, columns]`.
    products: Vec<[usize; 3]>,
    copy_bytes: usize,
    launches: usize,
    heads: usize,
    head_sizes: Vec<usize>,
    lengths: Vec<usize>,
    /// Repetitions end after this long.
    patience: Duration,
}

/// `4096^3`, and what a step of LLaMA-7B with 2048 tokens multiplies: attention's projections, the feed-forward
/// network's, and LoRA's.
const PRODUCTS: [[usize; 3]; 6] = [
    [4096, 4096, 4096],
    [2048, 4096, 4096],
    [2048, 4096, 11008],
    [2048, 11008, 4096],
    [2048, 4096, 8],
    [2048, 8, 4096],
];

impl Sizes {
    /// Those of LLaMA-7B; on the CPU shorter lengths and fewer heads, for eight thousand tokens would fill its memory.
    pub fn usual(device: &OpenDevice) -> Self {
        let gpu = device.nvml.is_some();
        Self {
            products: PRODUCTS.to_vec(),
            copy_bytes: if gpu { 2 << 30 } else { 256 << 20 },
            launches: 200,
            heads: if gpu { 32 } else { 4 },
            head_sizes: vec![64, 128],
            lengths: if gpu { vec![512, 2048, 8192] } else { vec![512, 2048] },
            patience: Duration::from_secs(1),
        }
    }

    /// Small ones that show in seconds whether everything works.
    pub fn tiny() -> Self {
        Self {
            products: vec![[64, 64, 64], [32, 64, 8]],
            copy_bytes: 1 << 20,
            launches: 20,
            heads: 2,
            head_sizes: vec![16],
            lengths: vec![32],
            patience: Duration::from_millis(50),
        }
    }
}

/// Measures one part on `device`, and tells of every measurement as soon as it is made. What fails is a measurement
/// without a value that says why; the others go on.
pub fn measure(part: Part, device: &Device, sizes: &Sizes, tell: &mut dyn FnMut(Measure)) {
    let mut probe = Probe { device, sizes, tell };
    match part {
        Part::MatrixProduct => probe.products(),
        Part::Copy => probe.copies(),
        Part::Launch => probe.launches(),
        Part::Attention => probe.attention(),
    }
}

struct Probe<'a> {
    device: &'a Device,
    sizes: &'a Sizes,
    tell: &'a mut dyn FnMut(Measure),
}

/// What a number means.
struct Quantity {
    group: &'static str,
    unit: &'static str,
    higher_is_better: bool,
}

const PRODUCT: Quantity = Quantity { group: "matrix product", unit: "TFLOP/s", higher_is_better: true };
const COPY: Quantity = Quantity { group: "copy", unit: "GB/s", higher_is_better: true };
const LAUNCH: Quantity = Quantity { group: "launch", unit: "us", higher_is_better: false };
const ATTENTION: Quantity = Quantity { group: "attention", unit: "ms", higher_is_better: false };

impl Probe<'_> {
    /// Tells of one measurement; a panic of the backend is a failure of this one alone.
    fn one(&mut self, quantity: &Quantity, name: String, value: impl FnOnce(&Self) -> Result<f64, String>) {
        let got =
            catch_unwind(AssertUnwindSafe(|| value(self))).unwrap_or_else(|panic| Err(panic_text(&*panic)));
        let (value, note) = match got {
            Ok(value) => (Some(value), None),
            Err(note) => (None, Some(note)),
        };
        (self.tell)(Measure {
            group: quantity.group.to_owned(),
            name,
            unit: quantity.unit.to_owned(),
            higher_is_better: quantity.higher_is_better,
            value,
            note,
        });
    }

    /// Median seconds of `work`, the device synchronised around each run. Its result is alive until the clock is
    /// read: fusion leaves out what nobody can see. The first runs, which compile and tune, do not count.
    fn seconds<T>(&self, mut work: impl FnMut() -> T) -> Result<f64, String> {
        let mut run = || {
            let failed = |error| format!("the device failed: {error:?}");
            self.device.sync().map_err(failed)?;
            let start = Instant::now();
            let result = work();
            self.device.sync().map_err(failed)?;
            let seconds = start.elapsed().as_secs_f64();
            drop(result);
            Ok::<f64, String>(seconds)
        };
        for _ in 0..3 {
            run()?;
        }
        let begin = Instant::now();
        let mut seconds = Vec::new();
        while seconds.len() < 3 || (seconds.len() < 20 && begin.elapsed() < self.sizes.patience) {
            seconds.push(run()?);
        }
        percentile(&seconds, 50.0).ok_or_else(|| "no run was timed".to_owned())
    }

    fn random<const D: usize>(&self, shape: [usize; D], dtype: DType) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), (self.device, dtype))
    }

    fn products(&mut self) {
        for [rows, inner, columns] in self.sizes.products.clone() {
            for dtype in [DType::BF16, DType::F32] {
                let name = format!("{rows} x {inner} x {columns} {}", short(dtype));
                self.one(&PRODUCT, name, |probe| {
                    let (a, b) = (probe.random([rows, inner], dtype), probe.random([inner, columns], dtype));
                    let seconds = probe.seconds(|| a.clone().matmul(b.clone()))?;
                    Ok(2.0 * (rows * inner * columns) as f64 / seconds / 1e12)
                });
            }
        }
    }

    fn copies(&mut self) {
        let bytes = self.sizes.copy_bytes;
        let rate = move |bytes: usize, seconds: f64| bytes as f64 / seconds / 1e9;
        let size = format!("{} MiB", bytes >> 20);
        self.one(&COPY, format!("on the device, {size} read and as much written"), |probe| {
            let x = probe.random([bytes / 4], DType::F32);
            Ok(rate(2 * bytes, probe.seconds(|| x.clone().neg())?))
        });
        // from and to pageable memory, as a checkpoint is loaded and saved
        let part = bytes / 8;
        let size = format!("{} MiB", part as f64 / f64::from(1 << 20));
        self.one(&COPY, format!("to the device, {size}"), |probe| {
            let data = TensorData::new(vec![1.0_f32; part / 4], [part / 4]);
            let seconds =
                probe.seconds(|| Tensor::<1>::from_data(data.clone(), (probe.device, DType::F32)))?;
            Ok(rate(part, seconds))
        });
        self.one(&COPY, format!("from the device, {size}"), |probe| {
            let x = probe.random([part / 4], DType::F32);
            Ok(rate(part, probe.seconds(|| x.clone().into_data())?))
        });
    }

    fn launches(&mut self) {
        let count = self.sizes.launches;
        self.one(&LAUNCH, "16 x 16 x 16 f32 product, each needs the last one's result".to_owned(), |probe| {
            let (x, w) = (probe.random([16, 16], DType::F32), probe.random([16, 16], DType::F32) * 0.01);
            let seconds = probe.seconds(|| (0..count).fold(x.clone(), |x, _| x.matmul(w.clone())))?;
            Ok(seconds / count as f64 * 1e6)
        });
    }

    fn attention(&mut self) {
        let heads = self.sizes.heads;
        for length in self.sizes.lengths.clone() {
            for head in self.sizes.head_sizes.clone() {
                let shape = [1, heads, length, head];
                let ours = |q: Tensor<4>, k, v, device: &Device| {
                    attention(q, k, v, Some(causal_mask(length, 0, None, device)), |p| p)
                };
                let burns = |q: Tensor<4>, k, v, _: &Device| {
                    let options =
                        AttentionModuleOptions { is_causal: true, ..AttentionModuleOptions::default() };
                    fused_attention(q, k, v, None, None, options)
                };
                let place = format!("{heads} heads of {head}, length {length}, bf16, causal");
                self.forward_backward(&place, "composed", shape, ours);
                self.forward_backward(&place, "fused", shape, burns);
            }
        }
    }

    fn forward_backward(
        &mut self,
        place: &str,
        which: &str,
        shape: [usize; 4],
        attend: impl Fn(Tensor<4>, Tensor<4>, Tensor<4>, &Device) -> Tensor<4>,
    ) {
        self.one(&ATTENTION, format!("{place}: {which}, forward"), |probe| {
            let [q, k, v] = [(); 3].map(|()| probe.random(shape, DType::BF16));
            Ok(probe.seconds(|| attend(q.clone(), k.clone(), v.clone(), probe.device))? * 1e3)
        });
        self.one(&ATTENTION, format!("{place}: {which}, with backward"), |probe| {
            let device = probe.device.clone().autodiff();
            let make = |()| Tensor::from_inner(probe.random(shape, DType::BF16)).require_grad();
            let [q, k, v] = [(); 3].map(make);
            let work = || {
                let mut gradients = attend(q.clone(), k.clone(), v.clone(), &device).sum().backward();
                [&q, &k, &v].map(|x| x.grad_remove(&mut gradients))
            };
            Ok(probe.seconds(work)? * 1e3)
        });
    }
}

fn short(dtype: DType) -> &'static str {
    if dtype == DType::BF16 { "bf16" } else { "f32" }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    let first = text.unwrap_or("the backend panicked").lines().find(|line| !line.trim().is_empty());
    first.unwrap_or("the backend panicked").chars().take(160).collect()
}

/// Whether `bytes` can be had from the device at once. Run it in a process of its own: a driver that refuses may
/// leave a context in which nothing works any more.
pub fn can_allocate(device: &Device, bytes: u64) -> bool {
    let allocate = || {
        let x = Tensor::<1>::empty([bytes as usize / 4], (device, DType::F32));
        let done = device.sync().is_ok();
        drop(x);
        done
    };
    catch_unwind(AssertUnwindSafe(allocate)).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_measures_and_a_failure_stays_alone() {
        let (device, sizes) = (Device::flex(), Sizes::tiny());
        for part in Part::ALL {
            let mut measures = Vec::new();
            measure(part, &device, &sizes, &mut |measure| measures.push(measure));
            assert!(!measures.is_empty());
            for measure in &measures {
                assert!(measure.value.is_some_and(|value| value > 0.0), "{measure:?}");
            }
        }
        let mut measures = Vec::new();
        let mut tell = |measure| measures.push(measure);
        let mut probe = Probe { device: &device, sizes: &sizes, tell: &mut tell };
        probe.one(&COPY, "a bad one".to_owned(), |_| panic!("no {}", "room"));
        probe.one(&COPY, "a good one".to_owned(), |_| Ok(1.0));
        assert_eq!((measures[0].value, measures[0].note.as_deref()), (None, Some("no room")));
        assert_eq!(measures[1].value, Some(1.0));
    }

    #[test]
    fn allocates_what_there_is() {
        assert!(can_allocate(&Device::flex(), 1 << 20));
    }
}
