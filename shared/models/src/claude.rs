//! What Claude models take, by their names: the same on every door that they are behind.

/// Version of a Claude model by its name, such as `us.anthropic.claude-opus-4-1-20250805-v1:0` or
/// `claude-3-5-haiku-20241022`: its first one or two short numbers. `None` for a model that is no Claude.
pub(crate) fn version(model: &str) -> Option<(u32, u32)> {
    let (_, name) = model.split_once("claude-")?;
    let mut words = name.split('-').skip_while(|word| word.parse::<u32>().is_err());
    // Names without a number of their own (`claude-v2`, `claude-instant-v1`) are older than all that have one.
    let Some(major) = words.next().and_then(|word| word.parse().ok()) else { return Some((2, 0)) };
    // A long number is a date.
    let minor = words.next().and_then(|word| word.parse().ok()).filter(|minor| *minor < 1000);
    Some((major, minor.unwrap_or(0)))
}

/// Whether a model takes a sampling temperature: from 4.7 on Claude refuses a request that names a sampling parameter.
pub(crate) fn takes_temperature(model: &str) -> bool {
    version(model).is_none_or(|version| version < (4, 7))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_follows_from_the_name() {
        let version = |model: &str| version(model).unwrap();
        assert_eq!(version("us.anthropic.claude-opus-4-1-20250805-v1:0"), (4, 1));
        assert_eq!(version("anthropic.claude-sonnet-4-20250514-v1:0"), (4, 0));
        assert_eq!(version("anthropic.claude-3-5-haiku-20241022-v1:0"), (3, 5));
        assert_eq!(version("claude-3-5-haiku-20241022"), (3, 5));
        assert_eq!(version("global.anthropic.claude-sonnet-5"), (5, 0));
        assert_eq!(version("anthropic.claude-v2:1"), (2, 0));
        assert_eq!(self::version("meta.llama3-70b-instruct-v1:0"), None);
    }

    #[test]
    fn newer_models_take_no_temperature() {
        for (model, takes) in [
            ("claude-sonnet-5", false),
            ("claude-opus-4-7", false),
            ("claude-opus-4-6", true),
            ("claude-3-haiku-20240307", true),
            ("some-other-model", true),
        ] {
            assert_eq!(takes_temperature(model), takes, "{model}");
        }
    }
}
