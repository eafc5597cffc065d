//! `search_files`: lines of files, or names.

use pvm_application::ports::{RunReport, RunState};
use pvm_contracts::tools::{SearchFilesArgs, SearchFilesOutput, SearchIn, SearchMatch};
use pvm_domain::{Invalid, limits, text};

use crate::call::{Answer, Call, Ports, Stop, result};
use crate::catalogue::{Effect, Spec};
use crate::list_directory::Pattern;
use crate::shell::quote;
use crate::{output, paths, schema};

pub(crate) type Args = SearchFilesArgs;

pub(crate) const SPEC: Spec = Spec {
    name: "search_files",
    title: "Search files",
    description: "Find lines in text files by a regular expression, or files by name, below a directory of the VM. \
        Leaves out binary files, hidden files, .git, node_modules, virtual environments, caches and build output \
        unless include_ignored is true.",
    arguments: schema::of_arguments::<Args>,
    result: schema::of_result::<SearchFilesOutput>,
    effect: Effect::Reads,
    destructive: false,
    open_world: false,
    needs_vm: true,
    runs_command: true,
    may_change_files: false,
    long: false,
};

/// Directories that are made by tools and rarely what one looks for; hidden ones are left out anyway.
const IGNORED: [&str; 9] =
    ["node_modules", "venv", "__pycache__", "target", "dist", "build", "vendor", "site-packages", "coverage"];
/// Seconds that a search may take.
const TIMEOUT_SECS: u64 = 50;
/// Bytes of the search program's output that are looked at.
const OUTPUT_BYTES: u32 = 512 * 1024;
/// Characters of a line that are shown.
const LINE_CHARS: usize = 400;
/// Bytes of matches in one result; the rest of the limit is for what is around them.
const MATCH_BYTES: usize = limits::OUTPUT_TO_MODEL_BYTES - 2048;

pub(crate) async fn drive<P: Ports>(call: &Call<'_, P>, args: Args) -> Answer {
    let path = paths::directory(call.context, args.user, "path", args.path.as_deref())?;
    if args.pattern.is_empty() || args.pattern.contains(['\n', '\0']) {
        return Err(Invalid::new("pattern", "must be one line and not empty").into());
    }
    let most = args.max_results.unwrap_or(100);
    if !(1..=1000).contains(&most) {
        return Err(Invalid::new("max_results", "must be 1 to 1000").into());
    }
    let context = args.context_lines.unwrap_or(0);
    if context > 10 {
        return Err(Invalid::new("context_lines", "must be 0 to 10").into());
    }
    let glob = args.glob.as_deref().map(|glob| Pattern::parse("glob", glob, false)).transpose()?;
    let name = match args.search_in {
        SearchIn::Content => None,
        SearchIn::Name => Some(name_pattern(&args)?),
    };
    let script = match args.search_in {
        SearchIn::Content => content_script(&args, &path, most, context),
        SearchIn::Name => name_script(&args, &path),
    };
    let report = call.run(&call.run_of(script, args.user, TIMEOUT_SECS)).await?;
    refuse_failures(&report, &path)?;
    let found = String::from_utf8_lossy(&report.stdout.data);
    let mut out = match &name {
        Some(name) => names(&found, name, glob.as_ref(), most),
        None => lines(&found, glob.as_ref(), most),
    };
    out.truncated |= report.stdout.total >= u64::from(OUTPUT_BYTES) || report.state == RunState::TimedOut;
    out.path = path;
    let text = text_of(&mut out);
    Ok(result(false, text, &out))
}

fn refuse_failures(report: &RunReport, path: &str) -> Result<(), Stop> {
    let said = output::plain(&report.stderr.data);
    match (report.state, report.exit_code) {
        (RunState::Exited, Some(0 | 1)) | (RunState::TimedOut, _) => Ok(()),
        (RunState::Exited, Some(3)) => Err(Stop::error(format!("There is no {path} that can be searched."))),
        (RunState::Exited, _) => {
            Err(Stop::error(format!("The search failed: {}", text::head_and_tail(said.trim(), 2000).0)))
        }
        _ => Err(Stop::error("The search was ended before it finished; repeat it.")),
    }
}

/// Enters the searched directory, or the one of the searched file, which is then the only operand.
fn enter(path: &str) -> String {
    format!(
        "p={}\nif [ -d \"$p\" ]; then cd -- \"$p\" || exit 3; set -- .; elif [ -e \"$p\" ]; then \
         cd -- \"$(dirname -- \"$p\")\" || exit 3; set -- \"./$(basename -- \"$p\")\"; else exit 3; fi\n",
        quote(path)
    )
}

