//! Completions: paths of files and names of services for the resource templates.

use pvm_application::error::AppResult;
use pvm_application::{files, services};
use pvm_domain::limits;
use rmcp::ErrorData;
use rmcp::model::{CompleteRequestParams, CompleteResult, CompletionInfo, Reference};

use crate::parts::Parts;
use crate::resources::{FILE_TEMPLATE, LOGS_TEMPLATE};
use crate::server::{ProjectServer, protocol_error};

impl<P: Parts> ProjectServer<P> {
    /// `completion/complete`. What has nothing to suggest answers an empty list.
    pub(crate) async fn suggestions(
        &self,
        request: CompleteRequestParams,
    ) -> Result<CompleteResult, ErrorData> {
        let typed = request.argument.value.as_str();
        let found = match (&request.r#ref, request.argument.name.as_str()) {
            (Reference::Resource(template), "path") if template.uri == FILE_TEMPLATE => {
                self.paths(typed).await
            }
            (Reference::Resource(template), "name") if template.uri == LOGS_TEMPLATE => {
                self.names(typed).await
            }
            _ => Ok((Vec::new(), false)),
        };
        let (values, more) = found.map_err(|error| protocol_error(&error))?;
        let info = CompletionInfo::with_pagination(values, None, more);
        info.map(CompleteResult::new).map_err(|text| ErrorData::internal_error(text, None))
    }

    async fn paths(&self, typed: &str) -> AppResult<(Vec<String>, bool)> {
        if typed.len() > limits::PATH_BYTES {
            return Ok((Vec::new(), false));
        }
        let id = &self.project.project_id;
        let most = CompletionInfo::MAX_VALUES as u32;
        let page = files::list::list(self.store(), &self.principal, id, typed, most, None).await?;
        let paths = page.items.into_iter().map(|file| file.path.to_string()).collect();
        Ok((paths, page.next.is_some()))
    }

    async fn names(&self, typed: &str) -> AppResult<(Vec<String>, bool)> {
        let all = services::records(self.store(), &self.project.project_id).await?;
        let mut names: Vec<String> =
            all.into_iter().map(|service| service.name).filter(|name| name.starts_with(typed)).collect();
        let more = names.len() > CompletionInfo::MAX_VALUES;
        names.truncate(CompletionInfo::MAX_VALUES);
        Ok((names, more))
    }
}
