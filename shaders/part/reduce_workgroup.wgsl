// Reductions over a workgroup of `WORKGROUP` threads, through workgroup memory. All threads call them, and all get the result.

// What a thread knows of its place.
struct Lane {
    @builtin(local_invocation_index) thread: u32,
}

const REDUCE_SECOND: u32 = WORKGROUP / 8u;
var<workgroup> reduce_parts: array<vec4<f32>, WORKGROUP>;
var<workgroup> reduce_eighths: array<vec4<f32>, REDUCE_SECOND>;

fn reduce_add4(value: vec4<f32>, lane: Lane) -> vec4<f32> {
    reduce_parts[lane.thread] = value;
    workgroupBarrier();
    if lane.thread < REDUCE_SECOND {
        var part = reduce_parts[lane.thread];
        for (var i = 1u; i < 8u; i++) {
            part += reduce_parts[i * REDUCE_SECOND + lane.thread];
        }
        reduce_eighths[lane.thread] = part;
    }
    workgroupBarrier();
    var total = reduce_eighths[0];
    for (var i = 1u; i < REDUCE_SECOND; i++) {
        total += reduce_eighths[i];
    }
    return total;
}

fn reduce_max4(value: vec4<f32>, lane: Lane) -> vec4<f32> {
    reduce_parts[lane.thread] = value;
    workgroupBarrier();
    if lane.thread < REDUCE_SECOND {
        var part = reduce_parts[lane.thread];
        for (var i = 1u; i < 8u; i++) {
            part = max(part, reduce_parts[i * REDUCE_SECOND + lane.thread]);
        }
        reduce_eighths[lane.thread] = part;
    }
    workgroupBarrier();
    var total = reduce_eighths[0];
    for (var i = 1u; i < REDUCE_SECOND; i++) {
        total = max(total, reduce_eighths[i]);
    }
    return total;
}
