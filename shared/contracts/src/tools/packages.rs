//! `install_package` and `create_development_environment`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PackageManager {
    /// Debian packages, for the whole VM.
    Apt,
    /// Python packages.
    Pip,
    /// Node packages.
    Npm,
    /// Node packages with Yarn.
    Yarn,
    /// Rust crates.
    Cargo,
}

impl PackageManager {
    /// The manager's command.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apt => "apt",
            Self::Pip => "pip",
            Self::Npm => "npm",
            Self::Yarn => "yarn",
            Self::Cargo => "cargo",
        }
    }
}

/// Arguments of `install_package`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InstallPackageArgs {
    /// One package or several separated by spaces, with versions as the manager writes them: `flask==3.0 pandas`
    /// (pip), `express@4 @types/node` (npm, yarn), `ripgrep@14` (cargo), `postgresql` (apt).
    #[serde(alias = "packages")]
    pub package: String,
    /// `apt`, `pip`, `npm`, `yarn` or `cargo`.
    pub manager: PackageManager,
    /// Directory of the code project that needs it: absolute, or relative to /workspace. Default: /workspace. pip
    /// uses the virtual environment .venv or venv found there, if there is one.
    pub working_dir: Option<String>,
    /// Directory of the Python virtual environment to install into; made if it is missing. Only for pip.
    pub virtual_env: Option<String>,
    /// Install for the whole VM instead of one code project: npm and yarn put the package's commands on the PATH,
    /// cargo builds and installs a program instead of adding a dependency. Default: false.
    #[serde(default)]
    pub global: bool,
    /// Note it as needed for development only. Only for npm, yarn and cargo. Default: false.
    #[serde(default)]
    pub dev: bool,
    /// Seconds until it is killed, 1 to 86400. Default: 900.
    pub timeout_secs: Option<u64>,
}

/// A package that is there now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstalledPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What `install_package` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstallPackageOutput {
    /// Whether everything asked for is installed.
    pub success: bool,
    /// The manager that was used.
    pub manager: PackageManager,
    /// The packages asked for, with the versions that are installed now.
    pub installed: Vec<InstalledPackage>,
    /// Where they were installed: a virtual environment, a code project's directory, or `system`.
    pub location: String,
    /// Exit code of the installation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The end of the manager's output; more of it where something failed.
    pub output: String,
    /// File in the VM with all of that output, if it was cut here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_path: Option<String>,
    /// Its id; get_command shows all of its output.
    pub command_id: String,
    /// Milliseconds it took.
    pub duration_ms: u64,
}

/// Kinds of development environments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EnvironmentKind {
    /// Python with a virtual environment.
    #[serde(rename = "python")]
    Python,
    /// Node with a package.json.
    #[serde(rename = "node", alias = "nodejs")]
    Node,
    /// A Python backend and a Node front end.
    #[serde(rename = "fullstack", alias = "full-stack")]
    Fullstack,
    /// Python with the usual data libraries and `JupyterLab`.
    #[serde(rename = "data-science", alias = "data_science")]
    DataScience,
    /// Rust with cargo.
    #[serde(rename = "rust")]
    Rust,
}

impl EnvironmentKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Python, Self::Node, Self::Fullstack, Self::DataScience, Self::Rust];

    /// The kind's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::Fullstack => "fullstack",
            Self::DataScience => "data-science",
            Self::Rust => "rust",
        }
    }
}

/// Arguments of `create_development_environment`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateEnvironmentArgs {
    /// `python` (virtual environment), `node` (package.json), `fullstack` (Python backend and Node front end),
    /// `data-science` (virtual environment with numpy, pandas, matplotlib, scikit-learn and JupyterLab) or `rust`
    /// (cargo package).
    #[serde(alias = "env_type", alias = "environment")]
    pub kind: EnvironmentKind,
    /// Directory to set up: absolute, or relative to /workspace. Made if it is missing. Default: /workspace.
    pub path: Option<String>,
    /// More packages to install, separated by spaces, as pip, npm or cargo names them. For fullstack they go to the
    /// backend.
    pub packages: Option<String>,
    /// Seconds until it is killed, 1 to 86400. Default: 1800.
    pub timeout_secs: Option<u64>,
}

/// A program's version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolVersion {
    /// The program.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What `create_development_environment` made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CreateEnvironmentOutput {
    /// Whether all of it is there now.
    pub success: bool,
    /// Which kind.
    pub kind: EnvironmentKind,
    /// Its directory.
    pub path: String,
    /// What this call made.
    pub created: Vec<String>,
    /// What was there already and was left as it is.
    pub already_there: Vec<String>,
    /// Programs of the environment with their versions.
    pub versions: Vec<ToolVersion>,
    /// How to use it, as shell lines.
    pub how_to_use: Vec<String>,
    /// The end of the set-up's output, where something failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// File in the VM with all of that output, if it was cut here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_path: Option<String>,
    /// Its id; get_command shows all of its output.
    pub command_id: String,
    /// Milliseconds it took.
    pub duration_ms: u64,
}
