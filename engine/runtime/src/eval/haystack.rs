//! Haystacks: what a context consists of beside what is asked for.

use super::book::sentence;
use crate::error::Error;
use crate::random::SplitMix64;

/// A kind of haystack. Repeated sentences flatter methods that store what is alike once, and random names punish them: compare both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HaystackKind {
    /// Prose: that of a [`Book`] where there is one, made-up sentences otherwise.
    Book,
    /// The same few sentences over and over.
    Repeat,
    /// Lines of random UUIDs.
    Uuid,
}

impl HaystackKind {
    /// The word for arguments and reports.
    pub const fn name(self) -> &'static str {
        match self {
            HaystackKind::Book => "book",
            HaystackKind::Repeat => "repeat",
            HaystackKind::Uuid => "uuid",
        }
    }
}

const REPEATED: [&str; 5] = [
    "The river runs to the sea. ",
    "Clouds drift over the hill. ",
    "A dog sleeps by the door. ",
    "Nothing much happens here. ",
    "And so the day goes on. ",
];

/// A text as sentences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Book {
    sentences: Vec<String>,
}

impl Book {
    /// Splits a text at the ends of its sentences and paragraphs; a sentence of more than 400 characters is cut at a space.
    pub fn new(text: &str) -> Self {
        const LONGEST: usize = 400;
        let mut sentences = Vec::new();
        for paragraph in text.split("\n\n") {
            let begun = sentences.len();
            let mut current = String::new();
            for word in paragraph.split_whitespace() {
                current.push_str(word);
                current.push(' ');
                let bare = word.trim_end_matches(['"', '\'', ')', '\u{201d}', '\u{2019}']);
                if bare.ends_with(['.', '!', '?']) || current.len() > LONGEST {
                    sentences.push(std::mem::take(&mut current));
                }
            }
            if !current.is_empty() {
                sentences.push(current);
            }
            if let Some(last) = sentences[begun..].last_mut() {
                last.truncate(last.trim_end().len());
                last.push_str("\n\n");
            }
        }
        Book { sentences }
    }

    /// How many sentences it has.
    pub fn len(&self) -> usize {
        self.sentences.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.sentences.is_empty()
    }
}

/// The first `count` pieces of a haystack, each with the space that follows it. Of more of them, these are the beginning.
pub(super) fn pieces(
    kind: HaystackKind,
    book: Option<&Book>,
    mut random: SplitMix64,
    count: usize,
) -> Result<Vec<String>, Error> {
    Ok(match (kind, book) {
        (HaystackKind::Repeat, _) => (0..count)
            .map(|index| REPEATED[index % REPEATED.len()].to_owned())
            .collect(),
        (HaystackKind::Uuid, _) => (0..count)
            .map(|_| {
                let (item, place) = (uuid(&mut random), uuid(&mut random));
                format!("Item {item} lies in box {place}.\n")
            })
            .collect(),
        (HaystackKind::Book, None) => (0..count).map(|_| sentence(&mut random)).collect(),
        (HaystackKind::Book, Some(book)) => {
            let have = book.len();
            if count > have {
                return Err(Error::Parameter(format!(
                    "the text has {have} sentences, expected at least {count} for a context of this length"
                )));
            }
            let start = random.below(have);
            let wrapped = (0..count).map(|index| &book.sentences[(start + index) % have]);
            wrapped.cloned().collect()
        }
    })
}

/// A random UUID of version 4.
pub(super) fn uuid(random: &mut SplitMix64) -> String {
    let high = random.number() & !0xF000 | 0x4000;
    let low = random.number() & !(3 << 62) | 1 << 63;
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xFFFF,
        high & 0xFFFF,
        low >> 48,
        low & 0xFFFF_FFFF_FFFF
    )
}

/// Puts lines between the pieces of a haystack, each where its share of the text has gone by: 0 before all of it, 1 after.
pub(super) fn insert(pieces: Vec<String>, mut lines: Vec<(f64, String)>) -> String {
    let total: usize = pieces.iter().map(String::len).sum();
    lines.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut lines = lines.into_iter().peekable();
    let (mut text, mut passed) = (String::new(), 0);
    for piece in pieces {
        while let Some((_, line)) =
            lines.next_if(|(depth, _)| depth * total as f64 <= passed as f64)
        {
            text.push_str(&line);
        }
        passed += piece.len();
        text.push_str(&piece);
    }
    text.extend(lines.map(|(_, line)| line));
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn haystacks_repeat_by_seed_and_grow_at_the_end() -> Result<(), Error> {
        for kind in [HaystackKind::Book, HaystackKind::Repeat, HaystackKind::Uuid] {
            let some = |seed, count| pieces(kind, None, SplitMix64::new(seed), count);
            assert_eq!(some(1, 50)?, some(1, 50)?);
            assert_eq!(some(1, 50)?, some(1, 80)?[..50], "{kind:?}");
            assert_eq!(some(1, 50)? == some(2, 50)?, kind == HaystackKind::Repeat);
        }
        let made = pieces(HaystackKind::Book, None, SplitMix64::new(0), 2000)?;
        let distinct: HashSet<&String> = made.iter().collect();
        assert!(
            distinct.len() > 1980,
            "{} of 2000 sentences differ",
            distinct.len()
        );
        assert!(made.iter().all(|piece| piece.trim_end().ends_with('.')));
        Ok(())
    }

    #[test]
    fn a_book_is_split_and_never_repeats() -> Result<(), Error> {
        let book = Book::new("One is here. Two \"is there.\" Three?\nFour\n\n\n\nFive!  Six");
        let sentences = [
            "One is here. ",
            "Two \"is there.\" ",
            "Three? ",
            "Four\n\n",
            "Five! ",
            "Six\n\n",
        ];
        assert_eq!(book.sentences, sentences);
        let taken = pieces(HaystackKind::Book, Some(&book), SplitMix64::new(3), 6)?;
        assert_eq!(taken.iter().collect::<HashSet<_>>().len(), 6);
        assert!(pieces(HaystackKind::Book, Some(&book), SplitMix64::new(3), 7).is_err());
        assert!(Book::new(" \n\n ").is_empty());
        Ok(())
    }

    #[test]
    fn lines_stand_where_they_should() {
        let pieces: Vec<String> = (0..10).map(|index| format!("{index}. ")).collect();
        let lines = [(1.0, "end "), (0.5, "half "), (0.0, "start ")];
        let lines = lines.map(|(depth, line)| (depth, line.to_owned())).to_vec();
        let text = insert(pieces, lines);
        assert_eq!(text, "start 0. 1. 2. 3. 4. half 5. 6. 7. 8. 9. end");
    }

    #[test]
    fn uuids_are_of_version_4() {
        let mut random = SplitMix64::new(0);
        for _ in 0..100 {
            let id = uuid(&mut random);
            assert_eq!((id.len(), &id[14..15]), (36, "4"), "{id}");
            assert!("89ab".contains(&id[19..20]), "{id}");
        }
    }
}
