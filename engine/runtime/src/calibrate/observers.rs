//! Which layers observe: those whose choice of tokens leaves out least of what the layers after them attend to (our notes on DeltaKV, section 7,
//! where layers are compared by how many tokens they share; decision 8 has the difference).

/// One in so many candidates is chosen when layers are compared: few, so that what matters is told apart from what happens to be there (decision 8).
const SHARE: usize = 32;

/// What each layer would lose by reading what each earlier one chooses, summed over points of the text.
#[derive(Clone, Debug)]
pub(crate) struct Losses {
    layers: usize,
    /// What layer `t` loses by the choice of `a`, at `a * layers + t`.
    pairs: Vec<f64>,
    points: usize,
    /// Of each point of the current window, what each layer gives the candidates.
    window: Vec<(u32, Vec<Vec<f32>>)>,
}

impl Losses {
    pub fn new(layers: u32) -> Self {
        let layers = layers as usize;
        Losses {
            layers,
            pairs: vec![0.0; layers * layers],
            points: 0,
            window: Vec::new(),
        }
    }

    /// Adds what a layer gives each candidate at a point of the window.
    pub fn add(&mut self, point: u32, layer: u32, scores: Vec<f32>) {
        let place = match self.window.iter().position(|(known, _)| *known == point) {
            Some(place) => place,
            None => {
                self.window.push((point, vec![Vec::new(); self.layers]));
                self.window.len() - 1
            }
        };
        if let Some((_, layers)) = self.window.get_mut(place) {
            layers[layer as usize] = scores;
        }
    }

    /// Compares the layers at the window's points.
    ///
    /// A layer that leaves tokens with shares `p_i` out errs by the sum of `p_i (v_i - o)`, whose square is on average that of the `p_i^2` where
    /// values differ independently: many tokens of small shares are no loss, one that a head looks up is.
    pub fn end_window(&mut self) {
        for (_, scores) in self.window.drain(..) {
            for (a, anchor) in scores.iter().enumerate() {
                let left = left_out(anchor);
                for (t, target) in scores.iter().enumerate().skip(a + 1) {
                    let shares = left.iter().filter_map(|&token| target.get(token as usize));
                    let loss: f64 = shares.map(|share| f64::from(*share).powi(2)).sum();
                    self.pairs[a * self.layers + t] += loss;
                }
            }
            self.points += 1;
        }
    }

    /// Whether nothing was compared: short windows have no points.
    pub fn is_empty(&self) -> bool {
        self.points == 0
    }

    /// The `count` layers, layer 0 among them, by which the layers after each lose least in all; of equal choices the one with earlier layers.
    pub fn observers(&self, count: usize) -> Vec<u32> {
        let layers = self.layers;
        let count = count.clamp(1, layers.max(1));
        // What the layers between two observers lose by the first.
        let segment = |a: usize, b: usize| -> f64 {
            (a + 1..b)
                .map(|target| self.pairs[a * layers + target])
                .sum()
        };
        // best[n][a]: the least that layers from a on lose when a observes and n observers follow.
        let mut best = vec![vec![None::<(f64, usize)>; layers]; count];
        for (a, best) in best[0].iter_mut().enumerate() {
            *best = Some((segment(a, layers), layers));
        }
        for more in 1..count {
            for a in (0..layers).rev() {
                let options = (a + 1..layers).filter_map(|next| {
                    best[more - 1][next].map(|(rest, _)| (segment(a, next) + rest, next))
                });
                let found = options.fold(None, |least: Option<(f64, usize)>, option| match least {
                    Some(least) if least.0 <= option.0 => Some(least),
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

/// The tokens that a layer which gave these scores would not choose.
fn left_out(scores: &[f32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    let keep = (scores.len() / SHARE).max(1).min(order.len());
    if keep < order.len() {
        let score = |index: &u32| scores[*index as usize];
        order.select_nth_unstable_by(keep, |a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
    }
    order.split_off(keep)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observers_are_where_the_choice_changes() {
        let mut losses = Losses::new(6);
        // Layers 0 and 1 attend to the first tokens, 2 to 5 to the last.
        for layer in 0..6 {
            let attends = |token: usize| (token < 10) == (layer < 2) && !(10..70).contains(&token);
            let scores = (0..80).map(|token| f32::from(u8::from(attends(token))) / 10.0);
            losses.add(100, layer, scores.collect());
        }
        losses.end_window();
        assert_eq!(losses.observers(2), [0, 2]);
        assert_eq!(losses.observers(1), [0]);
        assert_eq!(losses.observers(9).len(), 6);
        assert!(Losses::new(3).is_empty());
    }

    #[test]
    fn one_token_that_is_looked_up_counts_more_than_many_that_are_not() {
        let mut losses = Losses::new(3);
        let (mut spread, mut pointed) = (vec![0.5 / 64.0; 64], vec![0.0; 64]);
        // Layer 0 chooses the first tokens; layer 1 spreads over all, layer 2 looks one up that layer 0 leaves out.
        let first = (0..64)
            .map(|token| if token < 8 { 0.1 } else { 0.0 })
            .collect();
        spread[0] = 0.5;
        pointed[40] = 0.9;
        losses.add(64, 0, first);
        losses.add(64, 1, spread);
        losses.add(64, 2, pointed);
        losses.end_window();
        assert_eq!(losses.observers(2), [0, 2]);
    }
}
