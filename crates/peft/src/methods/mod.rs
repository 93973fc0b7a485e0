//! One file a method.

mod bitfit;
mod bottleneck;
mod full;
mod head_only;
mod ia3;
mod lora;
mod prefix_tuning;
mod prompt_tuning;

pub use bitfit::BitFit;
pub use bottleneck::{Houlsby, Parallel, Pfeiffer};
pub use full::Full;
pub use head_only::HeadOnly;
pub use ia3::Ia3;
pub use lora::{Lora, LoraBias};
pub use prefix_tuning::PrefixTuning;
pub use prompt_tuning::{PromptInit, PromptTuning};
