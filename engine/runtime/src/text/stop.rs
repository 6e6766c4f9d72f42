//! Ending a stream of text before a stop string.

/// Watches a stream for stop strings; holds back what might be the beginning of one.
///
/// The stop string that is complete first counts (of several that end together, the longest), however the stream is cut into pieces.
#[derive(Clone, Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    matched: Option<usize>,
}

impl StopStrings {
    /// Watches for `stops`; empty ones are left out, since every text holds them.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops
            .iter()
            .filter(|stop| !stop.is_empty())
            .cloned()
            .collect();
        StopStrings {
            stops,
            held: String::new(),
            matched: None,
        }
    }

    /// Takes more text. Returns the text that can no longer belong to a stop string, and whether one was found: then the text ends
    /// before it, and everything that is pushed later is dropped.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        if self.matched.is_some() {
            return (String::new(), true);
        }
        let seen = self.held.len();
        self.held.push_str(text);
        if let Some((stop, start)) = self.find(seen) {
            self.matched = Some(stop);
            let mut text = std::mem::take(&mut self.held);
            text.truncate(start);
            return (text, true);
        }
        let kept = self.held.split_off(self.certain());
        (std::mem::replace(&mut self.held, kept), false)
    }

    /// Ends the stream: releases what was held back. The next push starts afresh.
    pub fn finish(&mut self) -> String {
        self.matched = None;
        std::mem::take(&mut self.held)
    }

    /// The stop string that was found.
    pub fn matched(&self) -> Option<&str> {
        self.matched
            .and_then(|stop| self.stops.get(stop))
            .map(String::as_str)
    }

    /// Which stop string is complete first, and where it starts. Up to `seen` there is none.
    fn find(&self, seen: usize) -> Option<(usize, usize)> {
        let ends = self
            .held
            .char_indices()
            .map(|(at, character)| at + character.len_utf8());
        ends.filter(|&end| end > seen).find_map(|end| {
            let before = self.held.get(..end)?;
            let ending = self
                .stops
                .iter()
                .enumerate()
                .filter(|(_, stop)| before.ends_with(stop.as_str()));
            ending
                .map(|(index, stop)| (index, end - stop.len()))
                .min_by_key(|&(_, start)| start)
        })
    }

    /// How many bytes of the held text no stop string can begin in.
    fn certain(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = (self.held.len() + 1).saturating_sub(longest);
        let begins = |at: usize| {
            self.held
                .get(at..)
                .is_some_and(|rest| self.stops.iter().any(|stop| stop.starts_with(rest)))
        };
        (from..self.held.len())
            .find(|&at| begins(at))
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::fixture::Random;

    fn stops(texts: &[&str]) -> StopStrings {
        StopStrings::new(
            &texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn a_stop_string_over_several_pieces_ends_the_stream_before_it() {
        let mut stop = stops(&["</end>"]);
        assert_eq!(stop.push("one <"), ("one ".into(), false));
        assert_eq!(stop.push("/en"), (String::new(), false));
        assert_eq!(stop.push("d> more"), (String::new(), true));
        assert_eq!(stop.matched(), Some("</end>"));
        assert_eq!(stop.push("even more"), (String::new(), true));
        assert_eq!(stop.finish(), "");
    }

    #[test]
    fn what_only_looked_like_a_stop_string_is_released() {
        let mut stop = stops(&["aab"]);
        assert_eq!(stop.push("aa"), (String::new(), false));
        assert_eq!(stop.push("a"), ("a".into(), false));
        assert_eq!(stop.push("c"), ("aac".into(), false));
        assert_eq!(stop.push("xa"), ("x".into(), false));
        assert_eq!(stop.finish(), "a");
        assert_eq!(stop.matched(), None);
    }

    #[test]
    fn without_stop_strings_nothing_is_held_back() {
        assert_eq!(stops(&[]).push("abc"), ("abc".into(), false));
        assert_eq!(stops(&[""]).push("abc"), ("abc".into(), false));
    }

    #[test]
    fn the_stop_string_that_is_complete_first_counts() {
        let mut stop = stops(&["abcd", "bc"]);
        assert_eq!(stop.push("xabcd"), ("xa".into(), true));
        assert_eq!(stop.matched(), Some("bc"));
        let mut stop = stops(&["c", "bc"]);
        assert_eq!(stop.push("abc"), ("a".into(), true));
        assert_eq!(stop.matched(), Some("bc"));
    }

    /// What a whole text comes to: every end in turn, every stop string.
    fn plainly(text: &str, stops: &[String]) -> (String, bool) {
        for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
            let starts = stops
                .iter()
                .filter(|stop| text[..end].ends_with(stop.as_str()))
                .map(|stop| end - stop.len());
            if let Some(start) = starts.min() {
                return (text[..start].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    #[test]
    fn any_cutting_gives_what_the_whole_text_gives() {
        let mut random = Random::new(7);
        let (mut found, mut passed) = (0, 0);
        for _ in 0..20_000 {
            let mut draw = |most: usize| -> String {
                let length = random.below(most) + 1;
                (0..length)
                    .map(|_| ['a', 'b', 'é', '🦀'][random.below(4)])
                    .collect()
            };
            let patterns: Vec<String> = vec![draw(4), draw(4), draw(5)];
            let text = draw(24);
            let mut stop = StopStrings::new(&patterns);
            let (mut released, mut stopped) = (String::new(), false);
            let mut rest = text.as_str();
            while !rest.is_empty() && !stopped {
                let mut cut = random.below(rest.len()) + 1;
                while !rest.is_char_boundary(cut) {
                    cut += 1;
                }
                let (piece, after) = rest.split_at(cut);
                let (fresh, end) = stop.push(piece);
                released.push_str(&fresh);
                (rest, stopped) = (after, end);
            }
            if stopped {
                found += 1;
            } else {
                passed += 1;
                released.push_str(&stop.finish());
            }
            assert_eq!(
                (released, stopped),
                plainly(&text, &patterns),
                "{text:?} {patterns:?}"
            );
        }
        assert!(found > 1000 && passed > 100, "{found} {passed}");
    }
}
