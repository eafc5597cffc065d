//! Names of machines and executions as AWS writes them.

use crate::limits;

/// Where the engine pretends to live. The values stand in every ARN it makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// An AWS region name.
    pub region: String,
    /// Twelve digits.
    pub account: String,
}

impl Default for Home {
    fn default() -> Self {
        Self { region: "us-east-1".to_owned(), account: "000000000000".to_owned() }
    }
}

impl Home {
    /// The ARN of a state machine.
    pub fn machine_arn(&self, machine: &str) -> String {
        format!("arn:aws:states:{}:{}:stateMachine:{machine}", self.region, self.account)
    }

    /// The ARN of an execution.
    pub fn execution_arn(&self, machine: &str, execution: &str) -> String {
        format!("arn:aws:states:{}:{}:execution:{machine}:{execution}", self.region, self.account)
    }

    /// The role that the context object and descriptions name. Nothing is authorised by it here.
    pub(crate) fn role_arn(&self) -> String {
        format!("arn:aws:iam::{}:role/state-machine", self.account)
    }

    /// The machine's name out of its ARN.
    pub(crate) fn parse_machine(&self, arn: &str) -> Parsed<String> {
        match self.parse(arn, "stateMachine") {
            Some((own, rest)) if rest.len() == 1 && !rest[0].is_empty() => {
                if own {
                    Parsed::Here(rest[0].to_owned())
                } else {
                    Parsed::Elsewhere
                }
            }
            _ => Parsed::NoArn,
        }
    }

    /// Machine and execution name out of an execution's ARN.
    pub(crate) fn parse_execution(&self, arn: &str) -> Parsed<(String, String)> {
        match self.parse(arn, "execution") {
            Some((own, rest)) if rest.len() == 2 && rest.iter().all(|part| !part.is_empty()) => {
                if own {
                    Parsed::Here((rest[0].to_owned(), rest[1].to_owned()))
                } else {
                    Parsed::Elsewhere
                }
            }
            _ => Parsed::NoArn,
        }
    }

    /// Whether the ARN is of this home, and what stands behind its kind.
    fn parse<'a>(&self, arn: &'a str, kind: &str) -> Option<(bool, Vec<&'a str>)> {
        let mut parts = arn.split(':');
        let prefix: Vec<&str> = parts.by_ref().take(6).collect();
        let ["arn", partition, "states", region, account, found] = prefix[..] else { return None };
        (found == kind).then(|| {
            (partition == "aws" && region == self.region && account == self.account, parts.collect())
        })
    }
}

/// What a text that should be an ARN names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parsed<T> {
    /// Something of this home.
    Here(T),
    /// Something of another region or account, which cannot be known here.
    Elsewhere,
    /// It is no ARN of the wanted kind.
    NoArn,
}

/// Whether AWS takes this as the name of an execution or a machine.
pub(crate) fn is_valid_name(name: &str) -> bool {
    const FORBIDDEN: &str = "<>{}[]?*\"#%\\^|~`$&,;:/";
    let count = name.chars().count();
    (1..=limits::MAX_NAME_CHARS).contains(&count)
        && !name.chars().any(|c| c.is_whitespace() || c.is_control() || FORBIDDEN.contains(c))
}
