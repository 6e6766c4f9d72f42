// Teams of threads that share a sum, and the workgroup as a whole: here, teams are subgroups of any size from 4 on.

// What a thread knows of its place.
struct Lane {
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) team: u32,
    @builtin(num_subgroups) teams: u32,
    @builtin(subgroup_invocation_id) within: u32,
    @builtin(subgroup_size) size: u32,
}

var<workgroup> crew_parts: array<f32, WORKGROUP / 4u>;

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

// The sum over the workgroup, in all of its threads, which all call this.
fn crew_add(value: f32, lane: Lane) -> f32 {
    let part = subgroupAdd(value);
    workgroupBarrier();
    if lane.within == 0u {
        crew_parts[lane.team] = part;
    }
    workgroupBarrier();
    var total = crew_parts[0];
    for (var i = 1u; i < lane.teams; i++) {
        total += crew_parts[i];
    }
    return total;
}
