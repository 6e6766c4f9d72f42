//! Prompts of random words.

use longwave_runtime::random::SplitMix64;

/// Words that most vocabularies have as one token each.
const WORDS: [&str; 64] = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "company",
    "system",
    "program",
    "question",
    "work",
    "government",
    "number",
    "night",
    "point",
    "home",
    "water",
    "room",
    "mother",
    "area",
    "money",
    "story",
    "fact",
    "month",
    "lot",
    "right",
    "study",
    "book",
    "eye",
    "job",
    "word",
    "business",
    "issue",
    "side",
    "kind",
    "head",
    "house",
    "service",
    "friend",
    "father",
    "power",
    "hour",
    "game",
    "line",
    "end",
    "member",
    "law",
];

/// So many words, which seed and number decide.
pub fn words(seed: u64, number: u64, count: u32) -> String {
    let mut random = SplitMix64::of(seed, &[number]);
    let words: Vec<&str> = (0..count)
        .map(|_| WORDS[random.below(WORDS.len())])
        .collect();
    words.join(" ")
}

/// How long to wait before each request, in seconds, so that `rate` come in a second on average, at random times.
pub fn waits(seed: u64, rate: f64, count: u32) -> Vec<f64> {
    let mut random = SplitMix64::of(seed, &[u64::MAX]);
    let mut at = 0.0;
    (0..count)
        .map(|_| {
            let now = at;
            at -= (1.0 - random.uniform()).ln() / rate;
            now
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_decide_words_and_times() {
        assert_eq!(words(1, 2, 30), words(1, 2, 30));
        assert_ne!(words(1, 2, 30), words(1, 3, 30));
        assert_eq!(words(1, 2, 30).split(' ').count(), 30);
        let waits = waits(3, 10.0, 1000);
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
        let mean = waits[999] / 999.0;
        assert!((0.08..0.12).contains(&mean), "{mean}");
    }
}
