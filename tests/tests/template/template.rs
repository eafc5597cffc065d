//! `template.yaml` as data. Tags become their long forms: `!Ref X` is `{"Ref": "X"}`, `!Sub X` is `{"Fn::Sub": "X"}`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use serde_yaml_ng::Value as Yaml;

/// The template of the repository.
pub(crate) static TEMPLATE: LazyLock<Template> = LazyLock::new(Template::load);

pub(crate) struct Template {
    pub(crate) whole: Value,
    pub(crate) functions: BTreeMap<String, Function>,
}

/// A function of the template.
#[derive(Debug)]
pub(crate) struct Function {
    /// Its program.
    pub(crate) binary: String,
    /// Names of its policies without `Policy`.
    pub(crate) policies: BTreeSet<String>,
    /// Seconds.
    pub(crate) timeout: u64,
    /// Megabytes.
    pub(crate) memory: u64,
    /// Its HTTP routes.
    pub(crate) routes: Vec<Route>,
}

/// An HTTP route of the template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) stream: bool,
    /// Name of its authorizer; empty for the default one.
    pub(crate) authorizer: String,
}

impl Template {
    fn load() -> Self {
        let yaml: Yaml = serde_yaml_ng::from_str(&super::text("template.yaml")).unwrap();
        let whole = plain(yaml);
        let globals = &whole["Globals"]["Function"];
        let functions = whole["Resources"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(_, resource)| resource["Type"] == "AWS::Serverless::Function")
            .map(|(id, resource)| (id.clone(), Function::of(id, resource, globals)))
            .collect();
        Self { whole, functions }
    }

    /// The properties of a resource.
    #[track_caller]
    pub(crate) fn properties(&self, id: &str) -> &Value {
        let properties = &self.whole["Resources"][id]["Properties"];
        assert!(!properties.is_null(), "template.yaml has no resource {id}");
        properties
    }

    /// Ids and properties of all resources of a type.
    pub(crate) fn of_type<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a String, &'a Value)> {
        let resources = self.whole["Resources"].as_object().unwrap();
        resources.iter().filter(move |(_, it)| it["Type"] == kind).map(|(id, it)| (id, &it["Properties"]))
    }

    /// The function of a program.
    pub(crate) fn function_of(&self, binary: &str) -> Option<&Function> {
        self.functions.values().find(|function| function.binary == binary)
    }
}

impl Function {
    fn of(id: &str, resource: &Value, globals: &Value) -> Self {
        let properties = &resource["Properties"];
        let number = |name: &str| {
            properties[name]
                .as_u64()
                .or_else(|| globals[name].as_u64())
                .unwrap_or_else(|| panic!("{id}: no {name}"))
        };
        let policies = properties["Policies"].as_array().map(Vec::as_slice).unwrap_or_default();
        let policy = |policy: &Value| {
            let name =
                policy["Ref"].as_str().unwrap_or_else(|| panic!("{id}: a policy that is not one of a port"));
            name.strip_suffix("Policy")
                .unwrap_or_else(|| panic!("{id}: {name} is not called ...Policy"))
                .to_owned()
        };
        let events = properties["Events"].as_object();
        let events = events.into_iter().flat_map(Map::values).filter(|event| event["Type"] == "Api");
        let binary = resource["Metadata"]["BuildProperties"]["Binary"].as_str();
        Self {
            binary: binary.unwrap_or_else(|| panic!("{id}: no Metadata.BuildProperties.Binary")).to_owned(),
            policies: policies.iter().map(policy).collect(),
            timeout: number("Timeout"),
            memory: number("MemorySize"),
            routes: events.map(|event| Route::of(&event["Properties"])).collect(),
        }
    }
}

impl Route {
    fn of(event: &Value) -> Self {
        Self {
            method: event["Method"].as_str().unwrap().to_owned(),
            path: event["Path"].as_str().unwrap().to_owned(),
            stream: event["ResponseTransferMode"] == "RESPONSE_STREAM",
            authorizer: event["Auth"]["Authorizer"].as_str().unwrap_or_default().to_owned(),
        }
    }
}

fn plain(yaml: Yaml) -> Value {
    match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(flag) => flag.into(),
        Yaml::Number(number) => number.as_i64().map_or_else(|| json!(number.as_f64()), Value::from),
        Yaml::String(text) => text.into(),
        Yaml::Sequence(items) => items.into_iter().map(plain).collect(),
        Yaml::Mapping(pairs) => {
            let key = |key: Yaml| match key {
                Yaml::String(text) => text,
                other => serde_yaml_ng::to_string(&other).unwrap().trim().to_owned(),
            };
            Value::Object(pairs.into_iter().map(|(name, value)| (key(name), plain(value))).collect())
        }
        Yaml::Tagged(tagged) => {
            let tag = tagged.tag.to_string();
            let name = tag.trim_start_matches('!');
            let value = plain(tagged.value);
            match name {
                "Ref" | "Condition" => json!({ name: value }),
                "GetAtt" => {
                    let parts: Vec<&str> = value.as_str().unwrap().splitn(2, '.').collect();
                    json!({ "Fn::GetAtt": parts })
                }
                other => json!({ format!("Fn::{other}"): value }),
            }
        }
    }
}

