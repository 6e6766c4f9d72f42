//! What each token stands for, as bytes.

use std::sync::LazyLock;

/// What a token is to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An id that no token has.
    Absent,
    /// Text.
    Text,
    /// A control token; it steers the model and is no text.
    Special,
}

/// The bytes of all tokens, one after the other.
#[derive(Clone, Debug)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// Where each token's bytes end, and what it is.
    ends: Vec<(usize, Kind)>,
    strip: usize,
}

impl Pieces {
    /// No tokens yet; `strip` spaces at most are taken off the beginning of a text.
    pub(super) fn new(strip: usize) -> Self {
        Pieces {
            bytes: Vec::new(),
            ends: Vec::new(),
            strip,
        }
    }

    /// Adds the token with the next id.
    pub(super) fn add(&mut self, kind: Kind, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push((self.bytes.len(), kind));
    }

    /// A token's kind and bytes; none for ids that no token has.
    pub(super) fn get(&self, id: u32) -> Option<(Kind, &[u8])> {
        let index = usize::try_from(id).ok()?;
        let &(end, kind) = self.ends.get(index)?;
        let start = match index.checked_sub(1) {
            Some(before) => self.ends.get(before)?.0,
            None => 0,
        };
        (kind != Kind::Absent).then_some((kind, self.bytes.get(start..end)?))
    }

    /// One more than the highest id.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn strip(&self) -> usize {
        self.strip
    }
}

/// The character by which byte-level vocabularies spell a byte: printable Latin-1 characters spell themselves, the others follow U+0100
/// in order.
pub(super) fn byte_character(byte: u8) -> char {
    CHARACTERS[usize::from(byte)]
}

/// The bytes that a byte-level token spells; none when a character spells no byte.
pub(super) fn spelt_bytes(token: &str) -> Option<Vec<u8>> {
    token
        .chars()
        .map(|character| BYTES.get(character as usize).copied().flatten())
        .collect()
}

static CHARACTERS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut next = (0x100_u32..).filter_map(char::from_u32);
    std::array::from_fn(|byte| match byte as u8 {
        own @ (b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) => char::from(own),
        _ => next.next().unwrap_or(char::REPLACEMENT_CHARACTER),
    })
});

static BYTES: LazyLock<[Option<u8>; 0x144]> = LazyLock::new(|| {
    let mut bytes = [None; 0x144];
    for (byte, &character) in (0..=255).zip(CHARACTERS.iter()) {
        if let Some(place) = bytes.get_mut(character as usize) {
            *place = Some(byte);
        }
    }
    bytes
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_the_usual_one() {
        let ours: std::collections::HashSet<char> = (0..=255).map(byte_character).collect();
        let theirs = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
            .into_iter()
            .collect();
        assert_eq!(ours, theirs);
        assert_eq!(
            (
                byte_character(b' '),
                byte_character(b'\n'),
                byte_character(0xAD)
            ),
            ('Ġ', 'Ċ', 'Ń')
        );
        for byte in 0..=255 {
            assert_eq!(
                spelt_bytes(&byte_character(byte).to_string()),
                Some(vec![byte])
            );
        }
        assert_eq!(spelt_bytes("a b"), None);
        assert_eq!(spelt_bytes("｜"), None);
    }

    #[test]
    fn absent_ids_have_no_piece() {
        let mut pieces = Pieces::new(0);
        pieces.add(Kind::Text, b"ab");
        pieces.add(Kind::Absent, b"");
        pieces.add(Kind::Special, b"c");
        assert_eq!(pieces.get(0), Some((Kind::Text, b"ab".as_slice())));
        assert_eq!(pieces.get(1), None);
        assert_eq!(pieces.get(2), Some((Kind::Special, b"c".as_slice())));
        assert_eq!(pieces.get(3), None);
        assert_eq!(pieces.len(), 3);
    }
}
