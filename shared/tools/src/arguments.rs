//! Reads a call's arguments. Models often write nearly the right thing; what has only one meaning is understood, and
//! everything else is answered with what is wrong and what would be right.

use pvm_domain::text;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::output;

/// What is told of the fault itself, in bytes.
const WHAT_BYTES: usize = 400;

/// The arguments of a call, read by the tool's schema.
///
/// # Errors
/// A text for the model: what is wrong, and the arguments that the tool takes.
pub(crate) fn read<T: DeserializeOwned>(name: &str, schema: &Value, given: &Value) -> Result<T, String> {
    let mut value = match given {
        Value::Null => Value::from(Map::new()),
        Value::String(text) => match serde_json::from_str::<Value>(text) {
            Ok(inner @ Value::Object(_)) => inner,
            _ => return Err(explain(name, schema, "the arguments are not a JSON object")),
        },
        other => other.clone(),
    };
    if !value.is_object() {
        return Err(explain(name, schema, "the arguments are not a JSON object"));
    }
    coerce(schema, &mut value);
    serde_json::from_value(value).map_err(|error| explain(name, schema, &error.to_string()))
}

fn explain(name: &str, schema: &Value, what: &str) -> String {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let fields = schema["properties"].as_object().into_iter().flatten().map(|(field, inner)| {
        let kind = match (&inner["enum"], inner["type"].as_str()) {
            (Value::Array(values), _) => {
                values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("|")
            }
            (_, Some(kind)) => kind.to_owned(),
            _ => "any".to_owned(),
        };
        let need = if required.contains(&field.as_str()) { ", required" } else { "" };
        format!("{field} ({kind}{need})")
    });
    let fields: Vec<String> = fields.collect();
    let takes = if fields.is_empty() { "no arguments".to_owned() } else { fields.join(", ") };
    // What is wrong may quote a value, which may be anything.
    let what = text::head_and_tail(&output::plain(what.as_bytes()), WHAT_BYTES).0;
    format!("Bad arguments for {name}: {what}. It takes: {takes}. Nothing was done; correct the call.")
}

/// Turns what is unmistakable into what the schema wants: `"5000"` where an integer is wanted, one string where a list
/// of strings is wanted, an object where `NAME=value` pairs are wanted, null where nothing is.
fn coerce(schema: &Value, value: &mut Value) {
    let Some(object) = value.as_object_mut() else { return };
    object.retain(|_, inner| !inner.is_null());
    let Some(properties) = schema["properties"].as_object() else { return };
    for (field, inner) in object {
        // An alias of a field has no schema of its own; its value is taken as it is.
        if let Some(wanted) = properties.get(field) {
            coerce_one(wanted, inner);
        }
    }
}

fn coerce_one(wanted: &Value, value: &mut Value) {
    let replaced = match (wanted["type"].as_str(), &*value) {
        (Some("integer"), Value::String(text)) => text.trim().parse::<i64>().ok().map(Value::from),
        (Some("integer"), Value::Number(number)) if number.is_f64() => {
            let whole = number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 1e15);
            whole.map(|n| Value::from(n as i64))
        }
        (Some("boolean"), Value::String(text)) => match text.trim().to_ascii_lowercase().as_str() {
            "true" => Some(Value::from(true)),
            "false" => Some(Value::from(false)),
            _ => None,
        },
        (Some("string"), Value::Number(number)) => Some(Value::from(number.to_string())),
        (Some("string"), Value::Array(words)) if wanted.get("enum").is_none() => {
            let words: Option<Vec<&str>> = words.iter().map(Value::as_str).collect();
            words.map(|words| Value::from(words.join(" ")))
        }
        (Some("array"), Value::String(text)) => Some(Value::from(vec![text.clone()])),
        (Some("array"), Value::Object(pairs)) => pairs
            .iter()
            .map(|(name, inner)| match inner {
                Value::String(text) => Some(format!("{name}={text}")),
                Value::Number(_) | Value::Bool(_) => Some(format!("{name}={inner}")),
                _ => None,
            })
            .collect::<Option<Vec<String>>>()
            .map(Value::from),
        _ => None,
    };
    if let Some(replaced) = replaced {
        *value = replaced;
    }
}

#[cfg(test)]
mod tests {
    use pvm_contracts::tools::{ExecuteCommandArgs, InstallPackageArgs, StartServiceArgs};
    use serde_json::json;

    use super::*;
    use crate::schema::of_arguments;

    #[test]
    fn unmistakable_values_are_understood() {
        let schema = of_arguments::<ExecuteCommandArgs>();
        let args: ExecuteCommandArgs = read(
            "execute_command",
            &schema,
            &json!({"command": "x", "timeout_secs": "30", "background": "true", "env": {"A": "1", "B": 2},
                    "stdin": null}),
        )
        .unwrap();
        assert_eq!(args.timeout_secs, Some(30));
        assert!(args.background);
        assert_eq!(args.env, ["A=1", "B=2"]);
        let schema = of_arguments::<InstallPackageArgs>();
        let args: InstallPackageArgs =
            read("install_package", &schema, &json!({"package": ["a", "b"], "manager": "pip"})).unwrap();
        assert_eq!(args.package, "a b");
        let schema = of_arguments::<StartServiceArgs>();
        let args: StartServiceArgs = read(
            "start_service",
            &schema,
            &json!("{\"service_name\": \"api\", \"command\": \"x\", \"port\": 5000.0}"),
        )
        .unwrap();
        assert_eq!((args.name.as_str(), args.port), ("api", Some(5000)));
    }

    #[test]
    fn bad_arguments_are_explained() {
        let schema = of_arguments::<ExecuteCommandArgs>();
        let read = |value: Value| read::<ExecuteCommandArgs>("execute_command", &schema, &value).unwrap_err();
        let text = read(json!({"comand": "ls"}));
        assert!(text.contains("comand") && text.contains("command (string, required)"), "{text}");
        assert!(read(json!({})).contains("missing field `command`"));
        assert!(read(json!([1])).contains("not a JSON object"));
        assert!(read(json!("not json")).contains("not a JSON object"));
        assert!(read(json!({"command": {"a": 1}})).contains("invalid type"));
        assert!(read(json!({"command": "x", "timeout_secs": -5})).contains("-5"));
        assert!(read(json!({"command": "x", "user": "bob"})).contains("user|root"));
    }
}
