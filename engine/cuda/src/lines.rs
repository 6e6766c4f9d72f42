//! Which launches of a plan run beside the others: from where on, and who waits for them.
//!
//! A launch that had better run beside others begins once those before it that it conflicts with have ended, and the first launch after it that
//! conflicts with it waits. What conflicts follows from what kernels are passed and write.

use longwave_contract::BufferId;
use longwave_cuda_kernels::Kind;

use crate::driver::Line;
use crate::launch::{Argument, Launch};

/// One thing to do while a graph is captured. Events have numbers, each of which is marked once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// Launch number `index`, which may begin before the one ahead of it on its line has ended.
    Launch {
        index: usize,
        line: Line,
        overlaps: bool,
    },
    /// The event happens when what was launched on the line has ended.
    Mark { event: usize, line: Line },
    /// What follows on the line waits for the event.
    Follow { event: usize, line: Line },
}

/// Memory that a launch reads or writes.
#[derive(Clone, Copy, Debug)]
struct Touch {
    place: Place,
    writes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Bytes of a buffer.
    Bytes(BufferId, u64, u64),
    /// Working memory.
    Scratch(usize),
}

impl Place {
    fn meets(self, other: Place) -> bool {
        match (self, other) {
            (Place::Bytes(a, from, to), Place::Bytes(b, other_from, other_to)) => {
                a == b && from < other_to && other_from < to
            }
            _ => self == other,
        }
    }
}

/// A launch beside the others: it begins when those before number `from` have ended, and number `until` waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Beside {
    index: usize,
    from: usize,
    until: usize,
}

/// What a launch touches; `products` is the number of the scratch buffer that products work in.
fn touches(launch: &Launch, products: usize) -> Vec<Touch> {
    let touch = |argument: Argument, writes| {
        let place = match argument {
            Argument::Tensor(of) => {
                Place::Bytes(of.buffer, of.offset, of.offset.saturating_add(of.bytes()))
            }
            Argument::Scratch { index, .. } => Place::Scratch(index),
            Argument::Settled(_) | Argument::Absent | Argument::U32(_) | Argument::F32(_) => {
                return None;
            }
        };
        Some(Touch { place, writes })
    };
    match launch {
        Launch::Kernel(dispatch) => {
            let passed = dispatch.kernel.params.iter().zip(&dispatch.arguments);
            let touched = passed.filter_map(|(param, argument)| match param.kind {
                Kind::Pointer { writes } => touch(*argument, writes),
                Kind::U32 | Kind::F32 => None,
            });
            touched.collect()
        }
        Launch::Product { matrices, .. } => {
            let [a, weight, y] = *matrices;
            let operands = [touch(a, false), touch(weight, false), touch(y, true)];
            let working = Touch {
                place: Place::Scratch(products),
                writes: true,
            };
            operands.into_iter().flatten().chain([working]).collect()
        }
    }
}

fn conflict(a: &[Touch], b: &[Touch]) -> bool {
    let meet = |a: &Touch, b: &Touch| (a.writes || b.writes) && a.place.meets(b.place);
    a.iter().any(|a| b.iter().any(|b| meet(a, b)))
}

/// The launches that run beside others, those that begin first first, and of those the first in order.
fn find(launches: &[&Launch], products: usize) -> Vec<Beside> {
    let wants = |launch: &Launch| matches!(launch, Launch::Kernel(dispatch) if dispatch.beside);
    if !launches.iter().any(|launch| wants(launch)) {
        return Vec::new();
    }
    let touched: Vec<_> = launches
        .iter()
        .map(|launch| touches(launch, products))
        .collect();
    let on_main = |index: &usize| !wants(launches[*index]);
    let mut found: Vec<Beside> = Vec::new();
    for index in (0..launches.len()).filter(|index| wants(launches[*index])) {
        let meets = |other: &usize| conflict(&touched[index], &touched[*other]);
        let last = (0..index).rev().filter(on_main).find(meets);
        let next = (index + 1..launches.len()).filter(on_main).find(meets);
        // Those beside keep their order.
        let earliest = found.last().map_or(0, |before| before.from);
        found.push(Beside {
            index,
            from: last.map_or(0, |last| last + 1).max(earliest),
            until: next.unwrap_or(launches.len()),
        });
    }
    found
}

