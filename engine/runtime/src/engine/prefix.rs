//! Beginnings that sequences share: a radix tree over pages and blocks.
//!
//! An edge is a *granule*: as many tokens as whole pages, or in policies that compress, a whole block (the first with the sinks). A node holds
//! the pages and blocks of its granule as one more holder; what others hold too stays when the node goes.

use std::collections::{BTreeSet, HashMap};

use longwave_contract::kv::{BLOCK, PAGE};

use crate::kv::{KvPool, Sequence};

/// What a beginning of a sequence holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Beginning {
    pub tokens: u32,
    pub pages: Vec<u32>,
    pub sinks: Vec<u32>,
    pub blocks: Vec<u32>,
}

#[derive(Debug)]
struct Node {
    key: Box<[u32]>,
    parent: Option<usize>,
    children: HashMap<Box<[u32]>, usize>,
    held: Beginning,
    used: u64,
}

/// The tree. It names pages of one engine's pool, and knows what they hold by the tokens that led there: so there is one for each engine,
/// and each policy.
#[derive(Debug)]
pub(super) struct PrefixCache {
    /// Tokens of the first granule beyond those of the others.
    sinks: u32,
    each: u32,
    nodes: Vec<Option<Node>>,
    free: Vec<usize>,
    roots: HashMap<Box<[u32]>, usize>,
    /// Nodes without children, the one that was used longest ago first.
    leaves: BTreeSet<(u64, usize)>,
    clock: u64,
}

impl PrefixCache {
    /// A tree over pages, or over blocks after `sinks` tokens.
    pub fn new(blocks_after: Option<u32>) -> Self {
        PrefixCache {
            sinks: blocks_after.unwrap_or(0),
            each: if blocks_after.is_some() { BLOCK } else { PAGE },
            nodes: Vec::new(),
            free: Vec::new(),
            roots: HashMap::new(),
            leaves: BTreeSet::new(),
            clock: 0,
        }
    }

    /// Where the granule with this index begins.
    fn boundary(&self, index: u32) -> u32 {
        match index {
            0 => 0,
            _ => self.sinks + index * self.each,
        }
    }

    /// The longest beginning of `tokens` that is there, of at most `most` tokens. It is shared: whoever takes it is one more holder.
    pub fn find(&mut self, tokens: &[u32], most: usize, pool: &mut KvPool) -> Beginning {
        self.clock += 1;
        let mut found = Beginning::default();
        let mut at = None;
        for index in 0.. {
            let (from, to) = (self.boundary(index), self.boundary(index + 1));
            let key = tokens.get(from as usize..to as usize);
            let Some(node) = key.and_then(|key| self.child(at, key)) else {
                break;
            };
            if to as usize > most {
                break;
            }
            self.touch(node);
            if let Some(Some(Node { held, .. })) = self.nodes.get(node) {
                found.tokens = to;
                found.pages.extend(&held.pages);
                found.sinks.extend(&held.sinks);
                found.blocks.extend(&held.blocks);
            }
            at = Some(node);
        }
        share(&found, pool);
        found
    }

    /// Takes in what a sequence has of whole granules.
    pub fn insert(&mut self, sequence: &Sequence, pool: &mut KvPool) {
        self.clock += 1;
        let compresses = self.each == BLOCK;
        let whole = match compresses {
            true if sequence.blocks.is_empty() => 0,
            true => self.sinks + sequence.compressed(),
            false => sequence.len(),
        };
        let mut at = None;
        for index in 0.. {
            let (from, to) = (self.boundary(index), self.boundary(index + 1));
            if to > whole {
                break;
            }
            let Some(key) = sequence.tokens.get(from as usize..to as usize) else {
                break;
            };
            let node = match self.child(at, key) {
                Some(node) => node,
                None => {
                    let pages = from.div_ceil(PAGE) as usize..to.div_ceil(PAGE) as usize;
                    let part = |of: &[u32], range: std::ops::Range<usize>| {
                        of.get(range).unwrap_or_default().to_vec()
                    };
                    let block = index as usize;
                    let held = Beginning {
                        tokens: to - from,
                        pages: part(&sequence.pages, pages),
                        sinks: match (compresses, index) {
                            (true, 0) => {
                                part(&sequence.tail, 0..self.sinks.div_ceil(PAGE) as usize)
                            }
                            _ => Vec::new(),
                        },
                        blocks: match compresses {
                            true => part(&sequence.blocks, block..block + 1),
                            false => Vec::new(),
                        },
                    };
                    share(&held, pool);
                    self.add(at, key.into(), held)
                }
            };
            self.touch(node);
            at = Some(node);
        }
    }

