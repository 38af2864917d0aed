//! A source file without what does not count: comments, the contents of strings, tests.

use std::collections::BTreeSet;
use std::path::Path;

/// A file of the crate.
pub(crate) struct Source {
    /// Relative to the crate, with `/`.
    pub(crate) path: String,
    /// As it was written.
    pub(crate) text: String,
    /// Without comments, contents of strings and tests; the lines stay where they are.
    pub(crate) code: String,
}

/// Every source under `src`, except files that are tests as a whole.
pub(crate) fn read_all(root: &Path) -> Vec<Source> {
    let mut texts = Vec::new();
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the sources are readable") {
            let path = entry.expect("the sources are readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
                texts.push((name, std::fs::read_to_string(&path).expect("sources are UTF-8")));
            }
        }
    }
    texts.sort();
    from_texts(texts)
}

/// Sources of these paths and texts, except files that are tests as a whole.
pub(crate) fn from_texts(texts: Vec<(String, String)>) -> Vec<Source> {
    let mut tests = BTreeSet::new();
    let mut sources = Vec::new();
    for (path, text) in texts {
        let folder = match path.strip_suffix("/mod.rs").or(path.strip_suffix("/lib.rs")) {
            Some(folder) => folder.to_owned(),
            None => path.trim_end_matches(".rs").to_owned(),
        };
        let (code, test_modules) = without_tests(&blank(&text));
        tests.extend(test_modules.iter().map(|module| format!("{folder}/{module}")));
        sources.push(Source { path, text, code });
    }
    let is_test = |path: &str| {
        tests.iter().any(|test| path.strip_prefix(test.as_str()).is_some_and(|rest| rest.starts_with(['.', '/'])))
    };
    sources.into_iter().filter(|source| !is_test(&source.path)).collect()
}

impl Source {
    /// The path of the module without `crate`.
    fn module_path(&self) -> Vec<&str> {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        inner.split('/').collect()
    }

    /// The module at the top level that the file belongs to; `lib` and `main` for the roots.
    pub(crate) fn module(&self) -> &str {
        self.module_path()[0]
    }

    /// Modules at the top level that the code names, its own included.
    pub(crate) fn imported_modules(&self) -> BTreeSet<String> {
        let depth = self.module_path().len();
        let module = |path: &Vec<String>| {
            let ups = path.iter().take_while(|segment| *segment == "super").count();
            let from_root = path[0] == "crate" || ups == depth;
            path.get(ups.max(1)).filter(|_| from_root).cloned()
        };
        self.paths().iter().filter_map(module).filter(|name| name.starts_with(char::is_lowercase)).collect()
    }

    pub(crate) fn lines_of_code(&self) -> usize {
        self.code.lines().filter(|line| !line.trim().is_empty()).count()
    }

    /// Every path that the code names, with groups in braces written out.
    pub(crate) fn paths(&self) -> Vec<Vec<String>> {
        let tokens = tokens(&self.code);
        let (mut paths, mut at) = (Vec::new(), 0);
        while at < tokens.len() {
            if is_name(tokens[at]) {
                at = path(&tokens, at, Vec::new(), &mut paths);
            } else {
                at += 1;
            }
        }
        paths
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Names, `::` and single other characters.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let name = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let length = match first {
            _ if name > 0 => name,
            ':' if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

/// Reads the path that starts at the name `at`, after `prefix`; returns where it ends.
fn path(tokens: &[&str], mut at: usize, mut prefix: Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    prefix.push(tokens[at].to_owned());
    at += 1;
    while tokens.get(at) == Some(&"::") {
        match tokens.get(at + 1) {
            Some(name) if is_name(name) => {
                prefix.push((*name).to_owned());
                at += 2;
            }
            Some(&"{") => {
                at += 2;
                while at < tokens.len() && tokens[at] != "}" {
                    if is_name(tokens[at]) {
                        at = path(tokens, at, prefix.clone(), found);
                        while at < tokens.len() && !matches!(tokens[at], "," | "}") {
                            at += 1;
                        }
                    } else {
                        at += 1;
                    }
                }
                return at + 1;
            }
            _ => {
                at += 1;
                break;
            }
        }
    }
    found.push(prefix);
    at
}

/// The text with comments and the contents of strings and characters as blanks; line ends stay.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = opaque(rest, code.chars().next_back());
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    code
}

/// The length of the comment, string or character that starts here; 0 if none does.
fn opaque(rest: &str, before: Option<char>) -> usize {
    let in_name = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let raw = rest.trim_start_matches(['b', 'c']);
    let hashes = raw.get(1..).map_or(0, |after| after.len() - after.trim_start_matches('#').len());
    if rest.starts_with("//") {
        rest.find('\n').unwrap_or(rest.len())
    } else if rest.starts_with("/*") {
        nested_comment(rest)
    } else if !in_name && raw.starts_with('r') && raw[1 + hashes..].starts_with('"') {
        let start = rest.len() - raw.len() + hashes + 2;
        let end = format!("\"{}", "#".repeat(hashes));
        rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len())
    } else if rest.starts_with('"') {
        quoted(rest, '"')
    } else if let Some(after) = rest.strip_prefix('\'') {
        // A lifetime has no second quote after one character.
        let mut after = after.chars();
        let (first, second) = (after.next(), after.next());
        if first == Some('\\') || (first.is_some() && second == Some('\'')) { quoted(rest, '\'') } else { 0 }
    } else {
        0
    }
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn nested_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        let tail = &rest.as_bytes()[at..];
        if tail.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if tail.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
        } else {
            at += 1;
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// Blanks out items under `#[cfg(test)]`; with it the names of test modules in other files.
fn without_tests(code: &str) -> (String, Vec<String>) {
    const MARK: &str = "#[cfg(test)]";
    let (mut kept, mut elsewhere) = (String::new(), Vec::new());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        let item = &rest[at + MARK.len()..];
        let end = end_of_item(item);
        let words: Vec<&str> = item[..end].split_whitespace().collect();
        if let Some(name) = words.iter().position(|word| *word == "mod").and_then(|at| words.get(at + 1)) {
            elsewhere.extend(name.strip_suffix(';').map(str::to_owned));
        }
        rest = &item[end..];
    }
    kept.push_str(rest);
    (kept, elsewhere)
}

/// Where an item ends: at a `;` or at the end of its block, whichever comes first.
fn end_of_item(item: &str) -> usize {
    let mut depth = 0i32;
    for (at, c) in item.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth -= 1;
                if depth == 0 && c == '}' {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}
