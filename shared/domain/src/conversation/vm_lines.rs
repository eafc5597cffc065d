//! `/vm` lines: shell commands that an agent writes into its reply.
//!
//! A line that begins with `/vm ` (after at most three blanks) is a command. It goes on over the following lines while
//! a here-document (`<<EOF`, `<<'EOF'`, `<<-EOF`, several in one line), a quote, or a `\` at the line's end is open,
//! exactly as a shell would read on. Everything else is prose.
//!
//! Code fences: agents show commands to people in fences, and some models fence the commands they mean to run. A fence
//! whose first line is a `/vm` line is taken to mean it, unless its info string says it is text or Markdown. `/vm` lines
//! inside any other fence are shown, not run, and counted, so that the agent can be told.

use std::collections::VecDeque;

/// A command lifted from a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmLine {
    /// The shell text after `/vm `, here-documents included.
    pub command: String,
    /// Why it cannot be run, if it cannot.
    pub broken: Option<String>,
}

/// What a reply holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmLines {
    /// The commands, in order.
    pub lines: Vec<VmLine>,
    /// `/vm` lines that stand inside a fence that only shows them.
    pub fenced: usize,
    /// The reply without its commands: what mentions are looked for in.
    pub prose: String,
}

/// Lifts the `/vm` lines out of a reply.
pub fn parse(reply: &str) -> VmLines {
    let lines: Vec<&str> = reply.lines().map(|line| line.strip_suffix('\r').unwrap_or(line)).collect();
    let mut found = VmLines::default();
    let mut fence: Option<Fence> = None;
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        if let Some(open) = &fence {
            if open.closed_by(line) {
                fence = None;
                at += 1;
                continue;
            }
        } else if let Some(mut open) = Fence::opened_by(line) {
            open.runs =
                !open.is_prose && lines[at + 1..].first().is_some_and(|next| command_of(next).is_some());
            fence = Some(open);
            at += 1;
            continue;
        }
        let Some(first) = command_of(line) else {
            if fence.is_none() {
                found.prose.push_str(line);
                found.prose.push('\n');
            }
            at += 1;
            continue;
        };
        if fence.as_ref().is_some_and(|open| !open.runs) {
            found.fenced += 1;
            at += 1;
            continue;
        }
        let (line, used) = read_on(first, &lines[at + 1..], fence.as_ref());
        if !line.command.trim().is_empty() {
            found.lines.push(line);
        }
        at += 1 + used;
    }
    found
}

/// The command that a line begins, if it is a `/vm` line.
fn command_of(line: &str) -> Option<&str> {
    let text = line.trim_start_matches(' ');
    if line.len() - text.len() > 3 {
        return None;
    }
    let rest = text.strip_prefix("/vm")?;
    if rest.is_empty() {
        return Some("");
    }
    rest.strip_prefix([' ', '\t'])
}

struct Fence {
    mark: char,
    length: usize,
    is_prose: bool,
    runs: bool,
}

impl Fence {
    fn opened_by(line: &str) -> Option<Self> {
        let text = line.trim_start();
        let mark = text.chars().next().filter(|c| *c == '`' || *c == '~')?;
        let length = text.chars().take_while(|c| *c == mark).count();
        let info = text[length..].trim();
        if length < 3 || (mark == '`' && info.contains('`')) {
            return None;
        }
        let is_prose = matches!(info.to_ascii_lowercase().as_str(), "text" | "txt" | "md" | "markdown");
        Some(Self { mark, length, is_prose, runs: false })
    }

    fn closed_by(&self, line: &str) -> bool {
        let text = line.trim();
        text.chars().count() >= self.length && text.chars().all(|c| c == self.mark)
    }
}

