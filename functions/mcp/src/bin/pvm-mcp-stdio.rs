//! `pvm-mcp-stdio [PROJECT_ID]`: a project's MCP server for clients that only speak stdio. Reads `PVM_URL`,
//! `PVM_API_KEY` and, without an argument, `PVM_PROJECT_ID`.

use std::process::ExitCode;

use pvm_entry::Settings;
use pvm_mcp::stdio::{Endpoint, run};

fn endpoint() -> Result<Endpoint, String> {
    let settings = Settings::from_env().map_err(|error| error.to_string())?;
    let project = std::env::args().nth(1).or(settings.project_id);
    let missing = |name: &str, what: &str| format!("{name} is not set: give {what}");
    let project =
        project.ok_or_else(|| missing("PVM_PROJECT_ID", "the project's id, here or as the argument"))?;
    let url =
        settings.url.ok_or_else(|| missing("PVM_URL", "the API's address, such as http://127.0.0.1:8787"))?;
    let key = settings.api_key.ok_or_else(|| missing("PVM_API_KEY", "an API key"))?;
    Endpoint::new(&url, key.reveal(), &project)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let bridged = match endpoint() {
        Ok(endpoint) => {
            let input = tokio::io::BufReader::new(tokio::io::stdin());
            run(endpoint, input, tokio::io::stdout()).await.map_err(|error| error.to_string())
        }
        Err(text) => Err(text),
    };
    match bridged {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            // Standard output belongs to the protocol; clients show this stream to people.
            #[expect(clippy::print_stderr, reason = "this is how a stdio server tells people what is wrong")]
            {
                eprintln!("pvm-mcp-stdio: {text}");
            }
            ExitCode::FAILURE
        }
    }
}
