//! `@agent_id` in a text hands over to that agent.

/// The agents of `known` that `text` mentions, each once, in the order of their first mention. An `@` after a letter,
/// digit, or one of `._-/` is part of an address and mentions nobody.
pub fn mentions<'a>(text: &str, known: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let mut found: Vec<String> = Vec::new();
    for (at, _) in text.match_indices('@') {
        if text[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || "._-/".contains(c)) {
            continue;
        }
        let rest = &text[at + 1..];
        let name = &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())];
        // `@dev_agent-` and `@dev_agent_` at the end of a phrase still mean dev_agent.
        let trimmed = name.trim_end_matches(['-', '_']);
        let meant = known.clone().find(|agent| *agent == name || *agent == trimmed);
        if let Some(agent) = meant
            && !found.iter().any(|seen| seen == agent)
        {
            found.push(agent.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_found_by_name_once_and_in_order() {
        let known = ["dev_agent", "designer_agent", "dev"];
        let of = |text: &str| mentions(text, known.iter().copied());
        assert_eq!(
            of("@designer_agent, then @dev_agent and @designer_agent."),
            ["designer_agent", "dev_agent"]
        );
        assert_eq!(of("@dev: go on"), ["dev"]);
        assert_eq!(of("Ask @dev_agent-"), ["dev_agent"]);
        for nobody in ["mail x@dev_agent.org", "npm i @scope/dev", "@nobody", "a/@dev_agent", "@Dev_agent"] {
            assert!(of(nobody).is_empty(), "{nobody}");
        }
    }
}
