//! What is known of models: context windows, answer lengths, prices. Prices change by the month and are nobody's secret,
//! so they come from a file of the operator's; without one a model has no price, and a budget in money is refused.

use std::collections::BTreeMap;

use pvm_application::ports_model::{ModelFacts, TokenUsage};
use serde::Deserialize;

/// Window assumed of a model that is not in the table, in tokens: what nearly all current ones have at least.
const WINDOW: u64 = 128_000;
/// Longest answer of such a model, in tokens: small enough for old ones, long enough for a file.
const ANSWER: u32 = 8_192;

/// Facts of models by name; a name that ends in `*` stands for all that begin so, and the longest that fits counts.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct ModelTable {
    models: BTreeMap<String, ModelRow>,
}

/// Facts of one model. Prices are US dollars per million tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRow {
    /// Tokens of its window.
    #[serde(default)]
    pub context_tokens: Option<u64>,
    /// The most tokens of an answer.
    #[serde(default)]
    pub answer_tokens: Option<u32>,
    /// Price of what is sent.
    #[serde(default)]
    pub input: Option<f64>,
    /// Price of what is answered.
    #[serde(default)]
    pub output: Option<f64>,
    /// Price of what comes from the provider's cache; the full one where absent.
    #[serde(default)]
    pub cache_read: Option<f64>,
    /// Price of what is put into the provider's cache; the full one where absent.
    #[serde(default)]
    pub cache_write: Option<f64>,
}

impl ModelTable {
    /// Reads a table: `{"anthropic/claude-*": {"context_tokens": 200000, "input": 3, "output": 15}}`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(json: &str) -> Result<Self, String> {
        let table: Self = serde_json::from_str(json).map_err(|error| error.to_string())?;
        for (name, row) in &table.models {
            let prices = [row.input, row.output, row.cache_read, row.cache_write];
            if prices.iter().flatten().any(|price| !(0.0..=1_000_000.0).contains(price)) {
                return Err(format!("{name}: a price must be 0 to 1,000,000 dollars per million tokens"));
            }
            if row.input.is_some() != row.output.is_some() {
                return Err(format!("{name}: input and output have a price, or neither"));
            }
        }
        Ok(table)
    }

    fn row(&self, model: &str) -> ModelRow {
        let fits = |name: &str| match name.strip_suffix('*') {
            Some(begin) => model.starts_with(begin),
            None => name == model,
        };
        let found = self.models.iter().filter(|(name, _)| fits(name)).max_by_key(|(name, _)| name.len());
        found.map(|(_, row)| *row).unwrap_or_default()
    }

    pub(crate) fn facts(&self, model: &str) -> ModelFacts {
        let row = self.row(model);
        ModelFacts {
            context_tokens: row.context_tokens.unwrap_or(WINDOW),
            answer_tokens: row.answer_tokens.unwrap_or(ANSWER),
            priced: row.input.is_some(),
        }
    }

    /// Puts the price into `usage`, in millionths of a dollar, rounded up.
    pub(crate) fn price(&self, model: &str, usage: &mut TokenUsage) {
        let row = self.row(model);
        let (Some(input), Some(output)) = (row.input, row.output) else { return };
        let fresh = usage.input.saturating_sub(usage.cache_read + usage.cache_write);
        // Dollars per million tokens are millionths of a dollar per token.
        let cost = fresh as f64 * input
            + usage.cache_read as f64 * row.cache_read.unwrap_or(input)
            + usage.cache_write as f64 * row.cache_write.unwrap_or(input)
            + usage.output as f64 * output;
        usage.cost_microusd = cost.ceil() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_that_fits_counts_and_prices_add_up() {
        let json =
            r#"{"a/*": {"context_tokens": 10}, "a/big*": {"input": 3, "output": 15, "cache_read": 0.3}}"#;
        let table = ModelTable::parse(json).unwrap();
        assert_eq!(table.facts("a/small").context_tokens, 10);
        assert_eq!((table.facts("a/big-1").context_tokens, table.facts("a/big-1").priced), (WINDOW, true));
        let mut usage = TokenUsage { input: 1000, output: 100, cache_read: 400, ..TokenUsage::default() };
        table.price("a/big-1", &mut usage);
        assert_eq!(usage.cost_microusd, 600 * 3 + 120 + 1500);
        assert!(ModelTable::parse(r#"{"a/b": {"input": -1, "output": 1}}"#).is_err());
        assert!(ModelTable::parse(r#"{"a/b": {"inputs": 1}}"#).is_err());
    }
}
