// Teams of threads that share a sum: here, subgroups of any size from 4 on. Needs no barrier, so teams of a workgroup may part.

// What a thread knows of its place.
struct Lane {
    @builtin(subgroup_id) team: u32,
    @builtin(num_subgroups) teams: u32,
    @builtin(subgroup_invocation_id) within: u32,
    @builtin(subgroup_size) size: u32,
}

// The thread's team, and how many there are.
fn team_index(lane: Lane) -> u32 {
    return lane.team;
}

fn team_count(lane: Lane) -> u32 {
    return lane.teams;
}

// The thread's place in its team, and how many threads there are.
fn team_thread(lane: Lane) -> u32 {
    return lane.within;
}

// Where a subgroup is wider than the workgroup, only as many of its threads run.
fn team_threads(lane: Lane) -> u32 {
    return min(lane.size, WORKGROUP);
}

// The sum over the team, in all of its threads.
fn team_add4(value: vec4<f32>, lane: Lane) -> vec4<f32> {
    return subgroupAdd(value);
}
