//! Hands out pages.

use crate::error::Error;

/// Pages of a pool, uniform over its layers. Page numbers are handed out lowest first, so a small load touches little memory.
#[derive(Clone, Debug)]
pub struct PageAllocator {
    /// Free pages, the next one last.
    free: Vec<u32>,
    taken: Vec<bool>,
}

impl PageAllocator {
    /// All of `pages` pages are free.
    pub fn new(pages: u32) -> Self {
        PageAllocator {
            free: (0..pages).rev().collect(),
            taken: vec![false; pages as usize],
        }
    }

    /// How many pages are free.
    pub fn free_pages(&self) -> u32 {
        self.free.len() as u32
    }

    /// How many pages there are.
    pub fn pages(&self) -> u32 {
        self.taken.len() as u32
    }

    /// Whether `count` pages are free.
    ///
    /// # Errors
    /// [`Error::CacheFull`] with the numbers.
    pub fn check(&self, count: u32) -> Result<(), Error> {
        if count > self.free_pages() {
            return Err(Error::CacheFull {
                needed: count,
                free: self.free_pages(),
                pages: self.pages(),
            });
        }
        Ok(())
    }

    /// Takes `count` pages, or none when fewer are free.
    ///
    /// # Errors
    /// As [`PageAllocator::check`].
    pub fn take(&mut self, count: u32) -> Result<Vec<u32>, Error> {
        self.check(count)?;
        let mut pages = self.free.split_off(self.free.len() - count as usize);
        pages.reverse();
        for &page in &pages {
            self.taken[page as usize] = true;
        }
        Ok(pages)
    }

    /// Gives pages back. A page that is not taken is left alone, so that giving back twice cannot hand a page to two sequences.
    pub fn give_back(&mut self, pages: impl IntoIterator<Item = u32>) {
        for page in pages {
            if let Some(taken @ true) = self.taken.get_mut(page as usize) {
                *taken = false;
                self.free.push(page);
            } else {
                debug_assert!(false, "page {page} was given back twice");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_handed_out_once() {
        let mut pages = PageAllocator::new(4);
        let a = pages.take(3).expect("three are free");
        assert_eq!(a, [0, 1, 2]);
        let full = pages.take(2).map_err(|error| error.to_string());
        assert_eq!(
            full,
            Err("the cache is full: 2 pages are needed, 1 of 4 are free".into())
        );
        assert_eq!(pages.free_pages(), 1);
        pages.give_back([1]);
        assert_eq!(pages.take(2).expect("two are free"), [1, 3]);
        assert_eq!(pages.free_pages(), 0);
    }
}
