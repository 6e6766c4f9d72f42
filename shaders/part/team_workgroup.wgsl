// Teams of threads that share a sum: here, one team, the workgroup. The functions are those of part/team_subgroup.
//:import part/reduce_workgroup

fn team_index(lane: Lane) -> u32 {
    return 0u;
}

fn team_count(lane: Lane) -> u32 {
    return 1u;
}

fn team_thread(lane: Lane) -> u32 {
    return lane.thread;
}

fn team_threads(lane: Lane) -> u32 {
    return WORKGROUP;
}

fn team_add4(value: vec4<f32>, lane: Lane) -> vec4<f32> {
    return reduce_add4(value, lane);
}