fn content_script(args: &Args, path: &str, most: usize, context: u32) -> String {
    let mut options = vec!["-rnIHZs --color=never".to_owned()];
    if args.ignore_case {
        options.push("-i".to_owned());
    }
    if context > 0 {
        options.push(format!("-C {context}"));
    }
    options.extend(includes(args.glob.as_deref()).iter().map(|glob| format!("--include={}", quote(glob))));
    // A file that was named itself is searched whatever it is called.
    let ignored = IGNORED.map(|name| format!(" --exclude-dir={name}")).concat();
    let left_out = if args.include_ignored {
        String::new()
    } else {
        format!("set -f; [ \"$1\" = . ] && x='--exclude=.?* --exclude-dir=.?*{ignored}'\n")
    };
    let kind = if args.literal {
        "k=-F\n".to_owned()
    } else {
        // Perl's expressions where grep has them: models write \d and \b.
        "if echo a | grep -qP a 2>/dev/null; then k=-P; else k=-E; fi\n".to_owned()
    };
    let (pattern, options) = (quote(&args.pattern), options.join(" "));
    // The expression is tried on nothing first: with -s grep would not say that it is broken.
    format!(
        "{}x=\n{left_out}{kind}echo | grep $k -e {pattern} >/dev/null; [ $? -le 1 ] || exit 2\n\
         grep {options} $x $k -m {most} -e {pattern} -- \"$@\" | head -c {OUTPUT_BYTES}\nexit 0",
        enter(path)
    )
}

/// The patterns by which grep itself passes over files. It knows neither paths nor alternatives in braces: the first are
/// left to the filter of what it finds, the second are written out, one set of them at the most.
fn includes(glob: Option<&str>) -> Vec<String> {
    let Some(glob) = glob.filter(|glob| !glob.contains(['/', '\\']) && !glob.contains("**")) else {
        return Vec::new();
    };
    let Some((head, rest)) = glob.split_once('{') else { return vec![glob.to_owned()] };
    match rest.split_once('}') {
        Some((inner, tail)) if !inner.contains('{') && !tail.contains(['{', '}']) && !head.contains('[') => {
            inner.split(',').map(|one| format!("{head}{one}{tail}")).collect()
        }
        _ => Vec::new(),
    }
}

fn name_script(args: &Args, path: &str) -> String {
    let prune = if args.include_ignored {
        String::new()
    } else {
        let names: Vec<String> = IGNORED.iter().map(|name| format!("-name {name}")).collect();
        format!("\\( -name '.?*' -o \\( -type d \\( {} \\) \\) \\) -prune -o ", names.join(" -o "))
    };
    format!(
        "{}find \"$@\" -mindepth 1 {prune}-printf '%y\\t%p\\n' 2>/dev/null | head -c {OUTPUT_BYTES}\nexit 0",
        enter(path)
    )
}

fn name_pattern(args: &Args) -> Result<Pattern, Invalid> {
    let escaped = |text: &str| globset::escape(text);
    let plain = args.literal || !args.pattern.contains(['*', '?', '[', '{']);
    let pattern = if !plain {
        args.pattern.clone()
    } else if args.pattern.contains('/') {
        format!("**/*{}*", escaped(&args.pattern))
    } else {
        format!("*{}*", escaped(&args.pattern))
    };
    Pattern::parse("pattern", &pattern, args.ignore_case)
}

/// Reads `kind<tab>./path` lines.
fn names(found: &str, pattern: &Pattern, glob: Option<&Pattern>, most: usize) -> SearchFilesOutput {
    let mut paths: Vec<String> = found
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(kind, path)| (kind, path.strip_prefix("./").unwrap_or(path)))
        .filter(|(_, path)| pattern.matches(path) && glob.is_none_or(|glob| glob.matches(path)))
        .map(|(kind, path)| if kind == "d" { format!("{path}/") } else { path.to_owned() })
        .collect();
    paths.sort();
    let truncated = paths.len() > most;
    paths.truncate(most);
    let one = |path| SearchMatch { path, line: None, text: None, context: false };
    let matches: Vec<SearchMatch> = paths.into_iter().map(one).collect();
    SearchFilesOutput { path: String::new(), count: matches.len() as u64, matches, truncated }
}

