//! Which layers observe: those whose choice of tokens agrees best with what the layers after them attend to (our notes on DeltaKV, section 7).

/// One in so many candidates is chosen when layers are compared.
const SHARE: usize = 8;

/// How many chosen tokens each two layers share, summed over points of the text.
#[derive(Clone, Debug)]
pub(crate) struct Overlaps {
    layers: usize,
    /// Tokens shared by layers `a` and `t`, at `a * layers + t`.
    pairs: Vec<u64>,
    /// Tokens chosen in all.
    chosen: u64,
    /// Of each point of the current window, the tokens that each layer chose.
    points: Vec<(u32, Vec<Vec<u32>>)>,
}

impl Overlaps {
    pub fn new(layers: u32) -> Self {
        let layers = layers as usize;
        Overlaps {
            layers,
            pairs: vec![0; layers * layers],
            chosen: 0,
            points: Vec::new(),
        }
    }

    /// Adds what a layer gave each candidate at a point of the window.
    pub fn add(&mut self, point: u32, layer: u32, scores: &[f32]) {
        let mut order: Vec<u32> = (0..scores.len() as u32).collect();
        let keep = (scores.len() / SHARE).max(1).min(order.len());
        if keep < order.len() {
            let score = |index: &u32| scores[*index as usize];
            order.select_nth_unstable_by(keep, |a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
            order.truncate(keep);
        }
        order.sort_unstable();
        let known = self.points.iter_mut().find(|(known, _)| *known == point);
        let sets = match known {
            Some((_, sets)) => sets,
            None => {
                self.points.push((point, vec![Vec::new(); self.layers]));
                match self.points.last_mut() {
                    Some((_, sets)) => sets,
                    None => return,
                }
            }
        };
        sets[layer as usize] = order;
    }

    /// Counts what the layers share at the window's points.
    pub fn end_window(&mut self) {
        for (_, sets) in self.points.drain(..) {
            for (a, anchor) in sets.iter().enumerate() {
                for (t, target) in sets.iter().enumerate().skip(a + 1) {
                    let shared = target
                        .iter()
                        .filter(|token| anchor.binary_search(token).is_ok());
                    self.pairs[a * self.layers + t] += shared.count() as u64;
                }
                self.chosen += anchor.len() as u64;
            }
        }
    }

    /// Whether anything was compared: short windows have no points.
    pub fn is_empty(&self) -> bool {
        self.chosen == 0
    }

    /// The `count` layers, layer 0 among them, for which the layers after each share most with it; of equal choices the one with earlier layers.
    pub fn observers(&self, count: usize) -> Vec<u32> {
        let layers = self.layers;
        let count = count.clamp(1, layers.max(1));
        // What the layers between two observers share with the first.
        let segment = |a: usize, b: usize| -> u64 {
            (a + 1..b)
                .map(|target| self.pairs[a * layers + target])
                .sum()
        };
        // best[n][a]: the most that layers from a on share when a observes and n observers follow.
        let mut best = vec![vec![None::<(u64, usize)>; layers]; count];
        for (a, best) in best[0].iter_mut().enumerate() {
            *best = Some((segment(a, layers), layers));
        }
        for more in 1..count {
            for a in (0..layers).rev() {
                let options = (a + 1..layers).filter_map(|next| {
                    best[more - 1][next].map(|(rest, _)| (segment(a, next) + rest, next))
                });
                let found = options.fold(None, |most: Option<(u64, usize)>, option| match most {
                    Some(most) if most.0 >= option.0 => Some(most),
                    _ => Some(option),
                });
                best[more][a] = found;
            }
        }
        let mut observers = vec![0];
        let mut at = 0;
        for more in (1..count).rev() {
            match best[more][at] {
                Some((_, next)) if next < layers => {
                    observers.push(next as u32);
                    at = next;
                }
                _ => break,
            }
        }
        observers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observers_are_where_the_choice_changes() {
        let mut overlaps = Overlaps::new(6);
        // Layers 0 and 1 attend to the first tokens, 2 to 5 to the last.
        for layer in 0..6 {
            let scores: Vec<f32> = (0..80)
                .map(|token| {
                    if (token < 40) == (layer < 2) {
                        1.0
                    } else {
                        0.0
                    }
                })
                .collect();
            overlaps.add(100, layer, &scores);
        }
        overlaps.end_window();
        assert_eq!(overlaps.observers(2), [0, 2]);
        assert_eq!(overlaps.observers(1), [0]);
        assert_eq!(overlaps.observers(9).len(), 6);
        assert!(Overlaps::new(3).is_empty());
    }
}
