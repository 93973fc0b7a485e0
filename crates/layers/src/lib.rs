//! What every backbone is built of, and the *sites* where a method can act.
//!
//! Backbones and methods do not know each other: both know what is in this crate.

mod attention;
mod build;
mod context;
mod erased;
mod model;
pub mod params;
mod plain;
mod projection;
mod sites;

pub use attention::{Attention, AttentionAdapter, AttentionMask, AttentionSite, KeysValues};
pub use build::{BuildError, BuildLog, Builder, HeadRows, Init, Initializer, Weights, name_hash};
pub use context::{Context, Mode, ModelInput, Output};
pub use erased::{Attached, ErasedMapper, ErasedModule, ErasedVisitor, Kind};
pub use model::Model;
pub use plain::{Embedding, LayerNorm, Linear, RmsNorm};
pub use projection::{Inner, Merged, Projection, ProjectionAdapter, ProjectionInfo, Role, Weight};
pub use sites::{
    Backbone, BlockAdapter, BlockSite, Dimensions, EmbeddingAdapter, EmbeddingSite, ModelAdapter, Sites,
    SubLayer, SubLayerOutput,
};
