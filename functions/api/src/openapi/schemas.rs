//! Schemas of contract types: what is accepted (fields with a default may be absent) and what is answered (every field is
//! there) are told apart where they differ.

use pvm_domain::ids;
use schemars::JsonSchema;
use schemars::generate::{Contract, SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

const PREFIX: &str = "#/components/schemas/";

/// Collects schemas.
#[derive(Debug)]
pub(super) struct Schemas {
    accepted: SchemaGenerator,
    answered: SchemaGenerator,
}

impl Default for Schemas {
    fn default() -> Self {
        let settings = |contract| {
            let mut settings = SchemaSettings::draft2020_12();
            settings.definitions_path = "/components/schemas".into();
            settings.contract = contract;
            SchemaGenerator::new(settings)
        };
        Self { accepted: settings(Contract::Deserialize), answered: settings(Contract::Serialize) }
    }
}

impl Schemas {
    /// The schema of a body.
    pub(super) fn body<T: JsonSchema>(&mut self) -> Value {
        // Named apart from the answers' schema of the same type; `merge_equal` looks whether it has to be.
        let mut schema = self.accepted.subschema_for::<T>().to_value();
        rename(&mut schema, as_input);
        schema
    }

    /// The schema of an answer.
    pub(super) fn answer<T: JsonSchema>(&mut self) -> Value {
        self.answered.subschema_for::<T>().to_value()
    }

    /// The schema of an id in a path.
    pub(super) fn id(&mut self, name: &str) -> Value {
        match name {
            "project_id" => self.answer::<ids::ProjectId>(),
            "file_id" => self.answer::<ids::FileId>(),
            "service_id" => self.answer::<ids::ServiceId>(),
            "command_id" => self.answer::<ids::CommandId>(),
            "approval_id" => self.answer::<ids::ApprovalId>(),
            "key_id" => self.answer::<ids::KeyId>(),
            "archive_id" => self.answer::<ids::ArchiveId>(),
            "number" => json!({"type": "integer", "minimum": 1}),
            // Also a client's own name for a conversation, and the name of an agent.
            _ => json!({"type": "string"}),
        }
    }

    /// All schemas by name; those of bodies as `XInput`.
    pub(super) fn finish(mut self) -> Map<String, Value> {
        let mut all = self.answered.take_definitions(true);
        for (name, mut schema) in self.accepted.take_definitions(true) {
            rename(&mut schema, as_input);
            all.insert(as_input(&name), schema);
        }
        all.sort_keys();
        all
    }
}

fn as_input(name: &str) -> String {
    format!("{name}Input")
}

/// Gives every reference below `value` the name that `to` makes of it.
fn rename(value: &mut Value, to: impl Fn(&str) -> String + Copy) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get_mut("$ref")
                && let Some(name) = reference.strip_prefix(PREFIX)
            {
                *reference = format!("{PREFIX}{}", to(name));
            }
            map.values_mut().for_each(|value| rename(value, to));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| rename(value, to)),
        _ => {}
    }
}

/// Makes one of each `XInput` and `X` in the document that say the same, and names an `XInput` that has no `X` just `X`.
/// Repeated, because two schemas are equal only once what they refer to is.
pub(super) fn merge_equal(document: &mut Value) {
    while let Some((name, plain)) = next_to_merge(document) {
        if let Some(all) = document["components"]["schemas"].as_object_mut()
            && let Some(schema) = all.remove(&name)
        {
            all.entry(plain.clone()).or_insert(schema);
        }
        rename(document, |known| if known == name { plain.clone() } else { known.to_owned() });
    }
    if let Some(all) = document["components"]["schemas"].as_object_mut() {
        all.sort_keys();
    }
}

fn next_to_merge(document: &Value) -> Option<(String, String)> {
    let all = document["components"]["schemas"].as_object()?;
    all.iter().find_map(|(name, schema)| {
        let plain = name.strip_suffix("Input")?;
        all.get(plain).is_none_or(|other| other == schema).then(|| (name.clone(), plain.to_owned()))
    })
}
