//! One network of a checkpoint: what it is, its matrices, and whether `config.json` says the same.

use longwave_contract::op::Activation;
use serde_json::Value;

use super::{Checkpoint, Located, Parts};
use crate::codec::network::{Hidden, Layers};
use crate::error::Error;

/// The most elements of an inner layer.
const WIDEST: u64 = 65_535;

/// How many rows a matrix may have, and how to put that.
type Rows<'a> = (&'a dyn Fn(u64) -> bool, &'a str);

/// What a network is, which the names of its tensors say: its activation, or nothing where it is a matrix.
type Kind = Option<Activation>;

const KINDS: [Kind; 3] = [None, Some(Activation::Gelu), Some(Activation::SwiGlu)];

/// What `config.json` calls it.
const fn name(kind: Kind) -> &'static str {
    match kind {
        None => "linear",
        Some(Activation::Gelu) => "mlp_gelu",
        Some(Activation::SwiGlu) => "mlp_swiglu",
    }
}

/// The last matrix and its bias.
const fn outer(kind: Kind) -> [&'static str; 2] {
    match kind {
        None => ["weight", "bias"],
        Some(Activation::Gelu) => ["2.weight", "2.bias"],
        Some(Activation::SwiGlu) => ["w3.weight", "w3.bias"],
    }
}

/// The matrix before the activation and its bias.
const fn inner(activation: Activation) -> [&'static str; 2] {
    match activation {
        Activation::Gelu => ["0.weight", "0.bias"],
        Activation::SwiGlu => ["w12.weight", "w12.bias"],
    }
}

/// What a network is by the names of its tensors, all of which must be its own.
fn kind_of(parts: &Parts<'_>) -> Option<Kind> {
    KINDS.into_iter().find(|&kind| {
        let inner = kind.map_or([""; 2], inner);
        let known = [outer(kind), inner];
        let mut found = parts.keys();
        found.all(|part| known.as_flattened().contains(part))
    })
}

impl Checkpoint {
    /// An encoder (`down`) or a decoder (`up`) of some layer, and how many elements come out of it.
    pub(super) fn layers(
        &self,
        parts: &Parts<'_>,
        (side, of): (&str, &str),
        inputs: u64,
        outputs: Rows<'_>,
    ) -> Result<(Layers, u64), Error> {
        let network = format!("`compress_{side}` of {of}");
        if parts.is_empty() {
            return Err(self.fault(network, "has no tensors"));
        }
        let kind = kind_of(parts).ok_or_else(|| {
            let found: Vec<&str> = parts.keys().copied().collect();
            let why = format!("has tensors {found:?}, of which no network is known");
            self.fault(network, why)
        })?;
        let hidden = kind.map(|activation| self.hidden(parts, activation, inputs));
        let hidden = hidden.transpose()?;
        self.check_settings(kind, hidden.as_ref(), side, of)?;
        let columns = hidden.as_ref().map_or(inputs, |hidden| hidden.size as u64);
        let [weight, bias] = outer(kind);
        let (weight, rows) = self.matrix(parts, weight, outputs, columns)?;
        let layers = Layers {
            hidden,
            outer: weight,
            outer_bias: self.bias(parts, bias, rows)?,
        };
        Ok((layers, rows))
    }

    /// What lies before the last matrix.
    fn hidden(
        &self,
        parts: &Parts<'_>,
        activation: Activation,
        inputs: u64,
    ) -> Result<Hidden, Error> {
        let [weight, bias] = inner(activation);
        let (each, expected) = match activation {
            Activation::Gelu => (1, format!("1 to {WIDEST}")),
            Activation::SwiGlu => (2, format!("an even number up to {}", 2 * WIDEST)),
        };
        let fits = |rows: u64| rows > 0 && rows.is_multiple_of(each) && rows / each <= WIDEST;
        let (weight, rows) = self.matrix(parts, weight, (&fits, &expected), inputs)?;
        Ok(Hidden {
            activation,
            size: (rows / each) as usize,
            weight,
            bias: self.bias(parts, bias, rows)?,
        })
    }

