//! Hands out pages.

use crate::error::Error;

/// Pages of a pool, uniform over its layers, or blocks. Page numbers are handed out lowest first, so a small load touches little memory.
///
/// A page may have several holders, and is free when the last one has given it back. Only a page's single holder may write to it.
#[derive(Clone, Debug)]
pub struct PageAllocator {
    /// Free pages, the next one last.
    free: Vec<u32>,
    holders: Vec<u32>,
}

impl PageAllocator {
    /// All of `pages` pages are free.
    pub fn new(pages: u32) -> Self {
        PageAllocator {
            free: (0..pages).rev().collect(),
            holders: vec![0; pages as usize],
        }
    }

    /// How many pages are free.
    pub fn free_pages(&self) -> u32 {
        self.free.len() as u32
    }

    /// How many pages there are.
    pub fn pages(&self) -> u32 {
        self.holders.len() as u32
    }

    /// How many hold a page.
    pub fn holders(&self, page: u32) -> u32 {
        self.holders.get(page as usize).copied().unwrap_or(0)
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
            self.holders[page as usize] = 1;
        }
        Ok(pages)
    }

    /// Makes pages that are taken have one more holder.
    pub fn share(&mut self, pages: &[u32]) {
        for &page in pages {
            match self.holders.get_mut(page as usize) {
                Some(holders) if *holders > 0 => *holders += 1,
                _ => debug_assert!(false, "page {page} is shared, and free"),
            }
        }
    }

    /// Gives pages back. A page that is not taken is left alone, so that giving back twice cannot hand a page to two sequences.
    pub fn give_back(&mut self, pages: impl IntoIterator<Item = u32>) {
        let first = self.free.len();
        for page in pages {
            match self.holders.get_mut(page as usize) {
                Some(holders) if *holders > 0 => {
                    *holders -= 1;
                    if *holders == 0 {
                        self.free.push(page);
                    }
                }
                _ => debug_assert!(false, "page {page} was given back twice"),
            }
        }
        // They are handed out in the order in which they came: runs of pages are copied at once.
        self.free[first..].reverse();
    }

    /// Whether free and held pages are all there are, and none is both: what a test asks after everything that may go wrong.
    pub fn is_sound(&self) -> bool {
        let mut free = self.free.clone();
        free.sort_unstable();
        free.dedup();
        let held = self.holders.iter().filter(|&&holders| holders > 0).count();
        let none = |page: &u32| self.holders(*page) == 0;
        free.len() == self.free.len()
            && free.iter().all(none)
            && free.len() + held == self.holders.len()
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

    #[test]
    fn shared_pages_are_free_when_the_last_holder_gives_them_back() {
        let mut pages = PageAllocator::new(3);
        let a = pages.take(2).expect("two are free");
        pages.share(&a[1..]);
        assert_eq!([0, 1, 2].map(|page| pages.holders(page)), [1, 2, 0]);
        pages.give_back(a);
        assert_eq!((pages.free_pages(), pages.is_sound()), (2, true));
        pages.give_back([1]);
        assert_eq!((pages.free_pages(), pages.is_sound()), (3, true));
    }

    #[test]
    fn pages_keep_their_order() {
        let mut pages = PageAllocator::new(4);
        let a = pages.take(3).expect("three are free");
        pages.give_back(a.clone());
        assert_eq!(pages.take(3).expect("three are free"), a);
    }
}
