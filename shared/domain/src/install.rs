//! Reading installs out of shell lines that people and agents run, so that a new VM gets them again. Only what is fully
//! understood is taken: plain words joined by `&&`, with one of a few programs in front. Whatever else a line does is
//! never repeated.

use std::collections::BTreeMap;

/// An install of a line that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// The shell line that repeats it.
    pub command: String,
    /// Whether it names files by where it runs, such as `-r requirements.txt`.
    pub is_local: bool,
}

/// Commands after which nothing of a line is taken: what comes later depends on what they changed.
const CHANGERS: [&str; 14] = [
    "source", ".", "export", "unset", "eval", "exec", "set", "alias", "if", "for", "while", "case", "env",
    "su",
];
/// Options of pip that install elsewhere than into the system, or not at all.
const PIP_ELSEWHERE: [&str; 5] = ["--target", "-t", "--prefix", "--root", "--dry-run"];
/// Options of apt that install nothing.
const APT_NOTHING: [&str; 6] = ["-s", "--simulate", "--dry-run", "-d", "--download-only", "--print-uris"];

/// The installs of a line whose exit status was 0.
pub fn of_line(line: &str) -> Vec<Install> {
    // Of several lines or statements only the last one is known to have succeeded, and it may depend on those before.
    let Some(commands) = commands(line.trim()) else { return Vec::new() };
    let (mut found, mut moved) = (Vec::new(), false);
    for words in &commands {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.first() {
            Some(&("cd" | "pushd" | "popd")) => moved = true,
            Some(first) if CHANGERS.contains(first) || first.contains('=') && assignment(first).is_none() => {
                break;
            }
            _ => found.extend(install(&words).filter(|install| !(moved && install.is_local))),
        }
    }
    found
}

/// Whether variables given to a command make its installs go elsewhere than usual.
pub fn is_redirected(env: &BTreeMap<String, String>) -> bool {
    let changes = |name: &String| {
        let name = name.to_ascii_uppercase();
        ["PATH", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONUSERBASE", "HOME"].contains(&name.as_str())
            || ["PIP_", "NPM_CONFIG_", "APT_"].iter().any(|prefix| name.starts_with(prefix))
    };
    env.keys().any(changes)
}

/// The commands of a line that is nothing but words joined by `&&`, each as its words; `None` for any other.
fn commands(line: &str) -> Option<Vec<Vec<String>>> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' => words.extend(word.take()),
            '&' if chars.peek() == Some(&'&') => {
                chars.next();
                words.extend(word.take());
                commands.push(std::mem::take(&mut words));
            }
            '\'' | '"' => {
                let into = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        end if end == c => break,
                        // Within double quotes these are not plain.
                        '$' | '`' | '\\' if c == '"' => return None,
                        other => into.push(other),
                    }
                }
            }
            c if c.is_alphanumeric() || "-_./=+:@,%^".contains(c) => word.get_or_insert_default().push(c),
            // At the beginning of a word it would be a home.
            '~' if word.is_some() => word.get_or_insert_default().push(c),
            _ => return None,
        }
    }
    words.extend(word);
    commands.push(words);
    commands.iter().all(|words| !words.is_empty()).then_some(commands)
}

/// The one assignment that may stand in front: it makes apt ask nothing, which a repetition does anyhow.
fn assignment(word: &str) -> Option<()> {
    (word == "DEBIAN_FRONTEND=noninteractive").then_some(())
}

fn install(words: &[&str]) -> Option<Install> {
    let (mut rest, mut sudo) = (words, false);
    while let Some((first, more)) = rest.split_first() {
        match *first {
            "sudo" if !sudo => sudo = true,
            "-E" | "-H" | "-n" if sudo => {}
            word if assignment(word).is_some() => {}
            _ => break,
        }
        rest = more;
    }
    let (program, arguments) = rest.split_first()?;
    match (*program, arguments) {
        ("apt" | "apt-get", _) => apt(arguments, sudo),
        ("pip" | "pip3", ["install", arguments @ ..]) => pip(program, arguments, sudo),
        ("python" | "python3", ["-m", "pip", "install", arguments @ ..]) => {
            pip(&format!("{program} -m pip"), arguments, sudo)
        }
        ("npm", _) => npm(arguments, sudo),
        _ => None,
    }
}

fn apt(arguments: &[&str], sudo: bool) -> Option<Install> {
    let place = arguments.iter().position(|word| !word.starts_with('-'))?;
    if arguments[place] != "install" || arguments.iter().any(|word| APT_NOTHING.contains(word)) {
        return None;
    }
    let words: Vec<&str> = arguments.iter().copied().filter(|word| *word != "install").collect();
    let packages = words.iter().filter(|word| !word.starts_with('-')).count();
    // The lists of a new VM are old or not there.
    let (sudo, words) = (if sudo { "sudo " } else { "" }, quoted(&words));
    let command = format!(
        "{sudo}apt-get -qq update; {sudo}env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install {words}"
    );
    let is_package_file =
        |word: &&str| std::path::Path::new(word).extension().is_some_and(|end| end == "deb");
    let is_local = arguments.iter().any(|word| is_package_file(word) && !word.starts_with('/'));
    (packages > 0).then_some(Install { command, is_local })
}

fn pip(program: &str, arguments: &[&str], sudo: bool) -> Option<Install> {
    let elsewhere = |word: &&str| {
        PIP_ELSEWHERE.iter().any(|option| word == option || word.starts_with(&format!("{option}=")))
    };
    if arguments.is_empty() || arguments.iter().any(elsewhere) {
        return None;
    }
    let files = ["-r", "--requirement", "-e", "--editable", "-c", "--constraint"];
    let is_local = arguments.iter().any(|word| {
        let option = word.split('=').next().unwrap_or(word);
        files.contains(&option) || is_path(word)
    });
    Some(Install { command: line(sudo, program, "install", arguments), is_local })
}

