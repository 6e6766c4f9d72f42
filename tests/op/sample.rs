//! Cases of `sample`, and that it is what its formula says.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use longwave_contract::op::{LARGEST_LOGIT, NO_CHOICE, Sample, SampleDesc};
use longwave_contract::{Backend, DType};
use longwave_tests::rig::{Rig, Values};

use super::{Case, record};

/// How logits look.
#[derive(Clone, Copy, Debug)]
enum Logits {
    /// As a model's: a bulk, and a few far above it.
    Usual,
    /// Within a hundredth of each other.
    Narrow,
    /// A few values, so that many are equal wherever a filter ends.
    Few,
    /// All equal.
    Equal,
    /// Thousands apart.
    Wide,
    /// Not numbers, infinities, zeros of both signs, subnormal numbers and the largest there are, among others.
    Broken,
    /// One number among those that are none.
    Single,
    /// None is a number.
    Nothing,
    /// Minus infinity, but for what is not a number.
    Least,
}

const LOOKS: [Logits; 9] = [
    Logits::Usual,
    Logits::Narrow,
    Logits::Few,
    Logits::Equal,
    Logits::Wide,
    Logits::Broken,
    Logits::Single,
    Logits::Nothing,
    Logits::Least,
];

impl Logits {
    fn value(self, rig: &mut Rig, token: u32, vocabulary: u32) -> f32 {
        let value = rig.value(Values::Flat);
        match self {
            Logits::Usual => {
                let rest: f32 = (0..5).map(|_| rig.value(Values::Flat)).sum();
                3.0 * (value + rest)
            }
            Logits::Narrow => 7.0 + 0.01 * value,
            Logits::Few => (value * 4.0).floor(),
            Logits::Equal => -1.5,
            Logits::Wide => 1e4 * value,
            Logits::Broken => match rig.below(12) {
                0 => f32::NAN,
                1 => -f32::NAN,
                2 => f32::NEG_INFINITY,
                3 if token.is_multiple_of(3) => f32::INFINITY,
                4 => -0.0,
                5 => 0.0,
                6 => f32::from_bits(1 + rig.below(1 << 22)),
                7 => -f32::from_bits(1 + rig.below(1 << 22)),
                8 => f32::MIN,
                9 if token.is_multiple_of(5) => f32::MAX,
                10 => 3e30,
                _ => value,
            },
            Logits::Single if token == vocabulary * 2 / 3 => value,
            Logits::Least if token.is_multiple_of(2) => f32::NEG_INFINITY,
            Logits::Single | Logits::Nothing | Logits::Least => f32::NAN,
        }
    }
}

/// How tokens are chosen: every filter alone and at its ends, all together, and penalties; with draws at both ends and between.
fn samplings(rig: &mut Rig, vocabulary: u32, recents: u32) -> Vec<SampleDesc> {
    let mut draw = || (rig.bits() >> 32) as u32;
    let mut all = vec![SampleDesc::greedy()];
    for (temperature, top_k, top_p, min_p) in [
        (1.0, 0, 1.0, 0.0),
        (0.8, 40, 0.95, 0.05),
        (1.5, 100, 0.9, 0.0),
        (1.0, 1, 1.0, 0.0),
        (1.0, 2, 0.5, 0.0),
        (0.7, vocabulary - 1, 1.0, 0.0),
        (1.0, vocabulary, 0.99, 0.0),
        (1.0, u32::MAX, 1.0, 0.3),
        (1.0, 0, 0.0, 0.0),
        (1.0, 0, 1e-6, 0.0),
        (1.0, 0, 0.3, 0.0),
        (2.0, 0, 0.75, 1e-3),
        (1.0, 0, 0.999_999, 0.0),
        (1.0, 300, 0.999_999, 0.0),
        (1.0, vocabulary / 2, 0.2, 0.0),
        (1.0, 0, 1.0, 1.0),
        (1.0, 0, 1.0, 1e-9),
        (1e-6, 0, 1.0, 0.0),
        (f32::MIN_POSITIVE, 50, 0.9, 0.0),
        (100.0, 0, 1.0, 0.0),
        (100.0, vocabulary / 3, 1.0, 0.0),
    ] {
        let desc = |draw| SampleDesc::new(temperature, top_k, top_p, min_p, draw);
        all.extend([desc(draw()), desc(draw()), desc(0), desc(u32::MAX)]);
    }
    let half = recents / 2;
    for (penalty, first, recent) in [
        (1.3, 0, recents),
        (0.5, half, recents - half),
        (100.0, 3, 1),
    ] {
        all.push(SampleDesc::greedy().penalised(penalty, first, recent));
        let usual = SampleDesc::new(0.8, 40, 0.95, 0.05, draw());
        all.push(usual.penalised(penalty, first, recent));
        let plain = SampleDesc::new(1.0, 0, 1.0, 0.0, draw());
        all.push(plain.penalised(penalty, first, recent));
    }
    all
}

