//! The model providers that the settings set up.

use std::collections::BTreeMap;

use pvm_aws::clients::{self, Base, ClientSettings};
use pvm_models::{
    ANTHROPIC_URL, ANTHROPIC_VERSION, AnthropicSettings, BedrockClient, ModelTable, OPENAI_URL,
    OpenAiSettings, ProviderKey, Providers,
};

use crate::settings::{BadSettings, Settings};

/// Providers by the environment, and by `keys`, which a secret holds as JSON by provider. The environment goes first.
///
/// # Errors
/// The file of `PVM_MODELS_FILE` cannot be used.
pub fn providers(settings: &Settings, keys: &BTreeMap<String, String>) -> Result<Providers, BadSettings> {
    let key = |own: Option<&crate::settings::Secret>, name: &str| match own {
        Some(key) => Some(ProviderKey::new(key.reveal())),
        None => keys.get(name).map(ProviderKey::new),
    };
    let openai_key = key(settings.openai_api_key.as_ref(), "openai");
    let openai = (openai_key.is_some() || settings.openai_base_url.is_some()).then(|| OpenAiSettings {
        base_url: settings.openai_base_url.clone().unwrap_or_else(|| OPENAI_URL.to_owned()),
        key: openai_key,
    });
    let anthropic = key(settings.anthropic_api_key.as_ref(), "anthropic").map(|key| AnthropicSettings {
        base_url: settings.anthropic_base_url.clone().unwrap_or_else(|| ANTHROPIC_URL.to_owned()),
        key,
        version: settings.anthropic_version.clone().unwrap_or_else(|| ANTHROPIC_VERSION.to_owned()),
    });
    let known = match (&settings.models, &settings.models_file) {
        (Some(text), _) => {
            ModelTable::parse(text).map_err(|reason| BadSettings(vec![format!("PVM_MODELS: {reason}")]))?
        }
        (None, Some(path)) => table(path)?,
        (None, None) => ModelTable::default(),
    };
    Ok(Providers { openai, anthropic, bedrock: None, known })
}

/// Reads keys by provider, `{"anthropic": "...", "openai": "..."}`, from what the variable `name` refers to.
///
/// # Errors
/// Where it is not such JSON. The text itself is never told: it may hold a key.
pub fn key_table(name: &str, text: &str) -> Result<BTreeMap<String, String>, BadSettings> {
    let bad = || BadSettings(vec![format!("what {name} refers to is not JSON with a key by provider")]);
    serde_json::from_str(text).map_err(|_| bad())
}

/// Bedrock's client over AWS's own settings, where a region is set for it.
pub(crate) fn bedrock(settings: &Settings, base: &Base) -> Option<BedrockClient> {
    let region = settings.bedrock_region.as_deref()?;
    Some(base.bedrock(region, settings.bedrock_url.as_deref()))
}

/// The same for a process that has no AWS settings of its own: by what the environment says.
pub async fn bedrock_of_environment(settings: &Settings) -> Option<BedrockClient> {
    let region = settings.bedrock_region.clone()?;
    let base = clients::load(ClientSettings { region: Some(region), ..ClientSettings::default() }).await;
    bedrock(settings, &base)
}

fn table(path: &std::path::Path) -> Result<ModelTable, BadSettings> {
    let bad = |reason: String| BadSettings(vec![format!("PVM_MODELS_FILE: {}: {reason}", path.display())]);
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    ModelTable::parse(&text).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_there_when_its_key_is() {
        let none = BTreeMap::new();
        let of = |set: &'static [(&'static str, &'static str)]| {
            let lookup =
                |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned());
            Settings::from_lookup(lookup).unwrap()
        };
        let nothing = providers(&of(&[]), &none).unwrap();
        assert!(nothing.openai.is_none() && nothing.anthropic.is_none());
        let local = providers(&of(&[("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1")]), &none).unwrap();
        assert!(local.openai.is_some_and(|openai| openai.key.is_none()));
        let secret = BTreeMap::from([("anthropic".to_owned(), "k".to_owned())]);
        let anthropic = providers(&of(&[]), &secret).unwrap().anthropic.unwrap();
        assert_eq!(anthropic.version, ANTHROPIC_VERSION);
        let missing = providers(&of(&[("PVM_MODELS_FILE", "/nowhere.json")]), &none).unwrap_err().to_string();
        assert!(missing.contains("PVM_MODELS_FILE: /nowhere.json"), "{missing}");
        let bad =
            providers(&of(&[("PVM_MODELS", r#"{"a/b": {"inputs": 1}}"#)]), &none).unwrap_err().to_string();
        assert!(bad.starts_with("PVM_MODELS: ") && bad.contains("inputs"), "{bad}");
    }

    #[test]
    fn a_key_table_that_cannot_be_read_does_not_show_itself() {
        let read = key_table("X", r#"{"openai": "a", "anthropic": "b"}"#).unwrap();
        assert_eq!((read["openai"].as_str(), read["anthropic"].as_str()), ("a", "b"));
        for bad in ["sk-hush", r#"{"openai": {"key": "sk-hush"}}"#, r#"["sk-hush"]"#] {
            let told = key_table("X", bad).unwrap_err().to_string();
            assert!(told.contains('X') && !told.contains("sk-hush"), "{told}");
        }
    }

    #[tokio::test]
    async fn bedrock_is_there_when_its_region_is() {
        let of = |region: &'static str| {
            let lookup = |name: &str| (name == "PVM_BEDROCK_REGION").then(|| region.to_owned());
            Settings::from_lookup(lookup).unwrap()
        };
        assert!(bedrock_of_environment(&of("")).await.is_none());
        let client = bedrock_of_environment(&of("eu-west-1")).await.unwrap();
        assert_eq!(client.config().region().map(AsRef::as_ref), Some("eu-west-1"));
    }
}
