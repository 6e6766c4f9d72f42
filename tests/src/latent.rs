//! Latent blocks for cases: shapes, components, staged rows and records.

use anyhow::Result;
use half::f16;
use longwave_contract::kv::{
    BLOCK, ComponentDesc, Entry, LatentShape, PAGE, ReferenceShape, ScaleRule, StoreDesc, Tier,
};
use longwave_contract::{DType, Tensor};

use crate::rig::{Rig, Values};

/// What words hold that nobody may read, or that stay.
pub const POISON: u32 = 0x7bff_7bff;

/// A shape without references: 8-bit exact rows, no escapes.
pub fn plain(cols: u32, rank: u32, rule: ScaleRule, group: u32) -> LatentShape {
    let mut shape = LatentShape {
        cols,
        rank,
        code_bits: 0,
        group,
        rule,
        references: None,
        exact_f16: false,
        escapes: 0,
    };
    shape.code_bits = (0..rank).map(|index| bits(&shape, index)).sum();
    shape
}

/// The same with references.
pub fn referring(shape: LatentShape, stride: u32, neighbours: u32) -> LatentShape {
    LatentShape {
        references: Some(ReferenceShape { stride, neighbours }),
        ..shape
    }
}

/// Bits of a latent's code: fewer and fewer for gains, the same for all of a group otherwise.
fn bits(shape: &LatentShape, index: u32) -> u32 {
    match shape.rule {
        ScaleRule::Plain if index % 7 == 6 => 0,
        ScaleRule::Plain => 16,
        ScaleRule::Gain => {
            [8, 5, 3, 6, 1, 2, 0, 4][((index * 8 / shape.rank + index) % 8) as usize]
        }
        ScaleRule::Symmetric if index / shape.group % 2 == 1 => 5,
        ScaleRule::Symmetric => 8,
        ScaleRule::MinMax => 4,
    }
}

/// How the latents of a shape are coded; codes lie in an order of their own.
pub fn components(rig: &mut Rig, shape: &LatentShape) -> Result<(Vec<ComponentDesc>, Tensor)> {
    let mut components = vec![ComponentDesc::default(); shape.rank as usize];
    let mut offset = 0;
    for index in rig.permutation(shape.rank) {
        let bits = bits(shape, index);
        let largest = ((1u32 << bits.min(8)) - 1) as f32;
        let (step, zero) = match shape.rule {
            ScaleRule::Plain | ScaleRule::MinMax => (1.0, 0.0),
            ScaleRule::Gain => (0.01 + 2.0 / (1.0 + largest), largest / 2.0),
            ScaleRule::Symmetric => (0.75, (1u32 << (bits - 1)) as f32 - 1.0),
        };
        components[index as usize] = ComponentDesc {
            offset,
            bits,
            step,
            zero,
        };
        offset += bits;
    }
    let words = ComponentDesc::WORDS;
    let tensor = rig.words(
        DType::U32,
        shape.rank,
        words,
        bytemuck::cast_slice(&components),
    )?;
    Ok((components, tensor))
}

/// Weights that are not negative.
pub fn weights(rig: &mut Rig, cols: u32) -> Result<Tensor> {
    let words: Vec<u32> = (0..cols)
        .map(|_| rig.value(Values::Flat).abs().to_bits())
        .collect();
    rig.words(DType::F32, 1, cols, &words)
}

/// Rows of f16 around a few centres, some columns far from zero as keys have them.
pub fn halves(rig: &mut Rig, rows: u32, cols: u32) -> Result<Tensor> {
    let centres: Vec<f32> = (0..5 * cols)
        .map(|at| rig.value(Values::Flat) + if at % cols % 16 == 3 { 6.0 } else { 0.0 })
        .collect();
    let mut bytes = Vec::new();
    for _ in 0..rows {
        let centre = rig.below(5) * cols;
        for col in 0..cols {
            let value = centres[(centre + col) as usize] + 0.5 * rig.value(Values::Flat);
            bytes.extend(f16::from_f32(value).to_le_bytes());
        }
    }
    rig.bytes(DType::F16, rows, cols, &bytes)
}

fn put_halves(words: &mut [u32], first: u32, values: impl Iterator<Item = f16>) {
    let halves: &mut [u16] = bytemuck::cast_slice_mut(words);
    for (to, value) in halves[first as usize..].iter_mut().zip(values) {
        *to = value.to_bits();
    }
}