/// Reads the rest of a command that `first` begins; answers it and how many of `rest` belong to it.
fn read_on(first: &str, rest: &[&str], fence: Option<&Fence>) -> (VmLine, usize) {
    let mut command = first.trim_start().to_owned();
    let mut shell = Shell::default();
    shell.read(&command);
    let mut used = 0;
    while let Some(open) = shell.open() {
        let in_document = shell.in_document();
        let next = rest.get(used).copied();
        // A quote or `\` never swallows the next command or the end of the fence; a here-document may hold anything.
        let ends = next.is_none_or(|line| {
            !in_document && (command_of(line).is_some() || fence.is_some_and(|fence| fence.closed_by(line)))
        });
        let Some(line) = next.filter(|_| !ends) else {
            let reason = format!("{open} is not closed, so nothing of it was run");
            // Only a here-document owns the lines after it; a stray quote must not swallow the prose.
            return if in_document {
                (VmLine { command, broken: Some(reason) }, used)
            } else {
                (VmLine { command: first.trim().to_owned(), broken: Some(reason) }, 0)
            };
        };
        command.push('\n');
        command.push_str(line);
        shell.next_line(line);
        used += 1;
    }
    (VmLine { command: command.trim_end().to_owned(), broken: None }, used)
}

/// As much of a shell's reading of lines as is needed to know whether a command goes on.
#[derive(Default)]
struct Shell {
    quote: Option<char>,
    continued: bool,
    documents: VecDeque<Document>,
    depth: u32,
}

struct Document {
    end: String,
    tabs: bool,
}

impl Shell {
    /// What is still open, in words.
    fn open(&self) -> Option<String> {
        if let Some(quote) = self.quote {
            return Some(format!("the quote {quote}"));
        }
        if self.continued {
            return Some("the line after `\\`".to_owned());
        }
        self.documents.front().map(|document| format!("the here-document {:?}", document.end))
    }

    fn in_document(&self) -> bool {
        self.quote.is_none() && !self.continued && !self.documents.is_empty()
    }

    fn next_line(&mut self, line: &str) {
        if !self.in_document() {
            self.read(line);
            return;
        }
        let ends = self.documents.front().is_some_and(|document| {
            let text = if document.tabs { line.trim_start_matches('\t') } else { line };
            text == document.end
        });
        if ends {
            self.documents.pop_front();
        }
    }

    /// Reads one line of shell text, outside of here-documents.
    fn read(&mut self, line: &str) {
        self.continued = false;
        let chars: Vec<char> = line.chars().collect();
        let mut at = 0;
        while at < chars.len() {
            let c = chars[at];
            match (self.quote, c) {
                (Some('\''), '\'') => self.quote = None,
                (Some('\''), _) => {}
                (_, '\\') => {
                    self.continued = at + 1 == chars.len();
                    at += 1;
                }
                (Some(open), _) if c == open => self.quote = None,
                (Some(_), _) => {}
                (None, '\'' | '"' | '`') => self.quote = Some(c),
                (None, '#') if at == 0 || chars[at - 1].is_whitespace() || chars[at - 1] == ';' => break,
                (None, '(') if at > 0 && chars[at - 1] == '(' => self.depth += 1,
                (None, ')') if at > 0 && chars[at - 1] == ')' => self.depth = self.depth.saturating_sub(1),
                (None, '<') if chars.get(at + 1) == Some(&'<') && self.depth == 0 => {
                    at = self.document(&chars, at + 2);
                    continue;
                }
                (None, _) => {}
            }
            at += 1;
        }
    }

