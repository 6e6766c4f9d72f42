//! `attend`: bound by bytes in decode, by arithmetic in prompts.

use anyhow::Result;
use longwave_contract::kv::{RowDesc, ViewDesc};
use longwave_contract::op::Attend;
use longwave_tests::rig::Values;

use super::{Case, Held, Shapes};
use crate::work::{Tables, Work};

/// What the views of a step show, once for all rows that share a view; a score and a weighted sum for each.
pub(super) fn work(op: &Attend, tables: &Tables<'_>) -> Result<Work> {
    let rows: Vec<RowDesc> = tables.rows(op.rows, tables.count(op.count)?)?;
    let views: Vec<ViewDesc> = tables.rows(op.views, op.views.rows.into())?;
    let mut seen = vec![0u64; views.len()];
    let mut pairs = 0u64;
    for row in &rows {
        let Some((view, most)) = views
            .get(row.view as usize)
            .zip(seen.get_mut(row.view as usize))
        else {
            continue;
        };
        let visible = u64::from(view.visible(row.position));
        pairs += visible;
        *most = visible.max(*most);
    }
    let tokens: u64 = seen.iter().sum();
    let queries = rows.len() as u64 * (op.q.row_bytes() + op.out.row_bytes());
    Ok(Work {
        bytes: (tokens * op.kv.row_bytes() + queries) as f64,
        flops: 4.0 * pairs as f64 * f64::from(op.q.cols),
    })
}

/// The last rows of one sequence over all of it.
pub(super) fn cases(shapes: &Shapes) -> Vec<Case> {
    let (row, q) = (shapes.config.shape, shapes.config.q_width());
    let scale = 1.0 / (row.head_dim as f32).sqrt();
    let depth = shapes.depth;
    shapes.each_row_count(move |rows| {
        let length = depth.max(rows);
        Case::new(format!("attend {rows} over {length}"), move |rig| {
            let held = Held::new(rig, length);
            Ok(Attend {
                q: rig.f32(rows, q, Values::Flat)?,
                kv: rig.cache(row, held.pages, &held.slots, Values::Flat)?,
                rows: rig.rows(&held.rows(rows))?,
                count: rig.count(rows)?,
                views: rig.views(&[held.view()])?,
                entries: rig.entries(&held.entries)?,
                shape: row,
                scale,
                longest: length,
                out: rig.f32(rows, q, Values::Flat)?,
            })
        })
    })
}