/// The order in which launches are captured, and how many events that takes.
pub(crate) fn moves(launches: &[&Launch], products: usize) -> (Vec<Move>, usize) {
    let found = find(launches, products);
    let mut beside = found.iter().peekable();
    let (mut moves, mut events) = (Vec::new(), 0);
    // Launches beside the main line that it has not waited for, each with its event.
    let mut under_way: Vec<(Beside, usize)> = Vec::new();
    for index in 0..=launches.len() {
        let mut follows = true;
        while let Some(launch) = beside.next_if(|launch| launch.from <= index) {
            if follows {
                let (event, line) = (events, Line::Main);
                moves.push(Move::Mark { event, line });
                let line = Line::Beside;
                moves.push(Move::Follow { event, line });
                events += 1;
            }
            let line = Line::Beside;
            moves.push(Move::Launch {
                index: launch.index,
                line,
                overlaps: !follows,
            });
            moves.push(Move::Mark {
                event: events,
                line,
            });
            under_way.push((*launch, events));
            events += 1;
            follows = false;
        }
        // What ends last on its line ends after all before it.
        let waits = under_way
            .iter()
            .rposition(|(launch, _)| launch.until <= index);
        if let Some(last) = waits {
            let (_, event) = under_way[last];
            under_way.drain(..=last);
            let line = Line::Main;
            moves.push(Move::Follow { event, line });
        }
        if index < launches.len() && !found.iter().any(|beside| beside.index == index) {
            moves.push(Move::Launch {
                index,
                line: Line::Main,
                overlaps: waits.is_none(),
            });
        }
    }
    (moves, events)
}

#[cfg(test)]
mod tests {
    use longwave_contract::{DType, Tensor};
    use longwave_cuda_kernels::{Kernel, Param};

    use super::*;
    use crate::launch::Dispatch;

    /// Reads its first operand and writes its second.
    static COPY: Kernel = Kernel {
        name: "copy",
        source: "",
        threads: 32,
        least: 80,
        variants: &[],
        params: &[
            Param {
                name: "from",
                kind: Kind::Pointer { writes: false },
            },
            Param {
                name: "to",
                kind: Kind::Pointer { writes: true },
            },
        ],
    };

    fn copy(from: Argument, to: u32, beside: bool) -> Launch {
        Launch::Kernel(Dispatch {
            kernel: &COPY,
            variant: Vec::new(),
            arguments: vec![from, row(to)],
            grid: [1; 3],
            shared: 0,
            beside,
        })
    }

    fn row(buffer: u32) -> Argument {
        Tensor::new(BufferId(buffer), DType::F32, 1, 4).into()
    }

    fn on(index: usize, line: Line, overlaps: bool) -> Move {
        Move::Launch {
            index,
            line,
            overlaps,
        }
    }

    #[test]
    fn a_plan_without_such_launches_is_in_order() {
        let launches = [copy(row(0), 1, false), copy(row(1), 2, false)];
        let (found, events) = moves(&launches.each_ref(), 9);
        let main = |index| on(index, Line::Main, true);
        assert_eq!((found, events), (vec![main(0), main(1)], 0));
    }

    #[test]
    fn launches_begin_after_what_they_read_and_end_before_who_reads_them() {
        let launches = [
            copy(row(0), 1, false),
            copy(row(5), 6, false),
            copy(row(1), 2, true),
            copy(row(2), 3, true),
            copy(row(6), 7, false),
            copy(row(3), 8, false),
        ];
        let (found, events) = moves(&launches.each_ref(), 9);
        let (main, beside) = (Line::Main, Line::Beside);
        let mark = |event, line| Move::Mark { event, line };
        let follow = |event, line| Move::Follow { event, line };
        let expected = vec![
            on(0, main, true),
            mark(0, main),
            follow(0, beside),
            on(2, beside, false),
            mark(1, beside),
            on(3, beside, true),
            mark(2, beside),
            on(1, main, true),
            on(4, main, true),
            follow(2, main),
            on(5, main, false),
        ];
        assert_eq!((found, events), (expected, 3));
    }

    #[test]
    fn what_is_settled_conflicts_with_nothing_and_a_plan_waits_for_all() {
        let settled = Argument::Settled(Tensor::new(BufferId(1), DType::F32, 1, 4));
        let launches = [copy(row(0), 1, false), copy(settled, 2, true)];
        let found = find(&launches.each_ref(), 9);
        let (from, until) = (0, 2);
        assert_eq!(
            found,
            [Beside {
                index: 1,
                from,
                until
            }]
        );
        let (found, _) = moves(&launches.each_ref(), 9);
        let (event, line) = (1, Line::Main);
        assert_eq!(found.last(), Some(&Move::Follow { event, line }));
    }

    #[test]
    fn parts_of_a_buffer_meet_where_they_overlap() {
        let of = |from, to| Place::Bytes(BufferId(0), from, to);
        assert!(of(0, 8).meets(of(4, 12)) && !of(0, 8).meets(of(8, 12)));
        assert!(Place::Scratch(1).meets(Place::Scratch(1)));
        assert!(!Place::Scratch(1).meets(of(0, 8)));
    }
}
