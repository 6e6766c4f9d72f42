//! How prompts share a step.

/// Equal shares of `room` rows for prompts that have so many left; what short ones leave goes to the first ones. A prompt is never left with a
/// single token, which would be taken for a decode step.
pub(super) fn share(prompts: &[(usize, usize)], room: usize) -> Vec<(usize, usize)> {
    let mut given: Vec<(usize, usize, usize)> = prompts
        .iter()
        .map(|&(index, left)| (index, left, 0))
        .collect();
    let mut room = room;
    // The shortest first, so that what they leave is known.
    let mut order: Vec<usize> = (0..given.len()).collect();
    order.sort_by_key(|&at| given[at].1);
    for (done, &at) in order.iter().enumerate() {
        let equal = room / (order.len() - done);
        let (_, left, part) = &mut given[at];
        *part = equal.min(*left);
        if *left - *part == 1 && *part > 0 {
            *part -= 1;
        }
        room -= *part;
    }
    for (_, left, part) in &mut given {
        let more = room.min(*left - *part);
        let more = match *left - *part - more {
            1 => more.saturating_sub(1),
            _ => more,
        };
        *part += more;
        room -= more;
    }
    let some = given.into_iter().filter(|(_, _, part)| *part > 0);
    some.map(|(index, _, part)| (index, part)).collect()
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn short_prompts_do_not_wait_for_long_ones() {
        assert_eq!(share(&[(0, 100_000), (1, 300)], 1024), [(0, 724), (1, 300)]);
        assert_eq!(share(&[(0, 9000), (1, 9000)], 1024), [(0, 512), (1, 512)]);
        assert_eq!(share(&[(3, 5)], 1024), [(3, 5)]);
        assert_eq!(share(&[], 1024), []);
        assert_eq!(share(&[(0, 10)], 0), []);
    }

    #[test]
    fn no_prompt_is_left_with_one_token() {
        assert_eq!(share(&[(0, 101)], 100), [(0, 99)]);
        assert_eq!(share(&[(0, 2)], 1), []);
        assert_eq!(share(&[(0, 1)], 1), [(0, 1)]);
    }
}
