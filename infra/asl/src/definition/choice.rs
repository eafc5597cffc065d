//! Choice rules: how they are read and what they say about an input.

use std::cmp::Ordering;

use serde_json::Value;

use super::fields::Fields;
use super::flow;
use super::problems::Problems;
use crate::context::ContextScope;
use crate::failure::Failure;
use crate::path::{Path, Root};
use crate::template::resolve;

/// A Choice state's rules, tried in order.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub(crate) branches: Vec<(Rule, String)>,
    pub(crate) default: Option<String>,
}

/// A condition.
#[derive(Debug, Clone)]
pub(crate) enum Rule {
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
    Test { variable: Path, test: Test },
}

type TypeTest = fn(&Value) -> bool;

/// A condition on one value.
#[derive(Debug, Clone)]
pub(crate) enum Test {
    Compare { kind: Kind, relation: Relation, operand: Operand },
    IsPresent(bool),
    IsType { is: TypeTest, expected: bool },
}

/// What is compared. A value of another kind compares as false, as on AWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Number,
    Boolean,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    Equals,
    LessThan,
    LessThanEquals,
    GreaterThan,
    GreaterThanEquals,
}

#[derive(Debug, Clone)]
pub(crate) enum Operand {
    Literal(Value),
    Path(Path),
}

/// Every comparison by its name; each also exists with `Path` behind it.
const COMPARISONS: [(&str, &str, Kind, Relation); 11] = [
    ("StringEquals", "StringEqualsPath", Kind::Text, Relation::Equals),
    ("StringLessThan", "StringLessThanPath", Kind::Text, Relation::LessThan),
    ("StringLessThanEquals", "StringLessThanEqualsPath", Kind::Text, Relation::LessThanEquals),
    ("StringGreaterThan", "StringGreaterThanPath", Kind::Text, Relation::GreaterThan),
    ("StringGreaterThanEquals", "StringGreaterThanEqualsPath", Kind::Text, Relation::GreaterThanEquals),
    ("NumericEquals", "NumericEqualsPath", Kind::Number, Relation::Equals),
    ("NumericLessThan", "NumericLessThanPath", Kind::Number, Relation::LessThan),
    ("NumericLessThanEquals", "NumericLessThanEqualsPath", Kind::Number, Relation::LessThanEquals),
    ("NumericGreaterThan", "NumericGreaterThanPath", Kind::Number, Relation::GreaterThan),
    ("NumericGreaterThanEquals", "NumericGreaterThanEqualsPath", Kind::Number, Relation::GreaterThanEquals),
    ("BooleanEquals", "BooleanEqualsPath", Kind::Boolean, Relation::Equals),
];

const TYPE_TESTS: [(&str, TypeTest); 4] = [
    ("IsNull", Value::is_null),
    ("IsString", Value::is_string),
    ("IsNumeric", Value::is_number),
    ("IsBoolean", Value::is_boolean),
];

impl Choice {
    pub(super) fn parse(fields: &mut Fields<'_>, scope: ContextScope, problems: &mut Problems) -> Self {
        let branches = match fields.get("Choices") {
            Some(Value::Array(rules)) if !rules.is_empty() => rules
                .iter()
                .enumerate()
                .filter_map(|(index, rule)| {
                    let place = format!("Choices {}: ", index + 1);
                    let mut fields = Fields::of(rule, place.as_str(), problems)?;
                    let next = fields.required_string("Next", problems).unwrap_or_default().to_owned();
                    fields.comment(problems);
                    Some((parse_rule(fields, &place, scope, problems)?, next))
                })
                .collect(),
            _ => {
                problems.push("Choices must be a list of rules that is not empty");
                Vec::new()
            }
        };
        let default = fields.string("Default", problems).map(ToOwned::to_owned);
        Self { branches, default }
    }

    /// The state that the input leads to; None if no rule matches and there is no default.
    pub(crate) fn decide(&self, input: &Value, context: &Value) -> Result<Option<&str>, Failure> {
        for (rule, next) in &self.branches {
            if rule.holds(input, context)? {
                return Ok(Some(next));
            }
        }
        Ok(self.default.as_deref())
    }

    pub(crate) fn uses_context(&self) -> bool {
        self.branches.iter().any(|(rule, _)| rule.uses_context())
    }
}

fn parse_nested(value: &Value, place: &str, scope: ContextScope, problems: &mut Problems) -> Option<Rule> {
    let fields = Fields::of(value, place, problems)?;
    parse_rule(fields, place, scope, problems)
}

