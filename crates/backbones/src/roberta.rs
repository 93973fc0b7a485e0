//! RoBERTa (Liu et al. 2019, arXiv 1907.11692): BERT's encoder with positions that count real tokens, from
//! behind the padding token's id on, and a head of two layers in place of the pooler.

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use peftlab_layers::{Backbone, Builder, Context, Dimensions, ModelInput, Output, Projection, Role, Sites};

use crate::bert::{self, BertConfig, Embeddings, Encoder};
use crate::{BackboneError, Head};

/// `RobertaForSequenceClassification`.
#[derive(Module, Debug)]
pub struct Roberta {
    roberta: RobertaModel,
    classifier: ClassificationHead,
}

#[derive(Module, Debug)]
struct RobertaModel {
    embeddings: Embeddings,
    encoder: Encoder,
    #[module(skip)]
    padding_token: i64,
}

#[derive(Module, Debug)]
struct ClassificationHead {
    dense: Projection,
    out_proj: Projection,
    #[module(skip)]
    dropout: f64,
}

pub(crate) fn build(
    config: &BertConfig,
    head: Head,
    builder: &Builder<'_>,
) -> Result<Box<dyn Backbone>, BackboneError> {
    Ok(Box::new(Roberta::new(config, config.head_outputs(head)?, builder)?))
}

impl Roberta {
    /// Builds the network with a head of `outputs` columns; every parameter is frozen.
    ///
    /// # Errors
    /// Where the configuration is not one, or a parameter cannot be had.
    pub fn new(config: &BertConfig, outputs: usize, builder: &Builder<'_>) -> Result<Self, BackboneError> {
        config.check()?;
        let hidden = config.hidden_size;
        let padding_token = config.pad_token_id.unwrap_or(1);
        if !(0..config.vocab_size as i64).contains(&padding_token) {
            return Err(BackboneError::Config(format!(
                "pad_token_id = {padding_token} is no token of the {} in the vocabulary, and RoBERTa counts positions \
                 from it; it is 1 in the models there are",
                config.vocab_size
            )));
        }
        let base = builder.at("roberta");
        let head =
            |name, outputs| builder.at("classifier").at(name).projection(Role::Head, [hidden, outputs], true);
        Ok(Self {
            roberta: RobertaModel {
                embeddings: Embeddings::new(config, Some(padding_token), &base.at("embeddings"))?,
                encoder: Encoder::new(config, &base.at("encoder"))?,
                padding_token,
            },
            classifier: ClassificationHead {
                dense: head("dense", hidden)?,
                out_proj: head("out_proj", outputs)?,
                dropout: config.classifier_dropout(),
            },
        })
    }
}

impl RobertaModel {
    /// Position ids for `added + length` vectors. Where a method put vectors in front, `transformers` no
    /// longer sees which tokens are padding, and counts every position.
    fn positions(&self, ids: &Tensor<2, Int>, added: usize, offset: usize) -> Tensor<2, Int> {
        let [batch, length] = ids.dims();
        let (pad, device) = (self.padding_token, ids.device());
        if added > 0 {
            let count = added + length;
            let positions = Tensor::<1, Int>::arange(pad + 1..pad + 1 + count as i64, &device);
            return positions.reshape([1, count]).expand([batch, count]);
        }
        let real = ids.clone().not_equal_elem(pad).int();
        (real.clone().cumsum(1) + offset as i64) * real + pad
    }

    fn forward(&self, input: &ModelInput, context: &Context) -> Tensor<3> {
        let positions = |added| self.positions(&input.input_ids, added, context.position_offset());
        let embedded = self.embeddings.forward(input, positions, context);
        self.encoder.forward(embedded, context)
    }
}

impl Backbone for Roberta {
    fn forward(&self, input: &ModelInput, context: &Context) -> Output {
        let hidden = self.roberta.forward(input, context);
        let [batch, _, width] = hidden.dims();
        let first = hidden.slice([0..batch, 0..1, 0..width]);
        let ClassificationHead { dense, out_proj, dropout } = &self.classifier;
        let dense = dense.forward(context.dropout(first, *dropout), context).tanh();
        let logits = out_proj.forward(context.dropout(dense, *dropout), context);
        Output::Sequence(logits.squeeze_dim(1))
    }

    fn sites(&mut self) -> Sites<'_> {
        let RobertaModel { embeddings, encoder, .. } = &mut self.roberta;
        let ClassificationHead { dense, out_proj, .. } = &mut self.classifier;
        bert::sites(embeddings, encoder, vec![dense, out_proj])
    }

    fn dimensions(&self) -> Dimensions {
        let dimensions = self.roberta.encoder.dimensions;
        // positions count from behind the padding token's id: those up to it are never a token's
        let taken = self.roberta.padding_token as usize + 1;
        Dimensions { positions: dimensions.positions.saturating_sub(taken), ..dimensions }
    }

    fn token_embeddings(&self) -> Tensor<2> {
        self.roberta.embeddings.word_embeddings.weight.val()
    }

    fn is_head(&self, parameter: &str) -> bool {
        parameter.starts_with("classifier.")
    }
}
