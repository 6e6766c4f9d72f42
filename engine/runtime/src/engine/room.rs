//! Room in the cache: what steps will take, what can be let go for it, and pages that several sequences hold.

use longwave_contract::kv::{BLOCK, PAGE};

use super::Engine;
use super::prefix::PrefixCache;
use crate::error::Error;
use crate::kv::{Sequence, SequenceId};
use crate::policy::Retention;

/// Pages, pages of sinks and tails, and blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Needs {
    pages: u32,
    tail: u32,
    blocks: u32,
}

/// Bytes of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUse {
    /// Raw rows that are held, those of sinks and tails included.
    pub raw: u64,
    /// Blocks that are held.
    pub blocks: u64,
    /// Of both, what nobody holds but the prefix cache: it goes when others need it.
    pub reusable: u64,
    /// All that there is.
    pub total: u64,
}

impl Engine {
    /// Lets sequences begin with what others had in common with them ([`Engine::start_from`], [`Engine::publish`]).
    ///
    /// Where layers compress, a beginning that is found is read as it was stored, so that what follows differs from what it would be after
    /// one prompt in one piece, by as much as codecs lose.
    pub fn share_prefixes(&mut self) {
        if self.prefix.is_none() {
            let after = self.layered.is_some().then(|| self.sinks());
            self.prefix = Some(PrefixCache::new(after));
        }
    }

