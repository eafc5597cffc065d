//! The agents that come with the system, as Markdown files compiled in.

use std::sync::LazyLock;

use pvm_domain::agent::AgentDefinition;

use super::markdown::parse_markdown;

const FILES: [&str; 4] = [
    include_str!("builtin/dev_agent.md"),
    include_str!("builtin/designer_agent.md"),
    include_str!("builtin/data_agent.md"),
    include_str!("builtin/reviewer_agent.md"),
];

static AGENTS: LazyLock<Vec<AgentDefinition>> =
    LazyLock::new(|| FILES.iter().filter_map(|file| parse_markdown(file).ok()).collect());

/// The built-in agents, in the order in which they are listed.
pub fn builtin() -> &'static [AgentDefinition] {
    &AGENTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_file_is_a_good_definition() {
        for file in FILES {
            parse_markdown(file).unwrap().check().unwrap();
        }
        let names: Vec<_> = builtin().iter().map(|agent| agent.agent_id.as_str()).collect();
        assert_eq!(names, ["dev_agent", "designer_agent", "data_agent", "reviewer_agent"]);
    }
}
