//! Hands out pages.

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

    /// Takes `count` pages, or none when fewer are free.
    pub fn take(&mut self, count: u32) -> Option<Vec<u32>> {
        let rest = self.free.len().checked_sub(count as usize)?;
        let mut pages = self.free.split_off(rest);
        pages.reverse();
        for &page in &pages {
            self.taken[page as usize] = true;
        }
        Some(pages)
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
        assert_eq!(pages.take(2), None);
        assert_eq!(pages.free_pages(), 1);
        pages.give_back([1]);
        assert_eq!(pages.take(2), Some(vec![1, 3]));
        assert_eq!(pages.free_pages(), 0);
    }
}