#[test]
fn a_function_is_called_after_its_program() {
    let expected = |binary: &str| {
        let words = binary.split('-').map(|word| word[..1].to_uppercase() + &word[1..]);
        words.collect::<String>() + "Function"
    };
    let wrong = TEMPLATE.functions.iter().filter(|(id, function)| **id != expected(&function.binary));
    super::none(wrong.map(|(id, function)| format!("{id} runs {}", function.binary)).collect());
}

#[test]
fn a_function_has_enough_memory_for_a_tls_connection_and_no_more_time_than_aws_gives() {
    let wrong = |function: &Function| function.memory < 256 || !(1..=900).contains(&function.timeout);
    let wrong = TEMPLATE.functions.iter().filter(|(_, function)| wrong(function));
    super::none(wrong.map(|(id, function)| format!("{id}: {function:?}")).collect());
}

#[test]
fn a_number_that_a_deployer_gives_has_a_range_and_a_text_a_pattern() {
    let bounded = |parameter: &Value| match parameter["Type"].as_str().unwrap() {
        "Number" => parameter["MinValue"].is_number() && parameter["MaxValue"].is_number(),
        "CommaDelimitedList" => true,
        _ => parameter["AllowedPattern"].is_string() || parameter["MaxLength"].is_number(),
    };
    let wrong = TEMPLATE.whole["Parameters"].as_object().unwrap().iter();
    let wrong =
        wrong.filter(|(_, it)| it["AllowedValues"].is_null() && !bounded(it) || it["Description"].is_null());
    super::none(wrong.map(|(name, _)| format!("{name} takes anything, or is not described")).collect());
}

/// CloudFormation holds a value against the whole pattern, and a number against both ends of its range.
fn accepts(parameter: &str, value: &str) -> bool {
    let rules = &TEMPLATE.whole["Parameters"][parameter];
    assert!(rules.is_object(), "template.yaml has no parameter {parameter}");
    let allowed = rules["AllowedValues"].as_array().is_none_or(|values| {
        values.iter().any(|it| it.as_str().map_or_else(|| it.to_string(), str::to_owned) == value)
    });
    let pattern = rules["AllowedPattern"]
        .as_str()
        .is_none_or(|pattern| regex::Regex::new(&format!("^(?:{pattern})$")).unwrap().is_match(value));
    let longest = rules["MaxLength"].as_u64().is_none_or(|most| value.len() as u64 <= most);
    let within = rules["Type"] != "Number"
        || value.parse::<f64>().is_ok_and(|number| {
            rules["MinValue"].as_f64().is_none_or(|least| number >= least)
                && rules["MaxValue"].as_f64().is_none_or(|most| number <= most)
        });
    allowed && pattern && longest && within
}

#[test]
fn a_value_out_of_range_is_refused_and_the_defaults_are_not() {
    for (name, rules) in TEMPLATE.whole["Parameters"].as_object().unwrap() {
        let default = rules["Default"].as_str().map_or_else(|| rules["Default"].to_string(), str::to_owned);
        assert!(accepts(name, &default), "{name} refuses its own default {default:?}");
    }
    for (name, good, bad) in [
        ("Architecture", "x86_64", "riscv64"),
        ("LogRetentionDays", "90", "91"),
        ("LogLevel", "info,pvm_api=debug", "info; rm"),
        ("ThrottleRate", "10000", "10001"),
        ("ThrottleBurst", "1", "0"),
        ("StreamConcurrency", "0", "-1"),
        ("PollMillis", "100", "99"),
        ("OidcIssuer", "https://issuer.example", "http://issuer.example"),
        ("OidcJwksUrl", "https://issuer.example/keys", "ftp://issuer.example/keys"),
        ("PublicUrl", "https://api.example.com", "https://api.example.com/"),
        ("E2bDomain", "e2b.example.com", "e2b example"),
        ("E2bApiUrl", "http://10.0.0.1:8788", "10.0.0.1:8788"),
        ("DefaultModel", "anthropic/claude", "claude"),
        ("AlarmTopicArn", "arn:aws:sns:eu-west-1:123456789012:alarms", "alarms"),
        ("DeletionProtection", "false", "no"),
    ] {
        assert!(accepts(name, good), "{name} refuses {good}");
        assert!(!accepts(name, bad), "{name} takes {bad}");
    }
}
