//! `${Name}` in a definition, which a SAM template fills in at deployment and the embedder at load.

use std::collections::BTreeMap;

use serde_json::Value;

use super::problems::Problems;

/// Replaces every `${Name}` in the strings below `value`; a name without a value is a problem of the state
/// it stands in.
pub(super) fn substitute(value: &mut Value, names: &BTreeMap<String, String>, problems: &mut Problems) {
    match value {
        Value::String(text) if text.contains("${") => match replace(text, names) {
            Ok(replaced) => *text = replaced,
            Err(message) => problems.push(message),
        },
        Value::Array(items) => items.iter_mut().for_each(|item| substitute(item, names, problems)),
        Value::Object(fields) => {
            for (name, field) in fields {
                let Value::Object(states) = field else {
                    substitute(field, names, problems);
                    continue;
                };
                if name != "States" {
                    substitute(field, names, problems);
                    continue;
                }
                for (state, body) in states {
                    let outer = problems.state.replace(state.clone());
                    substitute(body, names, problems);
                    problems.state = outer;
                }
            }
        }
        _ => {}
    }
}

fn replace(text: &str, names: &BTreeMap<String, String>) -> Result<String, String> {
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        replaced.push_str(&rest[..start]);
        let after = &rest[start + 2..];
        let end = after.find('}').ok_or_else(|| format!("{text:?} has a \"${{\" that is not closed"))?;
        let name = &after[..end];
        let value = names
            .get(name)
            .ok_or_else(|| format!("no value is given for the substitution ${{{name}}} in {text:?}"))?;
        replaced.push_str(value);
        rest = &after[end + 1..];
    }
    replaced.push_str(rest);
    Ok(replaced)
}
