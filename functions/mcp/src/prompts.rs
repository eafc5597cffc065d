//! Prompts: the environment set-ups, ready to be chosen by a person.

use pvm_contracts::tools::EnvironmentKind;
use rmcp::ErrorData;
use rmcp::model::{GetPromptResult, JsonObject, Prompt, PromptArgument, PromptMessage, Role};
use serde_json::{Value, json};

struct Set {
    kind: EnvironmentKind,
    title: &'static str,
    about: &'static str,
    next: &'static str,
}

const SETS: [Set; 5] = [
    Set {
        kind: EnvironmentKind::Python,
        title: "Set up Python",
        about: "A directory with a Python virtual environment.",
        next: "Show the Python version and how to run a file.",
    },
    Set {
        kind: EnvironmentKind::Node,
        title: "Set up Node",
        about: "A directory with a package.json for Node.",
        next: "Show the Node version and how to add a dependency.",
    },
    Set {
        kind: EnvironmentKind::Fullstack,
        title: "Set up a full-stack app",
        about: "A Flask backend and a Vite front end that talks to it.",
        next: "Start both as services (backend on port 5000, front end on port 5173) and give me their URLs.",
    },
    Set {
        kind: EnvironmentKind::DataScience,
        title: "Set up data science",
        about: "A virtual environment with numpy, pandas, matplotlib, scikit-learn and JupyterLab.",
        next: "Check that pandas imports, and offer to start JupyterLab as a service on port 8888.",
    },
    Set {
        kind: EnvironmentKind::Rust,
        title: "Set up Rust",
        about: "A cargo package with the Rust toolchain.",
        next: "Run the package's tests once.",
    },
];

fn name(kind: EnvironmentKind) -> String {
    format!("setup-{}", kind.as_str())
}

/// Every prompt.
pub(crate) fn all() -> Vec<Prompt> {
    let arguments = || {
        vec![
            PromptArgument::new("path")
                .with_title("Directory")
                .with_description("Directory below /workspace; the workspace itself if empty.")
                .with_required(false),
            PromptArgument::new("packages")
                .with_title("Packages")
                .with_description("More packages to install, separated by spaces.")
                .with_required(false),
        ]
    };
    SETS.iter()
        .map(|set| Prompt::new(name(set.kind), Some(set.about), Some(arguments())).with_title(set.title))
        .collect()
}

/// A prompt with its arguments filled in.
pub(crate) fn get(wanted: &str, arguments: Option<&JsonObject>) -> Result<GetPromptResult, ErrorData> {
    let Some(set) = SETS.iter().find(|set| name(set.kind) == wanted) else {
        let shown: String = wanted.chars().take(64).collect();
        return Err(ErrorData::invalid_params(format!("There is no prompt {shown:?}."), None));
    };
    let argument = |name: &str| -> Result<Option<&str>, ErrorData> {
        match arguments.and_then(|all| all.get(name)) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.trim()).filter(|text| !text.is_empty())),
            Some(_) => Err(ErrorData::invalid_params(format!("The argument {name:?} must be text."), None)),
        }
    };
    let (path, packages) = (argument("path")?.unwrap_or("/workspace"), argument("packages")?);
    let mut call = json!({"kind": set.kind.as_str(), "path": path});
    if let Some(packages) = packages {
        call["packages"] = json!(packages);
    }
    let text = format!(
        "Set up a {} environment in {path}: call create_development_environment with {call}. If it answers that it \
         still runs, wait for it with get_command. Then tell me in a few lines what was made and how to use it. {}",
        set.kind.as_str(),
        set.next
    );
    Ok(GetPromptResult::new(vec![PromptMessage::new_text(Role::User, text)]).with_description(set.about))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_names_the_tool_and_its_arguments() {
        let arguments = json!({"path": "app", "packages": "flask"});
        let prompt = get("setup-python", arguments.as_object()).unwrap();
        let text = serde_json::to_string(&prompt.messages).unwrap();
        assert!(text.contains("create_development_environment") && text.contains("flask"), "{text}");
        assert_eq!(all().len(), EnvironmentKind::ALL.len());
        for prompt in all() {
            assert!(get(&prompt.name, None).is_ok(), "{}", prompt.name);
        }
    }

    #[test]
    fn an_unknown_prompt_or_argument_of_another_type_is_refused() {
        assert!(get("setup-cobol", None).is_err());
        assert!(get("setup-rust", json!({"path": 7}).as_object()).is_err());
    }
}
