//! Codecs whose latents are what a trained network makes of a row, less what it makes of the row's base (DeltaKV, section 4).

use std::sync::Arc;

use half::f16;
use longwave_contract::kv::{LatentShape, ReferenceShape, ScaleRule};
use longwave_contract::op::{Activate, Activation, Linear, LinearAdd};
use longwave_contract::{CheckError, DType, Recording, Tensor};

use super::{
    Codec, Component, Decoder, EncodeTensors, Inner, Parameter, ParameterOf, RestoreTensors,
    Transform, reshaped,
};

/// Columns of matrices come in multiples of this; inner layers are padded with zeros, of which activations make zeros.
const STEP: usize = 32;

/// The layer's mean, which is zero, and below it what the decoder makes of zeros, where that is not zero.
const OFFSET: &str = "mean and offset";

/// What lies before the last matrix of a network.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Hidden {
    pub activation: Activation,
    /// Elements that the activation gives.
    pub size: usize,
    /// The matrix before the activation, `[inputs, columns]` row by row; its inputs are those of the gate first.
    pub weight: Vec<f32>,
    /// What is added to its product.
    pub bias: Option<Vec<f32>>,
}

/// An encoder or a decoder: `outer * f(inner * v + bias) + outer_bias`, or without an inner layer `outer * v + outer_bias`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layers {
    pub hidden: Option<Hidden>,
    /// The last matrix, row by row.
    pub outer: Vec<f32>,
    pub outer_bias: Option<Vec<f32>>,
}

/// With `r` a token's base: `z = down(x) - down(r)`, in f16 or quantised; restored as `r + up(z)`.
///
/// Of an inner layer only changes are computed ([`Activate`]), so that biases of the encoder's last matrix cancel, and the decoder gives exactly
/// zero for the latents of tokens that are stored as they are. What it gives for latents that are all zero, `up(0)`, is a constant, which
/// coded tokens get with their bases.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Blocks, and all parameters.
    rows: Transform,
    down: Option<Width>,
    up: Option<Width>,
}

/// An inner layer on the device.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Width {
    activation: Activation,
    /// Elements that go into the activation.
    inputs: u32,
    /// Elements that come out.
    size: u32,
}

impl Network {
    /// A codec for rows of `cols` elements, whose `rank` latents have `bits` bits and share a scale in groups of `group`.
    pub(super) fn new(
        (cols, rank): (u32, u32),
        (bits, rule, group): (u32, ScaleRule, u32),
        references: ReferenceShape,
        down: &Layers,
        up: &Layers,
    ) -> Self {
        let component = Component {
            bits,
            step: 1.0,
            zero: 0.0,
            energy: 1.0,
        };
        let width = cols as usize;
        let mut rows = Transform::new(
            "network",
            &vec![0.0; width],
            &vec![1.0; width],
            &vec![component; rank as usize],
            None,
            rule,
            group,
            Some(references),
            true,
            0,
        );
        if let Some(offset) = up.at_zero() {
            let words = [vec![0.0; width], offset].concat();
            let words: &[u32] = bytemuck::cast_slice(&words);
            let means = Parameter::of_words(OFFSET, DType::F32, cols, words);
            rows.parameters.push(means);
        }
        let down = down.place(
            ["down", "down.inner", "down.bias"],
            cols,
            &mut rows.parameters,
        );
        let up = up.place(["up", "up.inner", "up.bias"], rank, &mut rows.parameters);
        Network { rows, down, up }
    }

    /// As a codec of a layer.
    pub fn shared(self) -> Arc<dyn Codec> {
        Arc::new(self)
    }

    /// Records bases, residuals, and what the encoder's inner layer makes of them.
    fn encode_inner(
        &self,
        recording: &mut Recording,
        with: &EncodeTensors,
        parameter: ParameterOf<'_>,
        width: Width,
    ) -> Result<Tensor, CheckError> {
        let (rows, count) = (with.residual.rows, with.rows);
        // Bases lie where latents will, which come last.
        let base = reshaped(with.z, rows, self.rows.shape.cols);
        let change = working(&with.inner, 0, rows, width.inputs)?;
        let before = working(&with.inner, 1, rows, width.inputs)?;
        let out = working(&with.inner, 2, rows, width.size)?;
        self.rows.refer(recording, with, parameter, Some(base))?;
        let weight = parameter("down.inner")?;
        recording.push(Linear {
            a: with.residual,
            weight,
            bias: None,
            count,
            out: change,
        })?;
        recording.push(Linear {
            a: base,
            weight,
            bias: Some(parameter("down.bias")?),
            count,
            out: before,
        })?;
        recording.push(Activate {
            change,
            base: before,
            activation: width.activation,
            count,
            out,
        })?;
        Ok(out)
    }

    /// The name of the mean, which may have an offset below.
    fn mean(&self) -> &'static str {
        let mut parameters = self.rows.parameters.iter();
        match parameters.any(|parameter| parameter.name == OFFSET) {
            true => OFFSET,
            false => "mean",
        }
    }
}

