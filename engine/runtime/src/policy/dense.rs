//! Everything is read, everything is kept.

use longwave_contract::kv::{Entry, PAGE, Tier, ViewDesc};

use super::{Policy, Role};
use crate::kv::Sequence;

/// Dense attention over the exact rows: what every other policy is measured against.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dense;

impl Policy for Dense {
    fn name(&self) -> &str {
        "dense"
    }

    fn role(&self, _layer: u32) -> Role {
        Role::Dense
    }

    fn view(&self, sequence: &Sequence, last: u32, entries: &mut Vec<Entry>) -> ViewDesc {
        let first = entries.len() as u32;
        let pages = (last / PAGE + 1) as usize;
        entries.extend(
            sequence
                .pages
                .iter()
                .take(pages)
                .filter_map(|&page| Entry::new(Tier::Raw, page)),
        );
        ViewDesc {
            first,
            length: last + 1,
            last,
            run: PAGE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_view_names_the_pages_up_to_the_last_position() {
        let sequence = Sequence {
            tokens: vec![0; 40],
            pages: vec![5, 2, 9],
            ..Sequence::default()
        };
        let mut entries = vec![Entry(0)];
        let view = Dense.view(&sequence, 40, &mut entries);
        assert_eq!(
            view,
            ViewDesc {
                first: 1,
                length: 41,
                last: 40,
                run: PAGE
            }
        );
        assert_eq!(
            entries[1..].iter().map(|e| e.index()).collect::<Vec<_>>(),
            [5, 2]
        );
    }
}
