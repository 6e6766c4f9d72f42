//! Cases of `embed`.

use longwave_contract::DType;
use longwave_contract::kv::RowDesc;
use longwave_contract::op::Embed;
use longwave_tests::rig::Values;

use super::Case;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in DType::WEIGHTS {
        for (vocabulary, width, n, count) in [(7, 32, 1, 1), (300, 576, 9, 6), (1000, 96, 64, 64)] {
            cases.push(Case::new(
                format!("{dtype} {count} of {n} rows, {vocabulary} x {width}"),
                move |rig| {
                    let table = rig.weight(dtype, vocabulary, width)?;
                    let mut rows: Vec<RowDesc> = (0..n)
                        .map(|_| RowDesc {
                            token: rig.below(vocabulary),
                            ..RowDesc::default()
                        })
                        .collect();
                    // The last token of the table, and one beyond it, which gives zeros.
                    rows[0].token = vocabulary - 1;
                    if n > 2 {
                        rows[1].token = vocabulary;
                    }
                    let rows = rig.rows(&rows)?;
                    Ok(Embed {
                        table,
                        rows,
                        count: rig.count(count)?,
                        out: rig.f32(n, width, Values::Flat)?,
                    }
                    .into())
                },
            ));
        }
    }
    cases
}
