//! A cursor over a file's bytes that checks before it takes or allocates.

use std::fmt::Display;

use super::super::FormatError;

pub(super) struct Reader<'a> {
    file: &'a str,
    bytes: &'a [u8],
    at: usize,
    reserved: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a str, bytes: &'a [u8]) -> Self {
        Reader {
            file,
            bytes,
            at: 0,
            reserved: 0,
        }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes that were allocated for what was read, vectors at their capacity.
    #[cfg(test)]
    pub(super) fn reserved(&self) -> usize {
        self.reserved
    }

    pub(super) fn note_reserved(&mut self, bytes: usize) {
        self.reserved = self.reserved.saturating_add(bytes);
    }

    pub(super) fn invalid(&self, field: &dyn Display, problem: impl Display) -> FormatError {
        FormatError::invalid(self.file, field, problem)
    }

    fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    fn truncated(&self, needed: u128, field: &dyn Display) -> FormatError {
        FormatError::Truncated {
            file: self.file.to_owned(),
            field: field.to_string(),
            offset: self.at as u64,
            needed,
            length: self.bytes.len() as u64,
        }
    }

    /// The next `count` bytes.
    pub(super) fn take(
        &mut self,
        count: u64,
        field: &dyn Display,
    ) -> Result<&'a [u8], FormatError> {
        let taken = usize::try_from(count).ok().and_then(|count| {
            let end = self.at.checked_add(count)?;
            Some((end, self.bytes.get(self.at..end)?))
        });
        let Some((end, bytes)) = taken else {
            return Err(self.truncated(u128::from(count), field));
        };
        self.at = end;
        Ok(bytes)
    }

    /// The next `N` bytes, for a number.
    pub(super) fn array<const N: usize>(
        &mut self,
        field: &dyn Display,
    ) -> Result<[u8; N], FormatError> {
        match self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.first_chunk())
        {
            Some(&bytes) => {
                self.at += N;
                Ok(bytes)
            }
            None => Err(self.truncated(N as u128, field)),
        }
    }

    pub(super) fn u32(&mut self, field: &dyn Display) -> Result<u32, FormatError> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, field: &dyn Display) -> Result<u64, FormatError> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// A length and that many bytes of UTF-8.
    pub(super) fn string(&mut self, field: &dyn Display) -> Result<&'a str, FormatError> {
        let length = self.u64(field)?;
        let bytes = self.take(length, field)?;
        std::str::from_utf8(bytes)
            .map_err(|error| self.invalid(field, format_args!("is not UTF-8: {error}")))
    }

    pub(super) fn owned(&mut self, text: &str) -> String {
        self.note_reserved(text.len());
        text.to_owned()
    }

    /// What is left holds `count` items of at least `smallest` bytes each.
    pub(super) fn check_count(
        &self,
        count: u64,
        smallest: usize,
        field: &dyn Display,
    ) -> Result<(), FormatError> {
        let needed = u128::from(count) * smallest as u128;
        if needed <= self.remaining() as u128 {
            Ok(())
        } else {
            Err(self.truncated(needed, field))
        }
    }

    /// Adds an item and counts what the vector grew by. Vectors grow with what was read, never to a count that a file announces.
    pub(super) fn push<T>(&mut self, items: &mut Vec<T>, item: T) {
        let before = items.capacity();
        items.push(item);
        self.note_reserved((items.capacity() - before).saturating_mul(size_of::<T>()));
    }
}
