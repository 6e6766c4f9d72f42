//! sample.

use longwave_contract::DType;
use longwave_contract::op::{NO_CHOICE, Sample, SampleDesc};

use super::{Stage, operand};

/// What is chosen of the same logits by each descriptor.
fn chosen(logits: &[f32], descs: &[SampleDesc], recent: &[u32]) -> Vec<u32> {
    let stage = Stage::new();
    let op = sample(&stage, logits, descs, recent);
    stage.run(op).unwrap();
    let found = stage.read(op.out).into_iter();
    found.map(|token| token as u32).collect()
}

fn sample(stage: &Stage, logits: &[f32], descs: &[SampleDesc], recent: &[u32]) -> Sample {
    let (rows, cols) = (descs.len() as u32, logits.len() as u32);
    let bits: Vec<u32> = logits.iter().map(|logit| logit.to_bits()).collect();
    let mut logits = stage.u32s(rows, cols, &bits.repeat(descs.len()));
    logits.dtype = DType::F32;
    Sample {
        logits,
        samplings: stage.u32s(rows, SampleDesc::WORDS, bytemuck::cast_slice(descs)),
        recent: stage.u32s(1, recent.len() as u32, recent),
        count: stage.count(rows),
        draws: true,
        out: stage.u32s(1, rows, &vec![0; descs.len()]),
    }
}

fn greedily(logits: &[f32]) -> u32 {
    chosen(logits, &[SampleDesc::greedy()], &[0])[0]
}

/// How often each token is chosen, of draws that are spread evenly.
fn counts(desc: SampleDesc, logits: &[f32], draws: u32) -> Vec<usize> {
    let descs: Vec<SampleDesc> = (0..draws)
        .map(|index| SampleDesc {
            draw: (u64::from(2 * index + 1) * (1 << 31) / u64::from(draws)) as u32,
            ..desc
        })
        .collect();
    let mut counts = vec![0; logits.len()];
    for token in chosen(logits, &descs, &[0]) {
        counts[token as usize] += 1;
    }
    counts
}

#[test]
fn greedy_takes_the_lowest_of_equals_and_skips_nan() {
    assert_eq!(greedily(&[f32::NAN, 2.0, 3.0, 3.0]), 2);
    assert_eq!(greedily(&[f32::NAN]), NO_CHOICE);
    assert_eq!(greedily(&[f32::NEG_INFINITY, f32::NAN]), 0);
    assert_eq!(greedily(&[-1.0, -0.0, 0.0, -f32::from_bits(5)]), 1);
    assert_eq!(greedily(&[f32::MAX, f32::INFINITY]), 0);
}

#[test]
fn draws_follow_the_probabilities() {
    let logits = [0.0, 3.0f32.ln(), f32::NEG_INFINITY];
    let plain = SampleDesc::new(1.0, 0, 1.0, 0.0, 0);
    let even = counts(plain, &logits, 40_000);
    assert!((even[1] as f64 / 40_000.0 - 0.75).abs() < 1e-4, "{even:?}");
    assert_eq!(even[2], 0);
    // At half the temperature, 1 to 9.
    let cool = counts(SampleDesc::new(0.5, 0, 1.0, 0.0, 0), &logits, 40_000);
    assert!((cool[1] as f64 / 40_000.0 - 0.9).abs() < 1e-4, "{cool:?}");
}

#[test]
fn filters_remove_the_tail() {
    let logits = [4.0, 3.0, 2.0, 1.0];
    let two = counts(SampleDesc::new(1.0, 2, 1.0, 0.0, 0), &logits, 500);
    assert_eq!(two[2..], [0, 0]);
    // The first two hold 87 % of the probability.
    let most = counts(SampleDesc::new(1.0, 0, 0.8, 0.0, 0), &logits, 500);
    assert_eq!(most[2..], [0, 0]);
    // The third is exp(-2) = 13.5 % as likely as the first.
    let likely = |min_p| counts(SampleDesc::new(1.0, 0, 1.0, min_p, 0), &logits, 500);
    assert_eq!(likely(0.2)[2..], [0, 0]);
    assert!(likely(0.1)[2] > 0);
}

#[test]
fn of_equal_tokens_the_lower_stay() {
    let found = counts(SampleDesc::new(1.0, 3, 1.0, 0.0, 0), &[1.0; 8], 300);
    assert_eq!(found, [100, 100, 100, 0, 0, 0, 0, 0]);
    let found = counts(SampleDesc::new(1.0, 0, 0.5, 0.0, 0), &[1.0; 8], 300);
    assert_eq!(found, [75, 75, 75, 75, 0, 0, 0, 0]);
}

#[test]
fn penalties_count_once_and_go_by_the_sign() {
    let two = SampleDesc::greedy().penalised(2.0, 1, 3);
    // 6 is halved once, and -1 doubled; 5 and 4.9 stay.
    let recent = [3, 0, 0, 2, 1];
    assert_eq!(chosen(&[6.0, 4.9, -1.0, 5.0], &[two], &recent), [3]);
    assert_eq!(chosen(&[-3.0, -2.0, -1.9, -9.0], &[two], &recent), [1]);
}

#[test]
fn recent_tokens_beyond_the_list_are_refused() {
    let stage = Stage::new();
    let beyond = SampleDesc::greedy().penalised(2.0, 1, 3);
    let op = sample(&stage, &[1.0, 2.0], &[beyond], &[0, 1, 0]);
    assert_eq!(operand(stage.run(op)), "recent");
}
