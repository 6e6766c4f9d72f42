//! Codecs whose latents are a linear map of the residual.

use std::sync::Arc;

use longwave_contract::kv::{ComponentDesc, LatentShape, ReferenceShape, ScaleRule};
use longwave_contract::op::{Linear, LinearAdd, Pack, Refer, Unpack};
use longwave_contract::{CheckError, DType, Recording, Tensor};

use super::{Codec, Decoder, EncodeTensors, Parameter, ParameterOf, RestoreTensors, reshaped};

/// How one latent is coded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Component {
    /// Bits of its code.
    pub bits: u32,
    /// The distance of two codes, in units of the scale.
    pub step: f32,
    /// The code that stands for 0.
    pub zero: f32,
    /// The weight of an error, in the units of the metric.
    pub energy: f32,
}

/// With `r` a token's base: `z = down * (x - r)`, quantised; restored as `r + up * z`.
#[derive(Clone, Debug, PartialEq)]
pub struct Transform {
    pub(crate) name: &'static str,
    pub(crate) shape: LatentShape,
    pub(crate) parameters: Vec<Parameter>,
    /// Whether the maps rotate whole heads: see [`Codec::is_rotated`].
    pub(crate) rotated: bool,
}

impl Transform {
    /// A codec from its matrices.
    ///
    /// `mean` and `metric` have an element for each column; `maps` is `down` (`[rank, cols]`) and `up` (`[cols, rank]`), both row by row, or
    /// `None` where latents are the residual itself.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one part of the codec, named where it is made"
    )]
    pub(crate) fn new(
        name: &'static str,
        mean: &[f32],
        metric: &[f32],
        components: &[Component],
        maps: Option<(Parameter, Parameter)>,
        rule: ScaleRule,
        group: u32,
        references: Option<ReferenceShape>,
        exact_f16: bool,
        escapes: u32,
    ) -> Self {
        let (cols, rank) = (mean.len() as u32, components.len() as u32);
        let mut offset = 0;
        let mut words = Vec::with_capacity(components.len() * 4);
        for component in components {
            let desc = ComponentDesc {
                offset,
                bits: component.bits,
                step: component.step,
                zero: component.zero,
            };
            words.extend_from_slice(bytemuck::cast_slice::<ComponentDesc, u32>(&[desc]));
            offset += component.bits;
        }
        let energy: Vec<f32> = components
            .iter()
            .map(|component| component.energy)
            .collect();
        let mut parameters = vec![
            Parameter::of_row("mean", mean),
            Parameter::of_row("metric", metric),
            Parameter::of_row("energy", &energy),
            Parameter::of_words("components", DType::U32, ComponentDesc::WORDS, &words),
        ];
        if let Some((down, up)) = maps {
            parameters.extend([down, up]);
        }
        Transform {
            name,
            shape: LatentShape {
                cols,
                rank,
                code_bits: offset,
                group,
                rule,
                references,
                exact_f16,
                escapes,
            },
            parameters,
            rotated: false,
        }
    }

    /// Latents that are the residual itself, in f16, with references in f16: restores to rounding.
    pub fn identity(cols: u32, references: Option<ReferenceShape>) -> Self {
        let component = Component {
            bits: 16,
            step: 1.0,
            zero: 0.0,
            energy: 1.0,
        };
        let width = cols as usize;
        Transform::new(
            "identity",
            &vec![0.0; width],
            &vec![1.0; width],
            &vec![component; width],
            None,
            ScaleRule::Plain,
            cols,
            references,
            true,
            0,
        )
    }

    /// The matrices `down` and `up` of a codec from values row by row.
    pub(crate) fn maps(cols: u32, rank: u32, down: &[f32], up: &[f32]) -> (Parameter, Parameter) {
        (
            Parameter::of_halves("down", cols, down),
            Parameter::of_halves("up", rank, up),
        )
    }

    fn has_maps(&self) -> bool {
        self.parameters
            .iter()
            .any(|parameter| parameter.name == "up")
    }

    /// Records what each token is taken against; `base` takes that.
    pub(super) fn refer(
        &self,
        recording: &mut Recording,
        with: &EncodeTensors,
        parameter: ParameterOf<'_>,
        base: Option<Tensor>,
    ) -> Result<(), CheckError> {
        recording.push(Refer {
            staged: with.staged,
            blocks: with.blocks,
            count: with.count,
            entries: with.entries,
            mean: parameter("mean")?,
            metric: parameter("metric")?,
            shape: self.shape,
            latents: with.latents,
            residual: with.residual,
            base,
        })
    }

    /// Records how latents are stored.
    pub(super) fn pack(
        &self,
        recording: &mut Recording,
        with: &EncodeTensors,
        parameter: ParameterOf<'_>,
        z: Tensor,
    ) -> Result<(), CheckError> {
        recording.push(Pack {
            z,
            residual: with.residual,
            staged: with.staged,
            blocks: with.blocks,
            count: with.count,
            entries: with.entries,
            mean: parameter("mean")?,
            metric: parameter("metric")?,
            components: parameter("components")?,
            energy: parameter("energy")?,
            shape: self.shape,
            latents: with.latents,
        })
    }

    /// Records how bases and latents are read; `mean` may have an offset below.
    pub(super) fn unpack(
        &self,
        recording: &mut Recording,
        with: &RestoreTensors,
        parameter: ParameterOf<'_>,
        z: Option<Tensor>,
        mean: Tensor,
    ) -> Result<(), CheckError> {
        recording.push(Unpack {
            tokens: with.tokens,
            stores: with.stores,
            entries: with.entries,
            count: with.count,
            pitch: with.pitch,
            first: with.first,
            raw: with.raw,
            mean,
            components: parameter("components")?,
            shape: self.shape,
            latents: with.latents,
            z,
            out: with.out,
        })
    }

    /// As a codec of a layer.
    pub fn shared(self) -> Arc<dyn Codec> {
        Arc::new(self)
    }
}

