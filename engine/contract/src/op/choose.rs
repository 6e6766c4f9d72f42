//! The formula of [`Sample`](super::Sample), on the host: the reference of kernels, and what runs where logits were changed there.

use super::sample::{LARGEST_LOGIT, NO_CHOICE, POWER, SampleDesc};

/// The token that [`Sample`](super::Sample) chooses of one row's logits, with `recent` tokens penalised; [`NO_CHOICE`] where none is a number.
pub fn choose_token(logits: &[f32], desc: &SampleDesc, recent: &[u32]) -> u32 {
    if recent.is_empty() {
        choose(logits, desc)
    } else {
        choose(&penalised(logits, desc, recent), desc)
    }
}

/// The logits, with those of recent tokens multiplied.
fn penalised(logits: &[f32], desc: &SampleDesc, recent: &[u32]) -> Vec<f32> {
    let mut changed = logits.to_vec();
    for &token in recent {
        // From what it was before, since a token may be named twice.
        if let Some(&logit) = logits.get(token as usize)
            && !logit.is_nan()
        {
            let logit = value(key(logit));
            let factor = match logit > 0.0 {
                true => desc.relief,
                false => desc.penalty,
            };
            changed[token as usize] = logit * factor;
        }
    }
    changed
}

/// The token that is chosen of logits that no penalty changes any more.
fn choose(logits: &[f32], desc: &SampleDesc) -> u32 {
    let Some(largest) = largest(logits) else {
        return NO_CHOICE;
    };
    let largest = value(key(largest));
    if desc.rate == 0.0 {
        // The least logit that counts as this one.
        let least = match largest {
            0.0 => -f32::MIN_POSITIVE.next_down(),
            _ if largest <= -LARGEST_LOGIT => f32::NEG_INFINITY,
            _ => largest,
        };
        let best = logits.iter().position(|&logit| logit >= least);
        return best.map_or(NO_CHOICE, |token| token as u32);
    }
    let weight = |rate: f32, token: &u64| weight(rate, largest, value(!(token >> 32) as u32));
    // The order of falling logits, of equal ones the lower token first.
    let mut tokens: Vec<u64> = (0u64..)
        .zip(logits)
        .filter(|(_, logit)| !logit.is_nan())
        .map(|(token, &logit)| u64::from(!key(logit)) << 32 | token)
        .collect();
    let top_k = desc.top_k as usize;
    if top_k > 0 && top_k < tokens.len() {
        tokens.select_nth_unstable(top_k - 1);
        tokens.truncate(top_k);
    }
    if desc.top_p != u32::MAX {
        tokens.sort_unstable();
        let unit = |token: &u64| u64::from(weight(SampleDesc::UNIT_RATE, token));
        let total = tokens.iter().map(unit).sum();
        let limit = share(total, desc.top_p).max(1);
        let mut before = 0;
        let kept = tokens.iter().take_while(|&token| {
            let stays = before < limit;
            before += unit(token);
            stays
        });
        let kept = kept.count();
        tokens.truncate(kept);
    }
    tokens.retain(|token| weight(SampleDesc::UNIT_RATE, token) >= desc.min_p);
    tokens.sort_unstable_by_key(|&token| token as u32);
    let own = |token: &u64| u64::from(weight(desc.rate, token));
    let drawn = share(tokens.iter().map(own).sum(), desc.draw);
    let mut sum = 0;
    let chosen = tokens.iter().find(|&token| {
        sum += own(token);
        sum > drawn
    });
    chosen.map_or(NO_CHOICE, |&token| token as u32)
}

/// The largest logit that is a number, in lanes that a compiler makes vectors of.
fn largest(logits: &[f32]) -> Option<f32> {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (groups, rest) = logits.as_chunks::<32>();
    let mut lanes = [f32::NEG_INFINITY; 32];
    for group in groups {
        for (lane, &logit) in lanes.iter_mut().zip(group) {
            *lane = larger(*lane, logit);
        }
    }
    let all = lanes.iter().chain(rest).copied();
    let largest = all.fold(f32::NEG_INFINITY, larger);
    // Where that is what the lanes began with, there may be no number.
    let found = largest > f32::NEG_INFINITY || logits.contains(&largest);
    found.then_some(largest)
}

/// `total * part * 2^-32`, cut.
fn share(total: u64, part: u32) -> u64 {
    ((u128::from(total) * u128::from(part)) >> 32) as u64
}

/// A number in the order of logits; 0 is none.
#[inline(always)]
fn key(logit: f32) -> u32 {
    let magnitude = logit.abs().to_bits();
    let kept = match magnitude < f32::MIN_POSITIVE.to_bits() {
        true => 0,
        false => magnitude.min(LARGEST_LOGIT.to_bits()),
    };
    let key = match logit <= -f32::MIN_POSITIVE {
        true => 0x7fff_ffff - kept,
        false => 0x8000_0000 + kept,
    };
    match magnitude > f32::INFINITY.to_bits() {
        true => 0,
        false => key,
    }
}

/// The logit that has a key.
fn value(key: u32) -> f32 {
    match key >= 0x8000_0000 {
        true => f32::from_bits(key - 0x8000_0000),
        false => -f32::from_bits(0x7fff_ffff - key),
    }
}

/// `2^(31 - (largest - logit) rate)`, cut to an integer. Every operation rounds once, and kernels do the same.
fn weight(rate: f32, largest: f32, logit: f32) -> u32 {
    // Differences beyond 2^40 weigh nothing at any rate, and the product stays finite.
    let exponent = ((largest - logit).min((1u64 << 40) as f32) * rate).min(64.0);
    let whole = exponent as u32;
    let part = exponent - whole as f32;
    let powers = POWER.iter().rev();
    let power = powers.fold(0.0, |sum, coefficient| sum * part + coefficient) * part + 1.0;
    let full = (power * (1u32 << 31) as f32) as u32;
    full.checked_shr(whole).unwrap_or(0)
}