/// A row for each way to choose, of which the last does not count.
fn build(rig: &mut Rig, look: Logits, vocabulary: u32, draws: bool) -> Result<Sample> {
    // Some are named twice, and some are no tokens.
    let mut recent: Vec<u32> = (0..90).map(|_| rig.below(vocabulary + 3)).collect();
    recent.extend([0, 0, vocabulary - 1, u32::MAX]);
    let recents = recent.len() as u32;
    let descs = samplings(rig, vocabulary, recents);
    let rows = descs.len() as u32;
    let logits: Vec<u32> = (0..rows * vocabulary)
        .map(|at| look.value(rig, at % vocabulary, vocabulary).to_bits())
        .collect();
    Ok(Sample {
        logits: rig.words(DType::F32, rows, vocabulary, &logits)?,
        samplings: rig.words(
            DType::U32,
            rows,
            SampleDesc::WORDS,
            bytemuck::cast_slice(&descs),
        )?,
        recent: rig.words(DType::U32, 1, recents, &recent)?,
        count: rig.count(rows - 1)?,
        draws,
        out: rig.words(DType::U32, 1, rows, &vec![UNTOUCHED; rows as usize])?,
    })
}

/// What is there before.
const UNTOUCHED: u32 = u32::MAX - 1;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for look in LOOKS {
        for vocabulary in [1, 5, 2048, 2049, 6151] {
            let name = format!("{look:?} logits of {vocabulary} tokens");
            cases.push(Case::new(name, move |rig| {
                Ok(build(rig, look, vocabulary, true)?.into())
            }));
        }
        let name = format!("{look:?} logits of 6151 tokens, greedy");
        cases.push(Case::new(name, move |rig| {
            Ok(build(rig, look, 6151, false)?.into())
        }));
    }
    for (look, vocabulary) in [(Logits::Usual, 151_936), (Logits::Equal, 524_288)] {
        for (way, desc) in [
            ("greedy", SampleDesc::greedy()),
            ("filtered", SampleDesc::new(0.8, 40, 0.95, 0.05, 1 << 31)),
            ("in half", SampleDesc::new(1.0, 0, 0.5, 0.0, u32::MAX)),
            ("unfiltered", SampleDesc::new(1.0, 0, 1.0, 0.0, 3 << 30)),
        ] {
            let name = format!("{look:?} logits of {vocabulary} tokens, {way}");
            cases.push(Case::new(name, move |rig| {
                let op = build(rig, look, 1, true)?;
                let logits: Vec<u32> = (0..vocabulary)
                    .map(|at| look.value(rig, at, vocabulary).to_bits())
                    .collect();
                let words = SampleDesc::WORDS;
                Ok(Sample {
                    logits: rig.words(DType::F32, 1, vocabulary, &logits)?,
                    samplings: rig.words(DType::U32, 1, words, bytemuck::cast_slice(&[desc]))?,
                    count: rig.count(1)?,
                    out: rig.words(DType::U32, 1, 1, &[UNTOUCHED])?,
                    ..op
                }
                .into())
            }));
        }
    }
    cases
}

/// By how much of itself a weight may be off: the rounding of an exponent of up to 32, twice, and that of a power of two.
const WEIGHT: f64 = 4e-6;
/// By how much it may be off beside that, where the most likely token weighs 1: weights are cut.
const CUT: f64 = 1.0 / (1u64 << 31) as f64;