fn npm(arguments: &[&str], sudo: bool) -> Option<Install> {
    let is_install =
        matches!(arguments.iter().find(|word| !word.starts_with('-')), Some(&("install" | "i" | "add")));
    let is_global = arguments.iter().any(|word| ["-g", "--global"].contains(word));
    let packages: Vec<&str> = arguments
        .iter()
        .copied()
        .filter(|word| !["install", "i", "add", "-g", "--global"].contains(word))
        .collect();
    let named = packages.iter().any(|word| !word.starts_with('-'));
    if !(is_install && is_global)
        || packages.iter().any(|word| word.starts_with("--prefix") || *word == "--dry-run")
    {
        return None;
    }
    let is_local = !named || packages.iter().any(|word| is_path(word));
    Some(Install { command: line(sudo, "npm", "install -g", &packages), is_local })
}

/// Whether a word names something by where the line runs.
fn is_path(word: &str) -> bool {
    word == "."
        || word == ".."
        || word.starts_with("./")
        || word.starts_with("../")
        || word.starts_with(".[")
        || [".whl", ".tar.gz", ".tgz", ".zip"].iter().any(|end| word.ends_with(end)) && !word.contains("://")
}

fn line(sudo: bool, program: &str, action: &str, arguments: &[&str]) -> String {
    let sudo = if sudo { "sudo " } else { "" };
    format!("{sudo}{program} {action} {}", quoted(arguments)).trim_end().to_owned()
}

/// Words for a shell. Those that were quoted are quoted again.
fn quoted(words: &[&str]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=+:@,%^".contains(c);
    let quote = |word: &&str| {
        if !word.is_empty() && word.chars().all(plain) {
            (*word).to_owned()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(line: &str) -> Vec<String> {
        of_line(line).into_iter().map(|install| install.command).collect()
    }

    const APT: &str = "env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install";

    #[test]
    fn installs_of_each_manager_are_known() {
        let jq = format!("sudo apt-get -qq update; sudo {APT} -y jq");
        for line in [
            "sudo apt-get install -y jq",
            "sudo apt-get -y install jq",
            "sudo DEBIAN_FRONTEND=noninteractive apt install -y jq",
            "sudo apt-get update && sudo apt-get install -y jq",
            "sudo apt-get install -y jq && jq --version",
        ] {
            assert_eq!(lines(line), [jq.as_str()], "{line}");
        }
        assert_eq!(lines("apt install jq curl"), [format!("apt-get -qq update; {APT} jq curl")]);
        assert_eq!(lines("pip install flask==3.0"), ["pip install flask==3.0"]);
        assert_eq!(
            lines("pip3 install 'flask>=2,<4' \"uvicorn[standard]\""),
            ["pip3 install 'flask>=2,<4' 'uvicorn[standard]'"]
        );
        assert_eq!(lines("python3 -m pip install --user numpy"), ["python3 -m pip install --user numpy"]);
        for line in ["sudo npm install -g @scope/tool@1.2", "sudo npm i --global @scope/tool@1.2"] {
            assert_eq!(lines(line), ["sudo npm install -g @scope/tool@1.2"], "{line}");
        }
        assert_eq!(lines("pip install a && npm install -g b"), ["pip install a", "npm install -g b"]);
    }

    #[test]
    fn what_names_files_says_so_and_is_not_taken_from_another_folder() {
        for line in
            ["pip install -r requirements.txt", "pip install .", "pip install -e ./lib", "npm install -g"]
        {
            assert!(of_line(line).first().is_some_and(|install| install.is_local), "{line}");
            assert_eq!(lines(&format!("cd app && {line}")), [""; 0], "{line}");
        }
        assert_eq!(lines("cd app && pip install flask"), ["pip install flask"]);
        assert!(!of_line("pip install https://example.com/a.whl")[0].is_local);
    }

    #[test]
    fn what_is_not_fully_understood_is_not_taken() {
        for line in [
            "",
            "ls",
            "echo apt-get install jq",
            "apt-get install -y $PACKAGES",
            "apt-get install -y `cat list`",
            "apt-get install -y jq | tee log",
            "apt-get install -y jq > log",
            "apt-get install -y jq || true",
            "apt-get install -y jq; true",
            "pip install a\nrm -r b",
            "pip install flask & sleep 1",
            "pip install flask>=2",
            "pip install \"$NAME\"",
            "pip install 'unfinished",
            "sudo apt-get remove jq",
            "sudo apt-get --simulate install jq",
            "sudo apt-get install",
            "pip install --target=lib flask",
            "pip uninstall flask",
            "venv/bin/pip install flask",
            ". venv/bin/activate && pip install flask",
            "source venv/bin/activate && pip install flask",
            "export PATH=/x && npm install -g b",
            "PATH=/x pip install flask",
            "npm install left-pad",
            "npm install -g --prefix lib b",
            "&& pip install a",
            "sudo sudo pip install a",
        ] {
            assert_eq!(of_line(line), [], "{line}");
        }
    }

    #[test]
    fn variables_that_lead_elsewhere_are_known() {
        let with = |name: &str| BTreeMap::from([(name.to_owned(), "x".to_owned())]);
        assert!(
            ["PATH", "VIRTUAL_ENV", "PIP_TARGET", "npm_config_prefix"]
                .iter()
                .all(|name| is_redirected(&with(name)))
        );
        assert!(!is_redirected(&with("DEBUG")));
    }
}