    /// Reads the delimiter of a here-document whose `<<` ends before `at`; answers where reading goes on.
    fn document(&mut self, chars: &[char], mut at: usize) -> usize {
        if chars.get(at) == Some(&'<') {
            return at + 1;
        }
        let tabs = chars.get(at) == Some(&'-');
        at += usize::from(tabs);
        while chars.get(at).is_some_and(|c| *c == ' ' || *c == '\t') {
            at += 1;
        }
        let mut end = String::new();
        let mut quoted = false;
        while let Some(&c) = chars.get(at) {
            match c {
                '\'' | '"' => {
                    quoted = true;
                    at += 1;
                    while let Some(&inner) = chars.get(at).filter(|inner| **inner != c) {
                        end.push(inner);
                        at += 1;
                    }
                }
                '\\' => {
                    at += 1;
                    end.extend(chars.get(at));
                }
                c if c.is_whitespace() || ";|&<>()".contains(c) => break,
                c => end.push(c),
            }
            at += 1;
        }
        if !end.is_empty() || quoted {
            self.documents.push_back(Document { end, tabs });
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(reply: &str) -> Vec<String> {
        parse(reply).lines.into_iter().map(|line| line.command).collect()
    }

    #[test]
    fn the_lines_of_a_reply_are_lifted_in_order_and_prose_stays() {
        let reply = "I'll build it.\n\n/vm mkdir -p /workspace/app\n/vm cd /workspace/app && python -m venv venv\n\nDone, @designer_agent.";
        let found = parse(reply);
        let lines: Vec<_> = found.lines.iter().map(|line| line.command.as_str()).collect();
        assert_eq!(lines, ["mkdir -p /workspace/app", "cd /workspace/app && python -m venv venv"]);
        assert!(found.prose.contains("I'll build it.") && found.prose.contains("@designer_agent"));
        assert!(!found.prose.contains("mkdir"));
    }

    #[test]
    fn a_quoted_heredoc_keeps_its_body_to_the_letter() {
        let body = "{% extends 'base.html' %}\n/vm not a command\n```\n  don't \"close\" $(x)\n# Flask";
        let reply = format!("/vm cat > app.py << 'EOF'\n{body}\nEOF\n\n/vm mkdir -p templates\n");
        assert_eq!(
            commands(&reply),
            [format!("cat > app.py << 'EOF'\n{body}\nEOF"), "mkdir -p templates".into()]
        );
    }

    #[test]
    fn every_form_of_heredoc_is_read_as_a_shell_reads_it() {
        for (reply, lines) in [
            ("/vm cat <<EOF\na\nEOF\nrest", 1),
            ("/vm cat <<\"E F\"\na\nE F\nrest", 1),
            ("/vm cat <<\\EOF\na\nEOF\nrest", 1),
            ("/vm cat <<-EOF\n\ta\n\tEOF\nrest", 1),
            ("/vm cat <<-  EOF | sort\na\nEOF\nrest", 1),
            ("/vm cat <<A - <<B\na\nA\nb\nB\nrest", 1),
            ("/vm cat <<EOF > x && ls\na\n EOF\nEOF\nrest", 1),
            ("/vm cat <<< word\n/vm echo $((1 << 2))\nrest", 2),
            ("/vm echo 'a << b'\n/vm echo \"<<EOF\"\n/vm true # <<EOF", 3),
        ] {
            let found = parse(reply);
            assert_eq!(found.lines.len(), lines, "{reply:?} {found:?}");
            assert!(found.lines.iter().all(|line| line.broken.is_none()), "{reply:?} {found:?}");
            assert!(!reply.contains("rest") || found.prose == "rest\n", "{reply:?} {found:?}");
        }
    }

    #[test]
    fn an_open_quote_or_backslash_goes_on_to_the_next_line() {
        let python = "python -c \"\nimport pandas as pd\nprint('ok')\n\"";
        assert_eq!(commands(&format!("/vm {python}\nThat was it.")), [python]);
        assert_eq!(commands("/vm ls \\\n  -la\nend"), ["ls \\\n  -la"]);
    }

    #[test]
    fn what_is_never_closed_is_reported_and_swallows_nothing() {
        let found = parse("/vm echo don't\n/vm ls\nprose");
        assert_eq!(found.lines.len(), 2);
        assert!(found.lines[0].broken.as_ref().is_some_and(|why| why.contains("quote")));
        assert_eq!((found.lines[1].command.as_str(), found.lines[1].broken.is_some()), ("ls", false));
        assert_eq!(found.prose, "prose\n");
        let cut = parse("/vm cat > a <<EOF\nhalf of it");
        assert!(cut.lines[0].broken.as_ref().is_some_and(|why| why.contains("EOF")));
    }

    #[test]
    fn a_fence_runs_only_when_it_begins_with_a_vm_line() {
        assert_eq!(commands("```bash\n/vm ls\n/vm pwd\n```\nend"), ["ls", "pwd"]);
        let shown =
            parse("Use it so:\n```\nRun this:\n/vm rm -rf /\n```\n~~~text\n/vm reboot\n~~~\n/vm true");
        assert_eq!(shown.lines.len(), 1);
        assert_eq!(shown.fenced, 2);
    }

    #[test]
    fn only_a_line_that_begins_with_vm_is_a_command() {
        assert_eq!(
            commands("use /vm ls\n/vmx ls\n    /vm indented code\n/vm\n  /vm ok\n/vm\tls\r\n"),
            ["ok", "ls"]
        );
    }
}
