//! What is changed in a template's source before it is parsed.

/// Takes out the marks `{% generation %}` and `{% endgeneration %}`, which tell a trainer what the model said and mean nothing here.
/// A block that is always taken stands in for each, so that lines and the handling of spaces stay as they are.
pub(super) fn without_marks(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        result.push_str(before);
        let Some(length) = tag.find("%}") else {
            result.push_str(tag);
            return result;
        };
        let (tag, after) = tag.split_at(length + 2);
        let inside = tag
            .trim_start_matches("{%")
            .trim_start_matches(['-', '+'])
            .trim_end_matches("%}")
            .trim_end_matches(['-', '+']);
        match inside.trim() {
            "generation" => result.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => result.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => result.push_str(tag),
        }
        rest = after;
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::without_marks;

    #[test]
    fn only_the_marks_change() {
        assert_eq!(
            without_marks("a{%- generation -%}b{% endgeneration\n%}c"),
            "a{%- if true -%}b{% endif\n%}c"
        );
        for same in [
            "{% set generation = 1 %}",
            "{{ generation }}",
            "{%",
            "{% generation",
            "generation",
            "{% if x %}é{% endif %}",
            "",
        ] {
            assert_eq!(without_marks(same), same);
        }
    }
}
