// Reductions over a workgroup of `WORKGROUP` threads, by subgroups of any size from 4 on. All threads call them, and all get the result.

// What a thread knows of its place.
struct Lane {
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) within: u32,
    @builtin(num_subgroups) subgroups: u32,
}

var<workgroup> reduce_parts: array<vec4<f32>, WORKGROUP / 4u>;

fn reduce_deposit(part: vec4<f32>, lane: Lane) {
    workgroupBarrier();
    if lane.within == 0u {
        reduce_parts[lane.subgroup] = part;
    }
    workgroupBarrier();
}

fn reduce_add4(value: vec4<f32>, lane: Lane) -> vec4<f32> {
    reduce_deposit(subgroupAdd(value), lane);
    var total = reduce_parts[0];
    for (var i = 1u; i < lane.subgroups; i++) {
        total += reduce_parts[i];
    }
    return total;
}

fn reduce_max4(value: vec4<f32>, lane: Lane) -> vec4<f32> {
    reduce_deposit(subgroupMax(value), lane);
    var total = reduce_parts[0];
    for (var i = 1u; i < lane.subgroups; i++) {
        total = max(total, reduce_parts[i]);
    }
    return total;
}
