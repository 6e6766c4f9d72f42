// Softmax by groups of LANES threads, four tokens at a time: each thread weighs the one of its place modulo four. Needs `WORKGROUP` and `LANES`.

// Component h of vec4s belongs to a block's query head h. Of each group.
var<workgroup> group_largest: array<vec4<f32>, WORKGROUP / 4u>;
var<workgroup> group_weights: array<vec4<f32>, WORKGROUP / 4u>;

// The sums over the threads of a group for one of four tokens: each thread has that of its place modulo four.
fn token_sums(tokens: array<vec4<f32>, 4>, odd: bool, second: bool) -> vec4<f32> {
    let front = select(tokens[0], tokens[1], odd) + subgroupShuffleXor(select(tokens[1], tokens[0], odd), 1u);
    let back = select(tokens[2], tokens[3], odd) + subgroupShuffleXor(select(tokens[3], tokens[2], odd), 1u);
    var sum = select(front, back, second) + subgroupShuffleXor(select(back, front, second), 2u);
    if LANES > 4u {
        sum += subgroupShuffleXor(sum, 4u);
    }
    if LANES > 8u {
        sum += subgroupShuffleXor(sum, 8u);
    }
    if LANES > 16u {
        sum += subgroupShuffleXor(sum, 16u);
    }
    return sum;
}

// What a thread's token weighs, with the largest score so far, and what keeps earlier sums in proportion.
struct Weighed {
    weight: vec4<f32>,
    largest: vec4<f32>,
    keep: vec4<f32>,
}

// Weighs tokens, of which the earlier ones' largest score is given.
fn weighed(score: vec4<f32>, seen: bool, largest: vec4<f32>) -> Weighed {
    var most = max(score, subgroupShuffleXor(score, 1u));
    most = max(largest, max(most, subgroupShuffleXor(most, 2u)));
    return Weighed(select(vec4<f32>(), exp(score - most), seen), most, exp(largest - most));
}

// The sum of what four threads have.
fn of_four(value: vec4<f32>) -> vec4<f32> {
    let sum = value + subgroupShuffleXor(value, 1u);
    return sum + subgroupShuffleXor(sum, 2u);
}

// The largest score of all groups, and the sum of their weights.
struct Meeting {
    largest: vec4<f32>,
    weight: vec4<f32>,
}

// All of a workgroup's groups, of which each is number `own` of `groups` and gives its own, become one.
fn groups_meet(largest: vec4<f32>, weight: vec4<f32>, within: u32, own: u32, groups: u32) -> Meeting {
    if within == 0u {
        group_largest[own] = largest;
        group_weights[own] = weight;
    }
    workgroupBarrier();
    var most = group_largest[0];
    for (var g = 1u; g < groups; g++) {
        most = max(most, group_largest[g]);
    }
    var total = vec4<f32>();
    for (var g = 0u; g < groups; g++) {
        total += group_weights[g] * exp(group_largest[g] - most);
    }
    return Meeting(most, total);
}
