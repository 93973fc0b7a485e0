//! A fine-tuning method of one's own, in a crate of one's own: measured beside all others by the same program.
//!
//! One dependency, this crate; its features are those of the program (`cuda`, `cuda-cpp`, `cubecl-cpu`).
//!
//! ```
//! use peftlab::prelude::*;
//!
//! /// Trains the last layer's norms: a method that attaches nothing.
//! #[derive(Clone, Debug, Default, Serialize, Deserialize)]
//! #[serde(crate = "peftlab::serde", deny_unknown_fields, default)]
//! struct LastNorms {}
//!
//! impl Method for LastNorms {
//!     const CARD: Card = Card {
//!         name: "last-norms",
//!         title: "Norms of the last layer",
//!         family: Family::Partial,
//!         paper: "none",
//!         summary: "The gains and biases of the last layer's norms are trained.",
//!         identity: Identity::Exact,
//!         merge: MergeKind::Already,
//!         not_for: "",
//!         settings: &[],
//!     };
//!
//!     fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
//!         let trained = outline.body().filter(|parameter| self.trains(parameter));
//!         Ok(Count::all(trained.map(ParamInfo::elements).sum()))
//!     }
//!
//!     fn trains(&self, parameter: &ParamInfo) -> bool {
//!         parameter.name.contains(".1.") && parameter.name.to_lowercase().contains("norm")
//!     }
//! }
//!
//! peftlab::main!(LastNorms);
//! ```
//!
//! That is the whole program: `cargo run --release -- check last-norms` holds the method to its card, and
//! `cargo run --release -- run FILE` trains it beside those of this crate. [`check()`] is the same for a test.
//!
//! Two lines are needed for one dependency to be enough: `#[serde(crate = "peftlab::serde")]` on the settings, and `burn`
//! in scope where a module is derived, which the [`prelude`] brings along.

pub use burn;
pub use peftlab_bench as bench;
pub use peftlab_check::{Check, CheckError, Network, Promise, Report, method as check};
pub use peftlab_layers as layers;
pub use peftlab_meter as meter;
pub use peftlab_ops as ops;
pub use peftlab_peft as peft;
pub use serde;
pub use serde_json;

/// What a method is written with.
pub mod prelude {
    // derived modules name it
    pub use burn;
    pub use burn::module::{Module, Param};
    pub use burn::optim::GradientsParams;
    pub use burn::tensor::Tensor;
    pub use peftlab_layers::params::ParamInfo;
    pub use peftlab_layers::{
        Attached, AttentionAdapter, BlockAdapter, Context, EmbeddingAdapter, Initializer, Inner, KeysValues,
        Linear, Merged, Mode, Model, ModelAdapter, Projection, ProjectionAdapter, ProjectionInfo, Role,
        SubLayer, SubLayerOutput, Weight,
    };
    pub use peftlab_ops::{cast_like, linear};
    pub use peftlab_peft::methods::Activation;
    pub use peftlab_peft::methods::checks::{check_dropout, check_rank};
    pub use peftlab_peft::methods::low_rank::{LoraAdapter, LowRank, QUERY_VALUE, attach, attach_ranked};
    pub use peftlab_peft::{
        ALPHA_PATTERN, Card, Count, Course, EXCLUDE_MODULES, Family, Identity, LAYERS_PATTERN,
        LAYERS_TO_TRANSFORM, MergeKind, Method, NotApplicable, Outline, PeftConfig, Policy, RANK_PATTERN,
        RankPatterns, Ranked, Registry, Selection, Targets, adapters_mut,
    };
    pub use serde::{Deserialize, Serialize};
    pub use serde_json::{Value, json};
}

/// The `main` of a program that benchmarks these methods beside all others: `peftlab::main!(Mine, Other);`.
///
/// It installs the allocator that counts, without which records have no peak memory on the host.
#[macro_export]
macro_rules! main {
    ($($method:ty),+ $(,)?) => {
        #[global_allocator]
        static COUNTING_ALLOCATOR: $crate::meter::CountingAllocator = $crate::meter::CountingAllocator::new();

        fn main() -> ::std::process::ExitCode {
            let mut registry = $crate::peft::Registry::standard();
            $(registry.add::<$method>();)+
            $crate::bench::main(&registry)
        }
    };
}