    /// Starts a sequence that has the longest beginning of `tokens` that the prefix cache knows, but not all of them; says how many it has.
    pub fn start_from(&mut self, tokens: &[u32]) -> (SequenceId, u32) {
        let id = self.start();
        let most = tokens.len().saturating_sub(1);
        let Some(prefix) = &mut self.prefix else {
            return (id, 0);
        };
        let found = prefix.find(tokens, most, &mut self.pool);
        let length = found.tokens;
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.tokens = tokens[..length as usize].to_vec();
            sequence.pages = found.pages;
            sequence.tail = found.sinks;
            sequence.blocks = found.blocks;
        }
        (id, length)
    }

    /// Gives the prefix cache what a sequence holds, for others to begin with; nothing where there is no such cache.
    ///
    /// # Errors
    /// When there is no such sequence.
    pub fn publish(&mut self, id: SequenceId) -> Result<(), Error> {
        let sequence = self.sequences.get(&id).ok_or(Error::NoSequence(id))?;
        if let Some(prefix) = &mut self.prefix {
            prefix.insert(sequence, &mut self.pool);
        }
        Ok(())
    }

    /// Starts a sequence that has everything in common with another one. Pages are copied when one of them goes on in them.
    ///
    /// # Errors
    /// When there is no such sequence.
    pub fn fork(&mut self, id: SequenceId) -> Result<SequenceId, Error> {
        let mut sequence = self.sequence(id)?.clone();
        let fork = self.start();
        sequence.generation = self.sequence(fork)?.generation;
        self.pool.pages.share(&sequence.pages);
        self.pool.tail.share(&sequence.tail);
        self.pool.blocks.share(&sequence.blocks);
        self.sequences.insert(fork, sequence);
        Ok(fork)
    }

    /// Makes room for sequences to grow by so many tokens each, in one step: lets go of what only the prefix cache holds.
    ///
    /// # Errors
    /// There is no such sequence, or [`Error::CacheFull`].
    pub fn make_room(&mut self, growth: &[(SequenceId, u32)]) -> Result<(), Error> {
        let needs = self.needs(growth)?;
        self.reclaim(needs);
        self.pool.pages.check(needs.pages)?;
        self.pool.tail.check(needs.tail)?;
        self.pool.blocks.check(needs.blocks)
    }

    /// Lets go of what only the prefix cache holds, until there is room or nothing is left to go.
    fn reclaim(&mut self, needs: Needs) {
        while let Some(prefix) = &mut self.prefix {
            let enough = self.pool.pages.free_pages() >= needs.pages
                && self.pool.tail.free_pages() >= needs.tail
                && self.pool.blocks.free_pages() >= needs.blocks;
            if enough || !prefix.evict(&mut self.pool) {
                break;
            }
        }
    }

    /// What a step takes in which sequences grow by so many tokens.
    fn needs(&self, growth: &[(SequenceId, u32)]) -> Result<Needs, Error> {
        let mut needs = Needs::default();
        // Prompts of policies that compress come first, one after another: each writes its new tail before it gives the old one back.
        let (mut tail, mut most) = (0i64, 0i64);
        let sinks = self.sinks();
        let is_prompt = |(id, tokens): &&(SequenceId, u32)| {
            *tokens > 1 || self.sequences.get(id).is_none_or(Sequence::is_empty)
        };
        let (prompts, decoding): (Vec<_>, Vec<_>) = growth.iter().partition(is_prompt);
        for (&(id, tokens), prompt) in [(prompts, true), (decoding, false)]
            .into_iter()
            .flat_map(|(feeds, prompt)| feeds.into_iter().map(move |feed| (feed, prompt)))
        {
            let sequence = self.sequence(id)?;
            let length = sequence.len() + tokens;
            let [page, tail_page] = self.shared_pages(sequence);
            needs.pages += sequence.missing_pages(length) + u32::from(page.is_some());
            if self.layered.is_none() {
                continue;
            }
            let new = match self.policy.retention(length, sequence.compressed()) {
                Retention::KeepAll => 0,
                Retention::Compress(range) => range.len() as u32 / BLOCK,
            };
            needs.blocks += new;
            let old = sequence.tail.len() as i64;
            if prompt {
                tail += i64::from(sequence.tail_pages(length - new * BLOCK, sinks));
                most = most.max(tail);
                tail -= old;
            } else {
                tail += (i64::from(sequence.tail_pages(length, sinks)) - old).max(0);
                tail += i64::from(tail_page.is_some());
                most = most.max(tail);
            }
        }
        needs.tail = u32::try_from(most).unwrap_or(0);
        Ok(needs)
    }

    /// Where in a sequence's pages, and in those of its sinks and tail, its next token goes to a page that others hold too.
    fn shared_pages(&self, sequence: &Sequence) -> [Option<usize>; 2] {
        let next = sequence.len();
        let page = (next / PAGE) as usize;
        let shared = sequence.pages.get(page);
        let shared = shared.is_some_and(|&page| self.pool.pages.holders(page) > 1);
        let tail = sequence.tail_slot(next, self.sinks()).and_then(|slot| {
            let page = slot.0 / PAGE;
            let shared = self.layered.is_some() && self.pool.tail.holders(page) > 1;
            shared.then(|| sequence.tail.iter().position(|&held| held == page))?
        });
        [shared.then_some(page), tail]
    }

    /// Gives a sequence pages of its own where its next token would go to one that others hold too: copies what is in it.
    pub(super) fn own_pages(&mut self, id: SequenceId) -> Result<(), Error> {
        let sequence = self.found(id)?;
        let [page, tail] = self.shared_pages(sequence);
        if let Some(index) = page {
            let old = sequence.pages[index];
            let new = self.pool.pages.take(1)?;
            self.copy_page(old, new[0], false)?;
            self.replace(id, |sequence| &mut sequence.pages[index], new[0]);
            self.pool.pages.give_back([old]);
        }
        if let Some(index) = tail {
            let old = self.found(id)?.tail[index];
            let new = self.pool.tail.take(1)?;
            self.copy_page(old, new[0], true)?;
            self.replace(id, |sequence| &mut sequence.tail[index], new[0]);
            self.pool.tail.give_back([old]);
        }
        Ok(())
    }

    fn replace(&mut self, id: SequenceId, page: impl Fn(&mut Sequence) -> &mut u32, by: u32) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            *page(sequence) = by;
        }
    }

    /// Copies a page in all layers that compress, or in all others.
    fn copy_page(&self, from: u32, to: u32, compress: bool) -> Result<(), Error> {
        for layer in 0..self.model.config().layers as usize {
            if self.pool.latents(layer).is_some() != compress {
                continue;
            }
            let raw = self.pool.raw(layer);
            let bytes = u64::from(PAGE) * raw.row_bytes();
            let place = |page: u32| (raw.buffer, raw.offset + u64::from(page) * bytes);
            self.backend.copy(place(from), place(to), bytes)?;
        }
        Ok(())
    }

    /// How much of the cache is held.
    pub fn cache_use(&self) -> CacheUse {
        let pool = &self.pool;
        let held = |of: &crate::kv::PageAllocator| u64::from(of.pages() - of.free_pages());
        let (page, tail, block) = (
            pool.page_bytes(),
            pool.tail_page_bytes(),
            pool.block_bytes(),
        );
        let (pages, tails, blocks) = match &self.prefix {
            Some(prefix) => prefix.reusable(pool),
            None => (0, 0, 0),
        };
        CacheUse {
            raw: held(&pool.pages) * page + held(&pool.tail) * tail,
            blocks: held(&pool.blocks) * block,
            reusable: u64::from(pages) * page + u64::from(tails) * tail + u64::from(blocks) * block,
            total: pool.bytes(),
        }
    }

    /// Whether every page is held or free, and none is both.
    pub fn is_sound(&self) -> bool {
        let pool = &self.pool;
        pool.pages.is_sound() && pool.tail.is_sound() && pool.blocks.is_sound()
    }
}