impl Layers {
    /// Adds the parameters of these names: the last matrix, and of an inner layer the matrix and bias. `columns` are those of the input.
    fn place(
        &self,
        [outer, inner, bias]: [&'static str; 3],
        columns: u32,
        parameters: &mut Vec<Parameter>,
    ) -> Option<Width> {
        let Some(hidden) = &self.hidden else {
            parameters.push(Parameter::of_halves(outer, columns, &self.outer));
            return None;
        };
        let padded = hidden.size.next_multiple_of(STEP);
        // Each half of the inner layer by itself, and each row of the last matrix.
        let inner_bias = hidden.bias();
        let pad = |values: &[f32], row: usize| -> Vec<f32> {
            let parts = values.chunks(hidden.size * row);
            let zeros = vec![0.0; (padded - hidden.size) * row];
            parts.flat_map(|part| [part, &zeros].concat()).collect()
        };
        let weight = pad(&hidden.weight, columns as usize);
        let inner_bias = pad(&inner_bias, 1);
        parameters.extend([
            Parameter::of_halves(inner, columns, &weight),
            Parameter::of_row(bias, &inner_bias),
            Parameter::of_halves(outer, padded as u32, &pad(&self.outer, 1)),
        ]);
        Some(Width {
            activation: hidden.activation,
            inputs: inner_bias.len() as u32,
            size: padded as u32,
        })
    }

    /// What it makes of zeros, with weights as they are on the device; nothing where that is zeros.
    fn at_zero(&self) -> Option<Vec<f32>> {
        let mut found: Vec<f64> = match &self.hidden {
            None => Vec::new(),
            Some(hidden) => {
                let activated = hidden.at_zero();
                let product = |row: &[f32]| {
                    let terms = row.iter().zip(&activated);
                    terms
                        .map(|(&weight, value)| f16::from_f32(weight).to_f64() * value)
                        .sum()
                };
                self.outer.chunks(hidden.size).map(product).collect()
            }
        };
        if let Some(bias) = &self.outer_bias {
            found.resize(bias.len(), 0.0);
            for (found, &bias) in found.iter_mut().zip(bias) {
                *found += f64::from(bias);
            }
        }
        let found: Vec<f32> = found.into_iter().map(|value| value as f32).collect();
        found.iter().any(|&value| value != 0.0).then_some(found)
    }
}

impl Hidden {
    /// The bias, zeros where there is none.
    fn bias(&self) -> Vec<f32> {
        let zeros = || match self.activation {
            Activation::Gelu => vec![0.0; self.size],
            Activation::SwiGlu => vec![0.0; 2 * self.size],
        };
        self.bias.clone().unwrap_or_else(zeros)
    }

    /// What the activation makes of the bias alone.
    fn at_zero(&self) -> Vec<f64> {
        let bias: Vec<f64> = self.bias().into_iter().map(f64::from).collect();
        match self.activation {
            Activation::Gelu => bias
                .iter()
                .map(|v| 0.5 * v * libm::erfc(-v * std::f64::consts::FRAC_1_SQRT_2))
                .collect(),
            Activation::SwiGlu => {
                let (gate, linear) = bias.split_at(self.size);
                let pairs = gate.iter().zip(linear);
                pairs.map(|(v, by)| v / (1.0 + (-v).exp()) * by).collect()
            }
        }
    }
}

/// Working memory `index` of inner layers.
fn working(
    inner: &[Option<Tensor>; 3],
    index: usize,
    rows: u32,
    cols: u32,
) -> Result<Tensor, CheckError> {
    let tensor = inner[index].map(|tensor| reshaped(tensor, rows, cols));
    tensor.ok_or_else(|| CheckError {
        op: "network",
        operand: "inner",
        expected: format!("working memory for {rows} rows of {cols} elements"),
        found: "none".into(),
    })
}

impl Codec for Network {
    fn name(&self) -> &'static str {
        self.rows.name
    }

    fn shape(&self) -> LatentShape {
        self.rows.shape
    }

    fn parameters(&self) -> Vec<Parameter> {
        self.rows.parameters.clone()
    }

    fn inner(&self) -> Inner {
        let widths = |width: Option<Width>| width.map_or((0, 0), |w| (w.inputs, w.size));
        let (down, up) = (widths(self.down), widths(self.up));
        Inner {
            encode: [down.0, down.0, down.1],
            // The decoder's base is its bias, which is a parameter.
            restore: [up.0, 0, up.1],
        }
    }

    fn encode(
        &self,
        recording: &mut Recording,
        with: &EncodeTensors,
        parameter: ParameterOf<'_>,
    ) -> Result<(), CheckError> {
        let (rows, count) = (with.residual.rows, with.rows);
        let a = match self.down {
            None => {
                self.rows.refer(recording, with, parameter, None)?;
                with.residual
            }
            Some(width) => self.encode_inner(recording, with, parameter, width)?,
        };
        let z = reshaped(with.z, rows, self.rows.shape.rank);
        recording.push(Linear {
            a,
            weight: parameter("down")?,
            bias: None,
            count,
            out: z,
        })?;
        self.rows.pack(recording, with, parameter, z)
    }

    fn decoder(&self, parameter: ParameterOf<'_>) -> Result<Option<Decoder>, CheckError> {
        if self.up.is_some() {
            return Ok(None);
        }
        Ok(Some(Decoder {
            mean: parameter(self.mean())?,
            components: parameter("components")?,
            matrix: Some(parameter("up")?),
        }))
    }

    fn restore(
        &self,
        recording: &mut Recording,
        with: &RestoreTensors,
        parameter: ParameterOf<'_>,
    ) -> Result<(), CheckError> {
        let (rows, count) = (with.out.rows, with.count);
        let z = reshaped(with.z, rows, self.rows.shape.rank);
        let mean = parameter(self.mean())?;
        self.rows
            .unpack(recording, with, parameter, Some(z), mean)?;
        let mut a = z;
        if let Some(width) = self.up {
            let change = working(&with.inner, 0, rows, width.inputs)?;
            a = working(&with.inner, 2, rows, width.size)?;
            recording.push(Linear {
                a: z,
                weight: parameter("up.inner")?,
                bias: None,
                count,
                out: change,
            })?;
            recording.push(Activate {
                change,
                base: parameter("up.bias")?,
                activation: width.activation,
                count,
                out: a,
            })?;
        }
        recording.push(LinearAdd {
            a,
            weight: parameter("up")?,
            bias: None,
            count,
            x: with.out,
        })
    }
}
