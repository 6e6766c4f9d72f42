use longwave_contract::BackendError;
use longwave_contract::op::{ROPE_LOW, Rope, Tokens};

use super::store::{Named, Restored};
use crate::error::misfit;
use crate::memory::Memory;
use crate::norm::normalise_in_place;
use crate::rotation::Rotation;

/// See [`Rope`].
pub(super) fn run(op: &Rope, memory: &mut Memory) -> Result<(), BackendError> {
    let name = Rope::NAME;
    memory.lend(op.kv, |memory, mut kv| {
        let count = memory.count(name, op.count, op.x.rows)?;
        let rows = Restored {
            op: name,
            tokens: Named::new(op.tokens, memory)?,
            stores: memory.matrix(op.stores)?,
            pitch: op.pitch,
            first: op.first,
        };
        let (x, rope) = (memory.matrix(op.x)?, memory.matrix(op.rope)?);
        let norm = op.k_norm.map(|norm| memory.matrix(norm)).transpose()?;
        let norm = norm.map(|norm| norm.f32s(0));
        let width = op.shape.width() as usize;
        let positions = u64::from(op.rope.rows - ROPE_LOW) * u64::from(ROPE_LOW);
        let restore = |row: usize, out: &mut [half::f16]| {
            let Some((_, position)) = rows.token(row)? else {
                return Ok(());
            };
            if u64::from(position) >= positions {
                let expected = format_args!("a position below {positions}");
                return Err(misfit(name, "tokens", expected, position));
            }
            let mut values = x.f32s(row).to_vec();
            let keys = &mut values[..width];
            if let Some(norm) = norm {
                for head in keys.chunks_exact_mut(norm.len()) {
                    normalise_in_place(head, norm, op.epsilon);
                }
            }
            Rotation::new(&rope, position).turn(keys);
            crate::row::store_halves(&values, out);
            Ok(())
        };
        if let Tokens::Missing(_) = op.tokens {
            for row in 0..count {
                let slot = rows.slot(row).filter(|slot| *slot < op.kv.rows);
                let expected = format_args!("a slot below {}", op.kv.rows);
                let slot = slot.ok_or_else(|| misfit(name, "tokens", expected, "one beyond"))?;
                restore(row, kv.f16s_mut(slot as usize))?;
            }
            return Ok(());
        }
        kv.for_each_row_of_f16(op.first as usize, count, restore)
    })
}
