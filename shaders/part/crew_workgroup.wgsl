// Teams of threads that share a sum: here, one team, the workgroup. The functions are those of part/crew_subgroup.
//:import part/team_workgroup

fn crew_add(value: f32, lane: Lane) -> f32 {
    return reduce_add4(vec4<f32>(value, 0.0, 0.0, 0.0), lane).x;
}