/// Reads grep's lines: `./path`, NUL, number, `:` for a match or `-` for a line around one, text.
fn lines(found: &str, glob: Option<&Pattern>, most: usize) -> SearchFilesOutput {
    let mut matches: Vec<SearchMatch> = found
        .lines()
        .filter_map(|line| {
            let (path, rest) = line.split_once('\0')?;
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            let number = rest[..digits].parse().ok()?;
            let path = path.strip_prefix("./").unwrap_or(path);
            glob.is_none_or(|glob| glob.matches(path)).then(|| SearchMatch {
                path: path.to_owned(),
                line: Some(number),
                text: Some(shown_line(&rest[digits + 1..])),
                context: rest[digits..].starts_with('-'),
            })
        })
        .collect();
    matches.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    let mut count = 0;
    let mut truncated = false;
    let fits = matches.iter().position(|found| {
        count += usize::from(!found.context);
        count > most
    });
    if let Some(end) = fits {
        matches.truncate(end);
        truncated = true;
    }
    let count = matches.iter().filter(|found| !found.context).count() as u64;
    SearchFilesOutput { path: String::new(), matches, count, truncated }
}

fn shown_line(line: &str) -> String {
    let line = output::plain(line.as_bytes());
    match line.char_indices().nth(LINE_CHARS) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// The matches as text; drops those that do not fit, so that text and data tell the same.
fn text_of(out: &mut SearchFilesOutput) -> String {
    let mut body = String::new();
    let mut room = limits::TOOL_DATA_BYTES - 1024 - out.path.len().min(4096);
    out.truncated |= output::fitting(&mut out.matches, &mut room);
    let mut fitting = 0;
    for found in &out.matches {
        let line = match (found.line, &found.text) {
            (Some(number), Some(text)) => {
                let mark = if found.context { '-' } else { ':' };
                format!("{}{mark}{number}{mark} {text}\n", found.path)
            }
            _ => format!("{}\n", found.path),
        };
        if body.len() + line.len() > MATCH_BYTES {
            out.truncated = true;
            break;
        }
        body.push_str(&line);
        fitting += 1;
    }
    out.matches.truncate(fitting);
    out.count = out.matches.iter().filter(|found| !found.context).count() as u64;
    let head = match out.count {
        0 => format!("Nothing found in {}.", out.path),
        1 => format!("1 match in {}:", out.path),
        count => format!("{count} matches in {}:", out.path),
    };
    let more = if out.truncated { "[There is more; narrow the pattern, the path or the glob.]" } else { "" };
    format!("{head}\n{body}{more}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_grep_are_read_with_their_context() {
        let found = "./b.py\x0012:x: 1-2\n--\n./a-1.py\x003-before\n./a-1.py\x004:hit\n";
        let out = lines(found, None, 10);
        assert_eq!(out.count, 2);
        assert_eq!(
            out.matches[0],
            SearchMatch { path: "a-1.py".into(), line: Some(3), text: Some("before".into()), context: true }
        );
        assert_eq!(out.matches[2].text.as_deref(), Some("x: 1-2"));
        assert!(lines(found, None, 1).truncated);
        assert_eq!(lines(found, Some(&Pattern::parse("glob", "b*", false).unwrap()), 10).count, 1);
    }

    #[test]
    fn alternatives_in_braces_are_written_out_for_grep() {
        assert_eq!(includes(Some("*.{ts,tsx}")), ["*.ts", "*.tsx"]);
        assert_eq!(includes(Some("*.py")), ["*.py"]);
        for left_to_the_filter in ["src/*.py", "**.py", "*.{a,{b,c}}", "{a,b}.{c,d}", r"\{a\}", "[{]a,b}"] {
            assert!(includes(Some(left_to_the_filter)).is_empty(), "{left_to_the_filter}");
        }
    }

    #[test]
    fn names_are_found_by_word_and_by_pattern() {
        let args = |pattern: &str| Args {
            pattern: pattern.into(),
            path: None,
            search_in: SearchIn::Name,
            glob: None,
            literal: false,
            ignore_case: false,
            context_lines: None,
            max_results: None,
            include_ignored: false,
            user: pvm_contracts::tools::RunAs::User,
        };
        let find = |pattern: &str| {
            let found = "f\t./app.py\nd\t./src\nf\t./src/app_test.py\n";
            let out = names(found, &name_pattern(&args(pattern)).unwrap(), None, 10);
            out.matches.into_iter().map(|m| m.path).collect::<Vec<_>>()
        };
        assert_eq!(find("app"), ["app.py", "src/app_test.py"]);
        assert_eq!(find("*.py"), ["app.py", "src/app_test.py"]);
        assert_eq!(find("src/**"), ["src/app_test.py"]);
        assert_eq!(find("src"), ["src/"]);
    }
}