fn parse_rule(
    mut fields: Fields<'_>,
    place: &str,
    scope: ContextScope,
    problems: &mut Problems,
) -> Option<Rule> {
    let mut rules = Vec::new();
    for (name, combine) in [("And", Rule::And as fn(Vec<Rule>) -> Rule), ("Or", Rule::Or)] {
        let Some(value) = fields.get(name) else { continue };
        match value.as_array().filter(|list| !list.is_empty()) {
            Some(list) => rules.push(combine(
                list.iter()
                    .enumerate()
                    .filter_map(|(index, rule)| {
                        parse_nested(rule, &format!("{place}{name} {}: ", index + 1), scope, problems)
                    })
                    .collect(),
            )),
            None => fields.complain(&format!("{name} must be a list of rules that is not empty"), problems),
        }
    }
    if let Some(value) = fields.get("Not") {
        rules.extend(
            parse_nested(value, &format!("{place}Not: "), scope, problems).map(|r| Rule::Not(Box::new(r))),
        );
    }
    let variable = flow::path(&mut fields, "Variable", scope, problems);
    let tests = parse_tests(&mut fields, scope, problems);
    match (variable, tests) {
        (Some(variable), mut tests) if tests.len() == 1 => {
            rules.extend(tests.pop().map(|test| Rule::Test { variable, test }));
        }
        (Some(_), _) => fields.complain("Variable needs exactly one comparison beside it", problems),
        (None, tests) if !tests.is_empty() => {
            fields.complain("a comparison needs the Variable that it is about", problems);
        }
        (None, _) => {}
    }
    if rules.len() != 1 {
        fields.complain("a rule is exactly one of And, Or, Not, or a Variable with a comparison", problems);
    }
    fields.finish(problems);
    rules.pop()
}

fn parse_tests(fields: &mut Fields<'_>, scope: ContextScope, problems: &mut Problems) -> Vec<Test> {
    let mut tests = Vec::new();
    for (name, path_name, kind, relation) in COMPARISONS {
        if let Some(value) = fields.get(name) {
            if kind.is_of(value) {
                tests.push(Test::Compare { kind, relation, operand: Operand::Literal(value.clone()) });
            } else {
                fields.complain(&format!("{name} must be a {}", kind.noun()), problems);
            }
        }
        if let Some(path) = flow::path(fields, path_name, scope, problems) {
            tests.push(Test::Compare { kind, relation, operand: Operand::Path(path) });
        }
    }
    if let Some(expected) = boolean(fields, "IsPresent", problems) {
        tests.push(Test::IsPresent(expected));
    }
    for (name, is) in TYPE_TESTS {
        if let Some(expected) = boolean(fields, name, problems) {
            tests.push(Test::IsType { is, expected });
        }
    }
    tests
}

fn boolean(fields: &mut Fields<'_>, name: &'static str, problems: &mut Problems) -> Option<bool> {
    let value = fields.get(name)?;
    if !value.is_boolean() {
        fields.complain(&format!("{name} must be true or false"), problems);
    }
    value.as_bool()
}

impl Rule {
    fn holds(&self, input: &Value, context: &Value) -> Result<bool, Failure> {
        match self {
            Self::And(rules) => {
                for rule in rules {
                    if !rule.holds(input, context)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Self::Or(rules) => {
                for rule in rules {
                    if rule.holds(input, context)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Not(rule) => Ok(!rule.holds(input, context)?),
            Self::Test { variable, test } => test.holds(variable, input, context),
        }
    }

    fn uses_context(&self) -> bool {
        match self {
            Self::And(rules) | Self::Or(rules) => rules.iter().any(Self::uses_context),
            Self::Not(rule) => rule.uses_context(),
            Self::Test { variable, test } => {
                let operand = match test {
                    Test::Compare { operand: Operand::Path(path), .. } => Some(path),
                    _ => None,
                };
                [Some(variable), operand].into_iter().flatten().any(|path| path.root() == Root::Context)
            }
        }
    }
}

impl Test {
    fn holds(&self, variable: &Path, input: &Value, context: &Value) -> Result<bool, Failure> {
        if let Self::IsPresent(expected) = self {
            let document = if variable.root() == Root::Context { context } else { input };
            return Ok(variable.find(document).is_some() == *expected);
        }
        let value = resolve(variable, "Variable", input, context)?;
        Ok(match self {
            Self::IsPresent(expected) => *expected,
            Self::IsType { is, expected } => is(value) == *expected,
            Self::Compare { kind, relation, operand } => {
                let other = match operand {
                    Operand::Literal(literal) => literal,
                    Operand::Path(path) => resolve(path, "the value to compare with", input, context)?,
                };
                kind.compare(value, other).is_some_and(|order| relation.accepts(order))
            }
        })
    }
}

impl Kind {
    fn is_of(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }

    fn compare(self, left: &Value, right: &Value) -> Option<Ordering> {
        match self {
            Self::Text => Some(left.as_str()?.cmp(right.as_str()?)),
            Self::Boolean => Some(left.as_bool()?.cmp(&right.as_bool()?)),
            Self::Number => match (left.as_i64(), right.as_i64()) {
                // Whole numbers as such: a float could not tell large ones apart.
                (Some(left), Some(right)) => Some(left.cmp(&right)),
                _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
            },
        }
    }
}

impl Relation {
    fn accepts(self, order: Ordering) -> bool {
        match self {
            Self::Equals => order.is_eq(),
            Self::LessThan => order.is_lt(),
            Self::LessThanEquals => order.is_le(),
            Self::GreaterThan => order.is_gt(),
            Self::GreaterThanEquals => order.is_ge(),
        }
    }
}
