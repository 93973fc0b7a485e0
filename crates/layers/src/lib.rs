//! What every backbone is built of, and the *sites* where a method can act.
//!
//! Backbones and methods do not know each other: both know what is in this crate.

mod build;
mod context;
mod erased;
mod model;
pub mod params;
mod sites;

pub use build::{BuildError, Builder, Init, Initializer, Weights};
pub use context::{Context, Mode, ModelInput, Output};
pub use erased::{Attached, ErasedMapper, ErasedModule, ErasedVisitor, Kind};
pub use model::Model;
pub use sites::{
    AttentionAdapter, AttentionMask, AttentionSite, Backbone, BlockAdapter, BlockSite, Dimensions, Embedding,
    EmbeddingAdapter, EmbeddingSite, Inner, KeysValues, LayerNorm, Linear, Merged, ModelAdapter, Projection,
    ProjectionAdapter, ProjectionInfo, RmsNorm, Role, Sites, SubLayer, SubLayerOutput,
};
