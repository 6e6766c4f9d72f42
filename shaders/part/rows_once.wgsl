// Rows go to one place, after head norms where there are any. Needs of `params` has_q_norm and has_k_norm.
const TWICE: bool = false;
@group(0) @binding(9) var<storage, read> q_norm: array<f32>;
@group(0) @binding(10) var<storage, read> k_norm: array<f32>;

// The element of the norm weights, or one where there are none.
fn norm_weight(is_query: bool, element: u32) -> f32 {
    if is_query {
        if params.has_q_norm != 0u {
            return q_norm[element];
        }
    } else if params.has_k_norm != 0u {
        return k_norm[element];
    }
    return 1.0;
}

fn store_staged(place: u32, word: u32) {}
