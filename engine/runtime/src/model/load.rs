//! Bringing a model's weights to a device.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use longwave_contract::{Allocation, Backend, BufferDesc, DType, Tensor};

use super::fit::Fit;
use super::layout::places;
use super::names::Name;
use super::source::ModelSource;
use super::{Model, Rope, Weights};
use crate::engine::EngineOptions;
use crate::error::Error;
use crate::format::repack::{Rows, repack_rows};

/// Bytes that are repacked and uploaded at a time: what loading holds on the host beside the mapped file.
const UPLOAD: u64 = 16 << 20;

/// How far loading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadEvent {
    /// Bytes that are on the device.
    pub done: u64,
    /// Bytes that will be.
    pub total: u64,
}

/// What a model's weights come to on a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WeightSummary {
    /// Bytes for each element type, by its name.
    pub bytes_by_type: BTreeMap<&'static str, u64>,
    /// Bytes in total, row padding included.
    pub bytes: u64,
    /// Weights in total.
    pub parameters: u64,
}

/// Where a tensor of the file goes.
struct Placement<'s> {
    name: Name,
    rows: Rows<'s>,
    dtype: DType,
}

impl ModelSource {
    /// What the weights will come to on a device.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn summary(&self) -> Result<WeightSummary, Error> {
        let mut summary = WeightSummary::default();
        for placement in self.placements()? {
            let bytes = placement.desc(self).bytes;
            *summary
                .bytes_by_type
                .entry(placement.dtype.name())
                .or_default() += bytes;
            summary.bytes += bytes;
            summary.parameters +=
                u64::from(placement.rows.rows()) * u64::from(placement.rows.cols());
        }
        Ok(summary)
    }

    /// Every tensor that the model needs, with its shape checked.
    fn placements(&self) -> Result<Vec<Placement<'_>>, Error> {
        let places = places(self.config(), |name| Ok(self.find(name)?.is_some()))?;
        let placements = places.into_iter().map(|place| match place.matrix {
            true => self.placement(place.name, &[u64::from(place.rows), u64::from(place.cols)]),
            false => self.placement(place.name, &[u64::from(place.cols)]),
        });
        placements.collect()
    }

    fn placement(&self, name: Name, shape: &[u64]) -> Result<Placement<'_>, Error> {
        let text = self.convention().name(name);
        let rows = self
            .find(name)?
            .ok_or_else(|| self.fault(format!("tensor `{text}`"), "is missing"))?;
        let found = &rows.tensor().shape;
        if found != shape {
            return Err(self.fault(
                format!("tensor `{text}`"),
                format!("has the shape {found:?}, expected {shape:?}"),
            ));
        }
        Ok(Placement {
            name,
            dtype: rows.target(),
            rows,
        })
    }
}

impl Placement<'_> {
    fn desc(&self, source: &ModelSource) -> BufferDesc {
        let label = source.convention().name(self.name);
        BufferDesc::of(label, self.dtype, self.rows.rows(), self.rows.cols())
    }
}

impl Model {
    /// Brings a model's weights to a device, quantised weights in the layout that [`crate::format::repack`] gives them.
    ///
    /// `options` is what the engine will be made with: the model is refused before anything is loaded when weights, cache and working memory
    /// together exceed what the device has free.
    ///
    /// # Errors
    /// A tensor is missing, misshapen or holds what it must not, the model does not fit, or the device fails.
    pub fn load(
        backend: &Arc<dyn Backend>,
        source: &ModelSource,
        options: &EngineOptions,
        progress: &mut dyn FnMut(LoadEvent),
    ) -> Result<Model, Error> {
        let placements = source.placements()?;
        let rope = Rope::desc(source.config(), options.context);
        let descs: Vec<BufferDesc> = placements
            .iter()
            .map(|placement| placement.desc(source))
            .collect();
        let total = descs.iter().map(|desc| desc.bytes).sum::<u64>() + rope.bytes;
        let name = source.path().display().to_string();
        let fit = Fit::new(backend, (&name, source.config()), options, total);
        fit.check()?;
        let mut buffers = fit.reserve(&descs)?;

        let mut loader = Loader {
            backend,
            source,
            progress,
            done: 0,
            total,
            tensors: HashMap::new(),
        };
        for (placement, buffer) in placements.iter().zip(&buffers) {
            loader.load(placement, buffer)?;
        }
        let tensors = loader.tensors;
        let (rope, rope_buffer) = Rope::place(backend, source.config(), options.context)?;
        buffers.push(rope_buffer);
        let missing = |name| {
            let name = source.convention().name(name);
            source.fault(format!("tensor `{name}`"), "is missing")
        };
        Ok(Model {
            backend: Arc::clone(backend),
            path: source.path().to_path_buf(),
            config: source.config().clone(),
            weights: Weights::new(source.config(), &tensors, rope, buffers, missing)?,
        })
    }
}

