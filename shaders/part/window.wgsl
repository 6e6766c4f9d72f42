// Tokens of a view in the window of slots that a dispatch binds. Needs `entries: array<u32>` and `params.first_slot`, `params.slots`.
//:import part/layout

// A token that this dispatch does not see.
const ABSENT: u32 = 0xffffffffu;

// The slot of a token of a view.
fn view_slot(view: ViewDesc, token: u32) -> u32 {
    return entry_index(entries[view.first + token / view.run]) * view.run + token % view.run;
}

// The place of a token's row in the window, or ABSENT.
fn local_slot(view: ViewDesc, token: u32) -> u32 {
    let slot = view_slot(view, token);
    let local = slot - params.first_slot;
    return select(ABSENT, local, slot >= params.first_slot && local < params.slots);
}
