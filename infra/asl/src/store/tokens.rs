//! Answers to task tokens.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Store, StoreError};

/// Whether anybody waits for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenState {
    Waiting,
    /// Its execution is known, but no task waits for the token (any more).
    Over,
    Unknown,
}

impl Store {
    /// Keeps the answer for a token, so that it is not lost between here and the branch that waits. The
    /// first answer counts.
    pub(crate) async fn answer_token(
        &self,
        token: String,
        execution: i64,
        answer: String,
    ) -> Result<TokenState, StoreError> {
        self.writer
            .call(move |connection| {
                let kept = connection
                    .prepare_cached(
                        "UPDATE cursor SET callback = ?3
                         WHERE task_token = ?1 AND execution_id = ?2 AND callback IS NULL",
                    )?
                    .execute(params![token, execution, answer])?;
                if kept > 0 { Ok(TokenState::Waiting) } else { absent_token(connection, execution) }
            })
            .await
    }

    /// Whether a token is still waited for.
    pub(crate) async fn token_state(&self, token: String, execution: i64) -> Result<TokenState, StoreError> {
        self.read(move |connection| {
            let waiting: Option<i64> = connection
                .prepare_cached(
                    "SELECT 1 FROM cursor WHERE task_token = ?1 AND execution_id = ?2 AND callback IS NULL",
                )?
                .query_row(params![token, execution], |row| row.get(0))
                .optional()?;
            if waiting.is_some() { Ok(TokenState::Waiting) } else { absent_token(connection, execution) }
        })
        .await
    }

    /// Takes a token back because its task is failing. If an answer was kept before, it is returned and
    /// stands: its sender was told that it counts.
    pub(crate) async fn revoke_token(&self, token: String) -> Result<Option<String>, StoreError> {
        self.writer
            .call(move |connection| {
                connection
                    .prepare_cached(
                        "UPDATE cursor SET task_token = NULL WHERE task_token = ?1 AND callback IS NULL",
                    )?
                    .execute(params![token])?;
                kept_answer(connection, &token)
            })
            .await
    }

    /// The answer that was kept for a token.
    pub(crate) async fn kept_answer(&self, token: String) -> Result<Option<String>, StoreError> {
        self.writer.call(move |connection| kept_answer(connection, &token)).await
    }
}

fn kept_answer(connection: &Connection, token: &str) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached("SELECT callback FROM cursor WHERE task_token = ?1")?
        .query_row(params![token], |row| row.get(0))
        .optional()
        .map(Option::flatten)
}

fn absent_token(connection: &Connection, execution: i64) -> rusqlite::Result<TokenState> {
    let known: Option<i64> = connection
        .prepare_cached("SELECT 1 FROM execution WHERE id = ?1")?
        .query_row(params![execution], |row| row.get(0))
        .optional()?;
    Ok(if known.is_some() { TokenState::Over } else { TokenState::Unknown })
}