    /// Whether `config.json` says the same of a network as its tensors.
    fn check_settings(
        &self,
        kind: Kind,
        hidden: Option<&Hidden>,
        side: &str,
        of: &str,
    ) -> Result<(), Error> {
        let tensors = format!("{} as the tensors of {of} are", name(kind));
        let setting = format!("compressor_{side}_type");
        match self.setting(&setting) {
            // It is then what another setting says, or else what the tensors are.
            Some(found) if found == "auto" => {
                let setting = "use_nonlinear_compressor";
                let nonlinear = self.setting(setting);
                let expected = match nonlinear.and_then(Value::as_bool) {
                    Some(true) => Some(Activation::Gelu),
                    Some(false) => None,
                    None => kind,
                };
                if let Some(value) = nonlinear.filter(|_| expected != kind) {
                    let expected = format_args!("what gives {tensors}");
                    return Err(self.disagree(setting, value, expected));
                }
            }
            Some(found) if found != name(kind) => {
                return Err(self.disagree(&setting, found, tensors));
            }
            _ => {}
        }
        let Some(hidden) = hidden else {
            return Ok(());
        };
        // The first that is above 0 counts.
        let own = format!("compressor_{side}_intermediate_size");
        for setting in [own.as_str(), "compressor_intermediate_size"] {
            let Some(value) = self.setting(setting) else {
                continue;
            };
            let size = value.as_i64();
            let size = size.ok_or_else(|| self.disagree(setting, value, "a whole number"))?;
            if size > 0 && size != hidden.size as i64 {
                let expected = format_args!("{} as the tensors of {of} have", hidden.size);
                return Err(self.disagree(setting, value, expected));
            }
            if size > 0 {
                break;
            }
        }
        Ok(())
    }

    /// The weights of a matrix of `cols` columns, row by row, and its rows.
    fn matrix(
        &self,
        parts: &Parts<'_>,
        part: &str,
        (fits, expected): Rows<'_>,
        cols: u64,
    ) -> Result<(Vec<f32>, u64), Error> {
        let Some(&(file, name)) = parts.get(part) else {
            let others: Vec<&str> = parts.values().map(|(_, name)| *name).collect();
            let why = format!("is missing beside {others:?}");
            return Err(self.fault(format!("tensor `{part}`"), why));
        };
        let shape = &file.tensor(name)?.shape;
        match shape[..] {
            [rows, found] if found == cols && fits(rows) => Ok((self.numbers((file, name))?, rows)),
            _ => {
                let why = format!("has the shape {shape:?}, expected [{expected}, {cols}]");
                Err(self.fault(format!("tensor `{name}`"), why))
            }
        }
    }

    /// A bias of this length, where there is one.
    fn bias(&self, parts: &Parts<'_>, part: &str, length: u64) -> Result<Option<Vec<f32>>, Error> {
        let Some(&(file, name)) = parts.get(part) else {
            return Ok(None);
        };
        let shape = &file.tensor(name)?.shape;
        if *shape != [length] {
            let why = format!("has the shape {shape:?}, expected [{length}]");
            return Err(self.fault(format!("tensor `{name}`"), why));
        }
        self.numbers((file, name)).map(Some)
    }

    /// The numbers of a tensor in order.
    fn numbers(&self, (file, name): Located<'_>) -> Result<Vec<f32>, Error> {
        let rows = file.rows(name)?;
        let (count, cols) = (rows.rows(), rows.cols());
        let mut values = vec![0.0; count as usize * cols as usize];
        for (row, out) in (0..count).zip(values.chunks_mut(cols.max(1) as usize)) {
            rows.dequantize(row, out)?;
        }
        let largest = half::f16::MAX.to_f32();
        if !values.iter().all(|value| value.abs() <= largest) {
            let why = "holds what is no number, or beyond 16 bits";
            return Err(self.fault(format!("tensor `{name}`"), why));
        }
        Ok(values)
    }
}