/// A backend chooses what the formula in f64 may choose: of tokens whose rank and weight are not so near to a filter's end that rounding decides, those
/// that stay; and the random number lies in the token's share of their weights, within what these may be off by.
pub(super) fn is_what_it_says(backend: &Arc<dyn Backend>) -> Result<()> {
    for (look, vocabulary) in LOOKS
        .into_iter()
        .flat_map(|look| [(look, 37), (look, 3000)])
    {
        let rig = &mut Rig::new(backend, 11);
        let op = build(rig, look, vocabulary, true)?;
        let recording = record(op.into())?;
        let plan = backend.prepare(&recording)?;
        backend.wait(backend.run(plan)?)?;
        backend.release(plan);
        let words = |tensor| -> Result<Vec<u32>> {
            Ok(bytemuck::pod_collect_to_vec::<u8, u32>(&rig.read(tensor)?))
        };
        let (logits, out, recent) = (words(op.logits)?, words(op.out)?, words(op.recent)?);
        let descs: Vec<SampleDesc> = bytemuck::pod_collect_to_vec(&rig.read(op.samplings)?);
        let pitch = logits.len() / descs.len();
        let rows = logits.chunks(pitch).zip(&descs).zip(&out);
        for (row, ((logits, desc), &found)) in rows.enumerate() {
            if row + 1 == descs.len() {
                ensure!(
                    found == UNTOUCHED,
                    "row {row} does not count, but is {found}"
                );
                continue;
            }
            let logits: Vec<f32> = logits[..vocabulary as usize]
                .iter()
                .map(|&bits| f32::from_bits(bits))
                .collect();
            may_choose(&logits, desc, &recent, found)
                .with_context(|| format!("{look:?}, {vocabulary} tokens, row {row}: {desc:?}"))?;
        }
    }
    Ok(())
}

/// Whether `found` may be chosen.
fn may_choose(logits: &[f32], desc: &SampleDesc, recent: &[u32], found: u32) -> Result<()> {
    let recent = &recent[desc.recent_first as usize..][..desc.recent as usize];
    let bounded = |logit: f32| match logit.abs() < f32::MIN_POSITIVE {
        true => 0.0,
        false => logit.clamp(-LARGEST_LOGIT, LARGEST_LOGIT),
    };
    let mut order: Vec<(f32, u32)> = (0u32..)
        .zip(logits)
        .filter(|(_, logit)| !logit.is_nan())
        .map(|(token, &logit)| {
            let logit = bounded(logit);
            let factor = match (recent.contains(&token), logit > 0.0) {
                (false, _) => 1.0,
                (true, true) => desc.relief,
                (true, false) => desc.penalty,
            };
            (bounded(logit * factor) + 0.0, token)
        })
        .collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let Some(&(largest, best)) = order.first() else {
        ensure!(found == NO_CHOICE, "{found} of no numbers");
        return Ok(());
    };
    if desc.rate == 0.0 {
        ensure!(found == best, "{found}, expected {best}");
        return Ok(());
    }
    if desc.top_k > 0 {
        order.truncate(desc.top_k as usize);
    }
    let weight =
        |rate: f32, logit: f32| (f64::from(rate) * (f64::from(logit) - f64::from(largest))).exp2();
    let unit = |logit: f32| weight(SampleDesc::UNIT_RATE, logit);
    let total: f64 = order.iter().map(|&(logit, _)| unit(logit)).sum();
    let slack = WEIGHT + order.len() as f64 * CUT / total;
    let top_p = match desc.top_p {
        u32::MAX => f64::INFINITY,
        part => f64::from(part) / 2f64.powi(32),
    };
    let min_p = f64::from(desc.min_p) / 2f64.powi(31);
    // Each token's weight, and whether it certainly stays; those that certainly do not are left out.
    let mut before = 0.0;
    let mut kept: Vec<(u32, f64, bool)> = Vec::new();
    for &(logit, token) in &order {
        let (share, own) = (before / total, unit(logit));
        before += own;
        let near = own * WEIGHT + CUT;
        let possible = token == best || (share < top_p + slack && own + near >= min_p);
        let certain = token == best || (share < top_p - slack && own - near >= min_p);
        if possible {
            kept.push((token, weight(desc.rate, logit), certain));
        }
    }
    kept.sort_by_key(|kept| kept.0);
    let sum = |least: bool, until: u32| -> f64 {
        let some = kept.iter().filter(|kept| kept.0 < until);
        some.filter(|kept| kept.2 || !least)
            .map(|kept| kept.1)
            .sum()
    };
    let all = u32::MAX;
    let (least, most) = (sum(true, all), sum(false, all));
    let slack = WEIGHT + kept.len() as f64 * CUT / least;
    let low = sum(true, found) / most - slack;
    let high = sum(false, found + 1) / least + slack;
    let drawn = f64::from(desc.draw) / 2f64.powi(32);
    ensure!(
        kept.iter().any(|kept| kept.0 == found),
        "{found} should have been left out"
    );
    ensure!(
        (low..=high).contains(&drawn),
        "{found} has {low} to {high}, drawn is {drawn}"
    );
    Ok(())
}