impl Model {
    /// A model of which only the room is taken: its weights are not read. What it computes is nothing; it serves to count what an engine takes.
    ///
    /// # Errors
    /// A tensor is missing or misshapen, or there is no room.
    pub fn outline(
        backend: &Arc<dyn Backend>,
        source: &ModelSource,
        options: &EngineOptions,
    ) -> Result<Model, Error> {
        let mut tensors = HashMap::new();
        let mut buffers = Vec::new();
        for placement in source.placements()? {
            let buffer = Allocation::new(backend, &placement.desc(source))?;
            let (rows, cols) = (placement.rows.rows(), placement.rows.cols());
            let tensor = Tensor::new(buffer.id(), placement.dtype, rows, cols);
            tensors.insert(placement.name, tensor);
            buffers.push(buffer);
        }
        let (rope, rope_buffer) = Rope::place(backend, source.config(), options.context)?;
        buffers.push(rope_buffer);
        let missing = |name| {
            let name = source.convention().name(name);
            source.fault(format!("tensor `{name}`"), "is missing")
        };
        Ok(Model {
            backend: Arc::clone(backend),
            path: source.path().to_path_buf(),
            config: source.config().clone(),
            weights: Weights::new(source.config(), &tensors, rope, buffers, missing)?,
        })
    }
}

struct Loader<'l> {
    backend: &'l Arc<dyn Backend>,
    source: &'l ModelSource,
    progress: &'l mut dyn FnMut(LoadEvent),
    done: u64,
    total: u64,
    tensors: HashMap<Name, Tensor>,
}

impl Loader<'_> {
    fn load(&mut self, placement: &Placement<'_>, buffer: &Allocation) -> Result<(), Error> {
        let desc = placement.desc(self.source);
        let (rows, cols) = (placement.rows.rows(), placement.rows.cols());
        let order = self.source.row_order(placement.name);
        let mut offset = 0;
        if rows == 1 && order.is_some() {
            // A permuted bias: its columns are the rows of its matrix.
            let mut values = vec![0.0f32; cols as usize];
            placement.rows.dequantize(0, &mut values)?;
            let moved: Vec<f32> = order
                .iter()
                .flatten()
                .filter_map(|&index| values.get(index as usize).copied())
                .collect();
            self.backend
                .write(buffer.id(), 0, bytemuck::cast_slice(&moved))?;
            self.advance(desc.bytes);
        } else {
            let order = order.unwrap_or_else(|| (0..rows).collect());
            let at_once = (UPLOAD / desc.row).max(1) as usize;
            let mut staging = Vec::new();
            for rows in order.chunks(at_once) {
                staging.clear();
                staging.resize(rows.len() * desc.row as usize, 0);
                repack_rows(&placement.rows, placement.dtype, Some(rows), &mut staging)?;
                self.backend.write(buffer.id(), offset, &staging)?;
                offset += staging.len() as u64;
                self.advance(staging.len() as u64);
            }
        }
        self.tensors.insert(
            placement.name,
            Tensor::new(buffer.id(), placement.dtype, rows, cols),
        );
        Ok(())
    }

    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        (self.progress)(LoadEvent {
            done: self.done,
            total: self.total,
        });
    }
}