    /// Lets the leaf go that was used longest ago of those that nobody else holds; `false` where there is none.
    pub fn evict(&mut self, pool: &mut KvPool) -> bool {
        let mut unused = self.leaves.iter().map(|&(_, node)| node);
        let unused = unused.find(|&node| match self.nodes.get(node) {
            Some(Some(node)) => only_here(&node.held, pool),
            _ => false,
        });
        let Some(index) = unused else {
            return false;
        };
        if let Some(node) = self.nodes.get_mut(index).and_then(Option::take) {
            self.leaves.remove(&(node.used, index));
            self.free.push(index);
            let siblings = match node.parent {
                None => Some(&mut self.roots),
                Some(parent) => match self.nodes.get_mut(parent) {
                    Some(Some(parent)) => Some(&mut parent.children),
                    _ => None,
                },
            };
            if let Some(siblings) = siblings {
                siblings.remove(&node.key);
            }
            if let Some(parent) = node.parent
                && let Some(Some(found)) = self.nodes.get(parent)
                && found.children.is_empty()
            {
                self.leaves.insert((found.used, parent));
            }
            pool.pages.give_back(node.held.pages);
            pool.tail.give_back(node.held.sinks);
            pool.blocks.give_back(node.held.blocks);
        }
        true
    }

    /// What nobody else holds: pages, pages of sinks, and blocks.
    pub fn reusable(&self, pool: &KvPool) -> (u32, u32, u32) {
        let mut sum = (0, 0, 0);
        for node in self.nodes.iter().flatten() {
            let lone = |of: &[u32], holders: &dyn Fn(u32) -> u32| {
                of.iter().filter(|&&page| holders(page) == 1).count() as u32
            };
            sum.0 += lone(&node.held.pages, &|page| pool.pages.holders(page));
            sum.1 += lone(&node.held.sinks, &|page| pool.tail.holders(page));
            sum.2 += lone(&node.held.blocks, &|block| pool.blocks.holders(block));
        }
        sum
    }

    fn child(&self, at: Option<usize>, key: &[u32]) -> Option<usize> {
        match at {
            None => self.roots.get(key).copied(),
            Some(node) => self.nodes.get(node)?.as_ref()?.children.get(key).copied(),
        }
    }

    fn add(&mut self, parent: Option<usize>, key: Box<[u32]>, held: Beginning) -> usize {
        let node = Node {
            key: key.clone(),
            parent,
            children: HashMap::new(),
            held,
            used: self.clock,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.nodes[index] = Some(node);
                index
            }
            None => {
                self.nodes.push(Some(node));
                self.nodes.len() - 1
            }
        };
        match parent {
            None => {
                self.roots.insert(key, index);
            }
            Some(above) => {
                if let Some(Some(found)) = self.nodes.get_mut(above) {
                    self.leaves.remove(&(found.used, above));
                    found.children.insert(key, index);
                }
            }
        }
        self.leaves.insert((self.clock, index));
        index
    }

    fn touch(&mut self, index: usize) {
        if let Some(Some(node)) = self.nodes.get_mut(index) {
            let was_leaf = self.leaves.remove(&(node.used, index));
            node.used = self.clock;
            if was_leaf {
                self.leaves.insert((node.used, index));
            }
        }
    }
}

fn share(held: &Beginning, pool: &mut KvPool) {
    pool.pages.share(&held.pages);
    pool.tail.share(&held.sinks);
    pool.blocks.share(&held.blocks);
}

fn only_here(held: &Beginning, pool: &KvPool) -> bool {
    held.pages.iter().all(|&page| pool.pages.holders(page) == 1)
        && held.sinks.iter().all(|&page| pool.tail.holders(page) == 1)
        && held
            .blocks
            .iter()
            .all(|&block| pool.blocks.holders(block) == 1)
}
