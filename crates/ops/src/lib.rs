//! Tensor operations the backbones share.
