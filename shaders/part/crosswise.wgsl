// Sums over groups of threads, four at a time. Needs `LANES`.

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
