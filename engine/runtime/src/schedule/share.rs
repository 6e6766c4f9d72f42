//! How prompts share a step.

/// What is left of a prompt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prompt {
    /// Whose it is.
    pub index: usize,
    /// Tokens.
    pub left: usize,
    /// What a token of it costs, in those of a prompt's beginning: at least 1.
    pub cost: f64,
}

impl Prompt {
    /// Tokens of it that cost no more than `room`. It is never left with a single one, which would be taken for a decode step.
    fn within(&self, room: f64) -> usize {
        let tokens = ((room / self.cost) as usize).min(self.left);
        match self.left - tokens {
            1 => tokens.saturating_sub(1),
            _ => tokens,
        }
    }
}

/// Tokens of each prompt: equal shares of `room`, which is counted as costs are; what short ones leave goes to the first ones.
pub(super) fn share(prompts: &[Prompt], room: usize) -> Vec<(Prompt, usize)> {
    let mut given: Vec<(Prompt, usize)> = prompts.iter().map(|&prompt| (prompt, 0)).collect();
    let mut free = room as f64;
    // The shortest first, so that what they leave is known.
    let mut order: Vec<usize> = (0..given.len()).collect();
    let whole = |at: &usize| prompts[*at].left as f64 * prompts[*at].cost;
    order.sort_by(|a, b| whole(a).total_cmp(&whole(b)));
    for (done, &at) in order.iter().enumerate() {
        let equal = free / (order.len() - done) as f64;
        let (prompt, part) = &mut given[at];
        *part = prompt.within(equal);
        free -= *part as f64 * prompt.cost;
    }
    for (prompt, part) in &mut given {
        let rest = Prompt {
            left: prompt.left - *part,
            ..*prompt
        };
        let more = rest.within(free);
        *part += more;
        free -= more as f64 * prompt.cost;
    }
    // Something goes on, however dear it is.
    if let Some((prompt, part)) = given.first_mut()
        && room >= 2
        && free >= room as f64
    {
        *part = prompt.within(2.0 * prompt.cost).max(1);
    }
    given.retain(|(_, part)| *part > 0);
    given
}

#[cfg(test)]
mod tests {
    use super::{Prompt, share};

    /// Of prompts with so many tokens left at such a cost.
    fn shares(prompts: &[(usize, f64)], room: usize) -> Vec<(usize, usize)> {
        let prompts: Vec<Prompt> = prompts
            .iter()
            .enumerate()
            .map(|(index, &(left, cost))| Prompt { index, left, cost })
            .collect();
        let parts = share(&prompts, room).into_iter();
        parts.map(|(prompt, part)| (prompt.index, part)).collect()
    }

    #[test]
    fn short_prompts_do_not_wait_for_long_ones() {
        assert_eq!(
            shares(&[(100_000, 1.0), (300, 1.0)], 1024),
            [(0, 724), (1, 300)]
        );
        assert_eq!(
            shares(&[(9000, 1.0), (9000, 1.0)], 1024),
            [(0, 512), (1, 512)]
        );
        assert_eq!(shares(&[(5, 1.0)], 1024), [(0, 5)]);
        assert_eq!(shares(&[], 1024), []);
        assert_eq!(shares(&[(10, 1.0)], 0), []);
    }

    #[test]
    fn tokens_far_into_a_prompt_cost_more() {
        assert_eq!(
            shares(&[(50_000, 8.0), (500, 1.0)], 1024),
            [(0, 65), (1, 500)]
        );
        assert_eq!(shares(&[(50_000, 8.0)], 1024), [(0, 128)]);
    }

    #[test]
    fn no_prompt_is_left_with_one_token() {
        assert_eq!(shares(&[(101, 1.0)], 100), [(0, 99)]);
        assert_eq!(shares(&[(2, 1.0)], 1), []);
        assert_eq!(shares(&[(1, 1.0)], 1), [(0, 1)]);
    }

    #[test]
    fn the_first_prompt_goes_on_however_little_room_there_is() {
        assert_eq!(shares(&[(50, 8.0), (60, 8.0)], 2), [(0, 2)]);
        assert_eq!(shares(&[(3, 8.0)], 2), [(0, 1)]);
        assert_eq!(shares(&[(2, 8.0)], 2), [(0, 2)]);
    }
}