/// An exact row at word `at`.
fn put_exact(rig: &mut Rig, shape: &LatentShape, words: &mut [u32], at: u32) {
    let flat = |rig: &mut Rig| f16::from_f32(rig.value(Values::Flat));
    if shape.exact_f16 {
        let values: Vec<f16> = (0..shape.cols).map(|_| flat(rig)).collect();
        put_halves(words, 2 * at, values.into_iter());
        return;
    }
    for word in 0..shape.cols / 4 {
        words[(at + word) as usize] = (rig.bits() as u32) | 0x0101_0101;
    }
    let scales: Vec<f16> = (0..shape.cols / 32)
        .map(|_| f16::from_f32(rig.value(Values::Flat).abs() / 127.0))
        .collect();
    put_halves(words, 2 * (at + shape.cols / 4), scales.into_iter());
}

/// The references of a record, and poison in the rest.
pub fn references(rig: &mut Rig, shape: &LatentShape) -> Vec<u32> {
    let mut words = vec![POISON; shape.words() as usize];
    for index in 0..shape.references_per_block() {
        put_exact(rig, shape, &mut words, index * shape.exact_words());
    }
    words
}

/// A whole record of block `index` of a sequence; of its escapes the last has no token.
fn record(
    rig: &mut Rig,
    shape: &LatentShape,
    components: &[ComponentDesc],
    sinks: u32,
    index: u32,
) -> Vec<u32> {
    let mut words = references(rig, shape);
    let each = shape.references_per_block();
    let coded: Vec<u32> = (0..BLOCK)
        .filter(|&lane| !shape.is_reference(lane))
        .collect();
    for &lane in &coded {
        let place = shape.coded_index(lane);
        if let Some(references) = shape.references {
            let visible = sinks + index * each + lane / references.stride + 1;
            let ordinals: Vec<f16> = (0..references.neighbours)
                .map(|_| f16::from_bits(rig.below(visible) as u16))
                .collect();
            let at = shape.ordinals_at() + place * shape.ordinal_words();
            put_halves(&mut words, 2 * at, ordinals.into_iter());
        }
        let scales: Vec<f16> = (0..shape.scales())
            .map(|_| f16::from_f32(0.3 * rig.value(Values::Flat).abs()))
            .collect();
        let at = 2 * shape.scales_at() + place * shape.scales();
        put_halves(&mut words, at, scales.into_iter());
        let at = shape.codes_at() + place * shape.code_words();
        for word in 0..shape.code_words() {
            words[(at + word) as usize] = rig.bits() as u32;
        }
        if shape.rule == ScaleRule::Plain {
            for component in components.iter().filter(|component| component.bits > 0) {
                let value = f16::from_f32(rig.value(Values::Flat));
                put_halves(
                    &mut words,
                    2 * at + component.offset / 16,
                    [value].into_iter(),
                );
            }
        }
    }
    for escape in 0..shape.escapes {
        let lane = coded[(7 + 31 * escape as usize) % coded.len()];
        let last = escape + 1 == shape.escapes;
        words[(shape.escapes_at() + escape) as usize] = if last { u32::MAX } else { lane };
        let at = shape.escapes_at() + shape.escapes + escape * shape.exact_words();
        put_exact(rig, shape, &mut words, at);
    }
    words
}

/// A sequence of a case: sinks, blocks, tokens after them, and how many of them a list names.
pub type Sequence = (u32, u32, u32, u32);

/// Where the tokens of some sequences lie.
pub struct Layout {
    /// Where each sequence's tokens lie.
    pub stores: Vec<StoreDesc>,
    /// Pages and blocks of all of them.
    pub entries: Vec<Entry>,
    /// Raw slots that hold tokens.
    pub used: Vec<u32>,
    /// Pages of the layer.
    pub pages: u32,
    /// Its blocks.
    pub blocks: u32,
}