impl Codec for Transform {
    fn name(&self) -> &'static str {
        self.name
    }

    fn shape(&self) -> LatentShape {
        self.shape
    }

    fn parameters(&self) -> Vec<Parameter> {
        self.parameters.clone()
    }

    fn encode(
        &self,
        recording: &mut Recording,
        with: &EncodeTensors,
        parameter: ParameterOf<'_>,
    ) -> Result<(), CheckError> {
        self.refer(recording, with, parameter, None)?;
        let z = if self.has_maps() {
            let z = reshaped(with.z, with.residual.rows, self.shape.rank);
            recording.push(Linear {
                a: with.residual,
                weight: parameter("down")?,
                bias: None,
                count: with.rows,
                out: z,
            })?;
            z
        } else {
            with.residual
        };
        self.pack(recording, with, parameter, z)
    }

    fn is_rotated(&self) -> bool {
        self.rotated
    }

    fn decoder(&self, parameter: ParameterOf<'_>) -> Result<Option<Decoder>, CheckError> {
        Ok(Some(Decoder {
            mean: parameter("mean")?,
            components: parameter("components")?,
            matrix: self.has_maps().then(|| parameter("up")).transpose()?,
        }))
    }

    fn restore(
        &self,
        recording: &mut Recording,
        with: &RestoreTensors,
        parameter: ParameterOf<'_>,
    ) -> Result<(), CheckError> {
        let z = self
            .has_maps()
            .then(|| reshaped(with.z, with.out.rows, self.shape.rank));
        self.unpack(recording, with, parameter, z, parameter("mean")?)?;
        match z {
            Some(a) => recording.push(LinearAdd {
                a,
                weight: parameter("up")?,
                bias: None,
                count: with.count,
                x: with.out,
            }),
            None => Ok(()),
        }
    }
}