/// Pages and blocks in any order, with some that nobody uses.
pub fn layout(rig: &mut Rig, sequences: &[Sequence]) -> Layout {
    let split = |&(sinks, _, tail, _): &Sequence| [sinks, tail];
    let pages = |tokens: u32| tokens.div_ceil(PAGE);
    let all_pages = sequences.iter().flat_map(split).map(pages).sum::<u32>() + 3;
    let all_blocks = sequences.iter().map(|sequence| sequence.1).sum::<u32>() + 2;
    let mut free_pages = rig.permutation(all_pages).into_iter();
    let mut free_blocks = rig.permutation(all_blocks).into_iter();
    let mut layout = Layout {
        stores: Vec::new(),
        // An entry that nobody reads.
        entries: vec![Entry(u32::MAX)],
        used: Vec::new(),
        pages: all_pages,
        blocks: all_blocks,
    };
    for &(sinks, blocks, tail, chosen) in sequences {
        let first_page = layout.entries.len() as u32;
        for tokens in [sinks, tail] {
            for (index, page) in (0..pages(tokens)).zip(&mut free_pages) {
                let lanes = (tokens - index * PAGE).min(PAGE);
                layout
                    .used
                    .extend((0..lanes).map(|lane| page * PAGE + lane));
                layout.entries.extend(Entry::new(Tier::Scratch, page));
            }
        }
        let first_block = layout.entries.len() as u32;
        let taken = free_blocks.by_ref().take(blocks as usize);
        layout
            .entries
            .extend(taken.filter_map(|block| Entry::new(Tier::Latent, block)));
        layout.stores.push(StoreDesc {
            sinks,
            compressed: blocks * BLOCK,
            length: sinks + blocks * BLOCK + tail,
            chosen,
            pages: first_page,
            blocks: first_block,
            lane: 0,
            generation: 1,
        });
    }
    layout
}

impl Layout {
    /// The stores as a tensor.
    pub fn stores(&self, rig: &mut Rig) -> Result<Tensor> {
        let count = self.stores.len() as u32;
        rig.words(
            DType::U32,
            count,
            StoreDesc::WORDS,
            bytemuck::cast_slice(&self.stores),
        )
    }

    /// Records of all sequences' blocks; those that nobody uses hold poison.
    pub fn records(
        &self,
        rig: &mut Rig,
        shape: &LatentShape,
        components: &[ComponentDesc],
    ) -> Result<Tensor> {
        let words = shape.words() as usize;
        let mut records = vec![POISON; self.blocks as usize * words];
        for store in &self.stores {
            for index in 0..store.compressed / BLOCK {
                let number = self.entries[(store.blocks + index) as usize].index() as usize;
                let record = record(rig, shape, components, store.sinks, index);
                records[number * words..][..words].copy_from_slice(&record);
            }
        }
        rig.words(DType::U32, self.blocks, shape.words(), &records)
    }

    /// Records of scales up to `size` and any codes, of a shape that has nothing else; those that nobody uses hold poison.
    pub fn coded(&self, rig: &mut Rig, shape: &LatentShape, size: f32) -> Result<Tensor> {
        let words = shape.words() as usize;
        let mut records = vec![POISON; self.blocks as usize * words];
        let blocks = |store: &StoreDesc| store.blocks..store.blocks + store.compressed / BLOCK;
        for entry in self.stores.iter().flat_map(blocks) {
            let number = self.entries[entry as usize].index() as usize;
            let record = &mut records[number * words..][..words];
            let (scales, codes) = record.split_at_mut(shape.codes_at() as usize);
            let halves = 2 * scales.len() as u32;
            let scale = |_| f16::from_f32(size * rig.value(Values::Flat).abs());
            put_halves(scales, 0, (0..halves).map(scale));
            codes.iter_mut().for_each(|word| *word = rig.bits() as u32);
        }
        rig.words(DType::U32, self.blocks, shape.words(), &records)
    }

    /// What has to be restored, each to a slot of its own among `slots`: `rows` tokens of any stores.
    pub fn misses(&self, rig: &mut Rig, slots: u32, rows: u32) -> Result<Tensor> {
        let order = rig.permutation(slots);
        let mut words = Vec::new();
        for slot in order.into_iter().take(rows as usize) {
            let store = rig.below(self.stores.len() as u32);
            let position = rig.below(self.stores[store as usize].length);
            words.extend([store, position, slot, 0]);
        }
        rig.words(DType::U32, rows, 4, &words)
    }

    /// Lists of `most` positions, of which each store's `chosen` are read.
    pub fn tokens(&self, rig: &mut Rig, most: u32) -> Result<Tensor> {
        let mut words = Vec::new();
        for store in &self.stores {
            words.extend((0..most).map(|index| {
                if index < store.chosen {
                    rig.below(store.length)
                } else {
                    POISON
                }
            }));
        }
        rig.words(DType::U32, self.stores.len() as u32, most, &words)
    }
}
