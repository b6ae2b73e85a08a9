//! Style and architecture as tests: reads the sources as text and fails on what CONTRIBUTING.md forbids.
//!
//! Each check lists all offenders at once, with what to do. No parser is needed: comments and strings are blanked out
//! first (`Source::code`), and what is left is looked at by words and braces.

use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom, besides itself. Base modules may import base modules that stand before them.
const BASE: &[&str] = &[
    "limits",
    "clock",
    "hash",
    "endpoint",
    "id",
    "outcome",
    "envelope",
    "message",
    "routing",
    "users",
    "mailboxes",
    "event",
    "metrics",
];
/// Everything that is not base. A name with `::` allows that item alone.
const IMPORTS: &[(&str, &[&str])] = &[
    ("config", &["limits", "endpoint", "routing", "users"]),
    ("cli", &["config", "id", "routing"]),
    ("account", &["cli", "users"]),
    ("protocol", &["limits", "clock", "endpoint", "id", "outcome", "envelope", "users"]),
    ("net", &["clock", "endpoint"]),
    ("spool", &["limits", "clock", "hash", "id", "outcome", "envelope", "message"]),
    ("queue", &["limits", "clock", "hash", "id", "outcome", "envelope", "routing"]),
    ("exchange", &["limits", "clock", "hash", "id", "outcome", "routing"]),
    ("bounce", &["limits", "clock", "id", "outcome", "envelope", "protocol"]),
    ("inbound", &["BASE", "protocol", "net", "spool"]),
    // A worker reads bodies, by pins that a shard gave it; it never appends.
    (
        "delivery",
        &["BASE", "protocol", "net", "exchange", "spool::reader", "spool::storage", "spool::Pinned"],
    ),
    ("control", &["BASE", "config"]),
    (
        "shard",
        // `Payload` is what a job carries; the resolver's handle is a channel.
        &[
            "BASE",
            "protocol",
            "net",
            "spool",
            "queue",
            "exchange",
            "bounce",
            "inbound",
            "delivery::job::Payload",
            "control::resolver::ResolverHandle",
        ],
    ),
    ("worker", &["BASE", "net", "exchange", "delivery", "spool::storage"]),
    (
        "relay",
        &[
            "BASE", "config", "protocol", "net", "spool", "queue", "exchange", "bounce", "inbound",
            "delivery", "control", "shard", "worker",
        ],
    ),
    // The relay's own fold, so that what is shown is what a restart would do.
    ("inspect", &["BASE", "net", "spool", "queue", "shard::open", "control::log"]),
    ("main", &["BASE", "account", "cli", "config", "control", "inspect", "relay"]),
];

const FILE_LINES_MAX: usize = 600;
const TEST_FILE_LINES_MAX: usize = 900;
const FUNCTION_LINES_MAX: usize = 70;
/// Functions that may be longer, with the lines they may have and the reason.
const LONG_FUNCTIONS: &[(&str, &str, usize, &str)] = &[(
    "src/spool/restart.rs",
    "start",
    80,
    "the order of its writes is what makes a crash in between harmless; it is read in one piece",
)];

/// The modules in which `unsafe` is allowed.
const UNSAFE: &[&str] = &["src/net/fd.rs"];
/// Modules all of whose files are PURE.
const PURE: &[&str] = &["protocol", "queue", "exchange", "bounce", "metrics"];
/// What a file that says PURE must not name.
const IMPURE: &[&str] = &[
    "glommio",
    "tokio",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "std::fs",
    "Instant::now",
    "SystemTime::now",
    "thread::sleep",
    "thread::spawn",
    "println",
    "eprintln",
];

struct Source {
    /// Relative to the workspace.
    path: String,
    text: String,
    /// The text with comments, strings and characters blanked out; lines stay where they are.
    code: String,
}

impl Source {
    fn is_test(&self) -> bool {
        self.path.contains("tests/") || self.path.ends_with("tests.rs") || self.path.starts_with("benches/")
    }

    /// The top-level module of a file in `src/`.
    fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        Some(inside.split_once('/').map_or(inside.trim_end_matches(".rs"), |(module, _)| module))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in ["src", "tests", "loadtest", "tuning", "benches", "fuzz"] {
        files(&root().join(folder), "rs", &mut paths);
    }
    paths.sort();
    assert!(paths.len() > 50, "the sources are not where they are looked for: {}", root().display());
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a source file");
        let path = path.strip_prefix(root()).expect("inside").to_string_lossy().into_owned();
        Source { path, code: blank(&text), text }
    };
    paths.into_iter().map(read).collect()
}

/// Blanks comments, strings and characters. Knows raw strings, nested comments, and lifetimes from characters.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = token_end(bytes, at);
        let keep = end == at;
        let end = end.max(at + 1);
        let visible = |byte: &u8| if keep || *byte == b'\n' { *byte } else { b' ' };
        out.extend(bytes[at..end].iter().map(visible));
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Where the comment, string or character that begins at `at` ends; `at` itself if none begins there.
fn token_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let find = |what: &[u8], from: usize| {
        let found = rest[from..].windows(what.len()).position(|window| window == what);
        found.map_or(bytes.len(), |found| at + from + found + what.len())
    };
    let before = at.checked_sub(1).map_or(b' ', |at| bytes[at]);
    let in_word = before.is_ascii_alphanumeric() || before == b'_';
    if rest.starts_with(b"//") {
        return find(b"\n", 0) - usize::from(rest.contains(&b'\n'));
    }
    if rest.starts_with(b"/*") {
        return find(b"*/", 2);
    }
    if rest[0] == b'r' && (!in_word || before == b'b') {
        let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
        if rest.get(1 + hashes) == Some(&b'"') {
            let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
            return find(&close, 2 + hashes);
        }
    }
    match rest {
        [b'"', ..] => quoted_end(bytes, at, b'"'),
        [b'\'', b'\\', ..] => quoted_end(bytes, at, b'\''),
        // A character is closed behind one letter; a lifetime is not closed at all.
        [b'\'', first, tail @ ..] => {
            let is_name = first.is_ascii_alphanumeric() || *first == b'_';
            if is_name && tail.first() != Some(&b'\'') { at } else { quoted_end(bytes, at, b'\'') }
        }
        _ => at,
    }
}

fn quoted_end(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Places where `word` stands as a word of its own.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_part = |letter: Option<char>| letter.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        !is_part(code[..*at].chars().next_back()) && !is_part(code[at + word.len()..].chars().next())
    })
}

fn none(offenders: &[String], rule: &str) {
    assert!(offenders.is_empty(), "{rule}\n  {}\n", offenders.join("\n  "));
}

/// The paths that stand behind `crate::`, groups in braces taken apart; at most four names each.
fn imports(code: &str, krate: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for at in words(code, krate) {
        if let Some(rest) = code[at + krate.len()..].strip_prefix("::") {
            let mut paths = Vec::new();
            tree(rest, String::new(), &mut paths);
            found.extend(paths.into_iter().map(|path| (line_of(code, at), path)));
        }
    }
    found
}

/// Reads one path or group; gives what follows it.
fn tree<'a>(text: &'a str, prefix: String, found: &mut Vec<String>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start().trim_start_matches(',').trim_start();
            if rest.is_empty() || rest.starts_with('}') {
                return rest.strip_prefix('}').unwrap_or(rest);
            }
            let before = rest.len();
            rest = tree(rest, prefix.clone(), found);
            // `x as y`, or whatever else stands there.
            if let Some(name) = rest.trim_start().strip_prefix("as ") {
                rest = name.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
            }
            if rest.len() == before {
                return rest;
            }
        }
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let path = match (prefix.is_empty(), name) {
        (_, "self") => prefix,
        (true, _) => name.to_owned(),
        (false, _) => format!("{prefix}::{name}"),
    };
    match rest.strip_prefix("::") {
        Some(rest) if !name.is_empty() => tree(rest, path, found),
        _ => {
            found.push(path);
            rest
        }
    }
}

/// The modules that `module` may import, and their names for the message.
fn allowed(module: &str) -> Option<Vec<&'static str>> {
    if let Some(place) = BASE.iter().position(|base| *base == module) {
        return Some(BASE[..place].to_vec());
    }
    let (_, row) = IMPORTS.iter().find(|(name, _)| *name == module)?;
    let expand = |name: &&'static str| if *name == "BASE" { BASE.to_vec() } else { vec![*name] };
    Some(row.iter().flat_map(expand).collect())
}

#[test]
fn imports_follow_the_table() {
    let mut offenders = Vec::new();
    for source in sources() {
        let Some(module) = source.module().filter(|module| *module != "lib") else { continue };
        let Some(allowed) = allowed(module) else {
            offenders.push(format!("{}: module `{module}` has no row in the table", source.path));
            continue;
        };
        let krate = if module == "main" { "ringpost" } else { "crate" };
        for (line, path) in imports(&source.code, krate) {
            let into = path.split("::").next().unwrap_or_default();
            let covers = |name: &&str| {
                path == **name || path.starts_with(*name) && path[name.len()..].starts_with("::")
            };
            if into != module && !allowed.iter().any(covers) {
                let may = allowed.join(", ");
                offenders
                    .push(format!("{}:{line}: `{module}` → `{path}`; it may import: {may}", source.path));
            }
        }
    }
    none(&offenders, "arrows that are not in the import table (IMPORTS in tests/tidy.rs, with the reasons):");
}

#[test]
fn receiving_and_sending_do_not_know_each_other() {
    for (module, other) in [("inbound", "delivery"), ("delivery", "inbound"), ("queue", "spool")] {
        let row = allowed(module).expect("a row");
        assert!(!row.iter().any(|name| name.starts_with(other)), "{module} must never import {other}");
    }
}

#[test]
fn files_fit_their_limit() {
    let mut offenders = Vec::new();
    for source in sources() {
        let limit = if source.is_test() { TEST_FILE_LINES_MAX } else { FILE_LINES_MAX };
        let lines = source.text.lines().count();
        if lines > limit {
            offenders.push(format!("{}: {lines} lines, at most {limit}", source.path));
        }
    }
    none(&offenders, "files that hold more than one idea; split them by idea:");
}

/// Name, first line and number of lines of each function with a body.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for at in words(code, "fn") {
        let rest = code[at + 2..].trim_start();
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        // The type `fn(…)` has no name.
        if name.is_empty() {
            continue;
        }
        let (mut depth, mut in_body) = (0i32, false);
        for (offset, letter) in code[at..].char_indices() {
            match letter {
                '(' | '[' => depth += 1,
                ')' | ']' => depth -= 1,
                ';' if depth == 0 && !in_body => break,
                '{' => {
                    in_body |= depth == 0;
                    depth += 1;
                }
                '}' => depth -= 1,
                _ => continue,
            }
            if in_body && depth == 0 {
                let (first, last) = (line_of(code, at), line_of(code, at + offset));
                found.push((name, first, last - first + 1));
                break;
            }
        }
    }
    found
}

#[test]
fn functions_fit_a_screen() {
    let mut offenders = Vec::new();
    let mut used = vec![false; LONG_FUNCTIONS.len()];
    for source in sources() {
        for (name, line, lines) in functions(&source.code) {
            let exception = LONG_FUNCTIONS
                .iter()
                .position(|(path, function, ..)| *path == source.path && *function == name);
            let limit = exception.map_or(FUNCTION_LINES_MAX, |index| LONG_FUNCTIONS[index].2);
            if let Some(index) = exception.filter(|_| lines > FUNCTION_LINES_MAX) {
                used[index] = true;
            }
            if lines > limit {
                offenders
                    .push(format!("{}:{line}: `{name}` has {lines} lines, at most {limit}", source.path));
            }
        }
    }
    for (index, (path, name, _, _)) in LONG_FUNCTIONS.iter().enumerate() {
        if !used[index] {
            offenders.push(format!("{path}: `{name}` is short now: take it out of LONG_FUNCTIONS"));
        }
    }
    none(&offenders, "functions that do not fit a screen; move straight-line work to helpers:");
}

#[test]
fn unsafe_stays_where_it_is_audited() {
    let mut offenders = Vec::new();
    for source in sources() {
        let listed = UNSAFE.contains(&source.path.as_str());
        let lines: Vec<&str> = source.text.lines().collect();
        for at in words(&source.code, "unsafe") {
            let line = line_of(&source.code, at);
            if !listed {
                offenders.push(format!("{}:{line}: unsafe outside of {}", source.path, UNSAFE.join(", ")));
            }
            let above = lines[..line - 1].iter().rev();
            let note: String =
                above.take_while(|line| line.trim_start().starts_with("//")).copied().collect();
            if !note.contains("SAFETY:") {
                offenders.push(format!("{}:{line}: no `SAFETY:` comment right above", source.path));
            }
        }
        if !listed && words(&source.code, "unsafe_code").next().is_some() {
            offenders.push(format!("{}: names the lint unsafe_code", source.path));
        }
    }
    none(&offenders, "unsafe code:");
}

#[test]
fn each_file_says_what_it_is() {
    let mut offenders = Vec::new();
    for source in sources() {
        if !source.text.starts_with("//! ") {
            offenders.push(format!("{}: does not open with a `//!` doc", source.path));
        }
        let is_pure = source.text.starts_with("//! PURE");
        if source.module().is_some_and(|module| PURE.contains(&module)) && !is_pure && !source.is_test() {
            offenders.push(format!("{}: its module is PURE, and it does not say so", source.path));
        }
        for word in IMPURE.iter().filter(|_| is_pure) {
            for at in words(&source.code, word) {
                let line = line_of(&source.code, at);
                offenders.push(format!("{}:{line}: says PURE and names `{word}`", source.path));
            }
        }
    }
    none(&offenders, "module docs:");
}

#[test]
fn runtimes_have_one_door_each() {
    let mut offenders = Vec::new();
    for source in sources() {
        for (runtime, doors) in
            [("glommio", &["src/net/", "src/spool/storage"][..]), ("tokio", &["src/control/"][..])]
        {
            let is_door = doors.iter().any(|door| source.path.starts_with(door));
            for at in words(&source.code, runtime).filter(|_| !is_door) {
                let line = line_of(&source.code, at);
                offenders.push(format!("{}:{line}: names {runtime}; only {doors:?} may", source.path));
            }
        }
    }
    none(&offenders, "runtimes outside of their modules:");
}

#[test]
fn nothing_is_left_for_later() {
    let mut offenders = Vec::new();
    for source in sources() {
        for word in ["todo", "unimplemented", "dbg"] {
            for at in words(&source.code, word).filter(|at| source.code[at + word.len()..].starts_with('!')) {
                offenders.push(format!("{}:{}: {word}!", source.path, line_of(&source.code, at)));
            }
        }
        for (number, line) in source.text.lines().enumerate() {
            if line.contains(concat!("FIX", "ME")) {
                offenders.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
        for (at, _) in source.code.match_indices("#[ignore") {
            let has_reason = source.code[at + 8..].trim_start().starts_with('=');
            if !has_reason {
                let line = line_of(&source.code, at);
                offenders.push(format!("{}:{line}: #[ignore] without a reason", source.path));
            }
        }
    }
    none(&offenders, "finish it, or write it into an issue:");
}

#[test]
fn each_dependency_says_what_it_is_for() {
    let mut offenders = Vec::new();
    let mut manifests = Vec::new();
    for folder in ["loadtest", "tests", "tuning", "fuzz"] {
        files(&root().join(folder), "toml", &mut manifests);
    }
    manifests.push(root().join("Cargo.toml"));
    for manifest in manifests.iter().filter(|path| path.ends_with("Cargo.toml")) {
        let text = fs::read_to_string(manifest).expect("a manifest");
        let mut in_dependencies = false;
        for (number, line) in text.lines().enumerate() {
            if line.starts_with('[') {
                in_dependencies = line.trim_end().ends_with("dependencies]");
            } else if in_dependencies && line.contains('=') && !line.starts_with('#') && !line.contains(" # ")
            {
                offenders.push(format!("{}:{}: {line}", manifest.display(), number + 1));
            }
        }
    }
    none(&offenders, "dependencies without a reason (a comment behind the line):");
}

#[test]
fn the_map_names_every_module() {
    let map = fs::read_to_string(root().join("src/ARCHITECTURE.md")).expect("src/ARCHITECTURE.md");
    let mut offenders = Vec::new();
    for entry in fs::read_dir(root().join("src")).expect("src") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        let is_known = map.contains(&format!("`{name}`")) || map.contains(&format!("`{name}/`"));
        if name != "ARCHITECTURE.md" && !is_known {
            offenders.push(name);
        }
    }
    none(&offenders, "not in the code map of src/ARCHITECTURE.md:");
}

#[test]
fn each_promise_of_the_readme_names_a_test() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let promises = readme.split("\n## Promises").nth(1).and_then(|rest| rest.split("\n## ").next());
    let mut offenders = Vec::new();
    let mut tests = 0;
    for row in promises.unwrap_or_default().lines().filter(|line| line.starts_with("| ")).skip(2) {
        let links: Vec<_> = row.split("[`").skip(1).filter_map(|link| link.split_once("`](")).collect();
        if links.is_empty() {
            offenders.push(format!("no test is named: {row}"));
        }
        for (name, rest) in links {
            let path = rest.split(')').next().unwrap_or_default();
            let text = fs::read_to_string(root().join(path)).unwrap_or_default();
            tests += 1;
            let is_script = path.ends_with(name) && !text.is_empty();
            if !is_script && !text.contains(&format!("fn {name}(")) {
                offenders.push(format!("{path} has no test `{name}`"));
            }
        }
    }
    assert!(tests > 0, "README.md has no table of promises");
    none(&offenders, "promises without the test that holds them:");
}

#[test]
fn scripts_in_python_are_python() {
    let scripts = "import ast, pathlib\nfor path in [*pathlib.Path('tests').rglob('*.py'), 'tests/tier-b']:\n    \
                   ast.parse(pathlib.Path(path).read_text(), str(path))";
    let mut python = std::process::Command::new("python3");
    match python.args(["-c", scripts]).current_dir(root()).output() {
        Ok(ended) => assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr)),
        Err(error) => eprintln!("SKIP scripts in Python: no python3 ({error})"),
    }
}

#[test]
fn these_checks_can_fail() {
    let code = blank(
        "fn a<'x>(c: B<'_>, d: &'x str) { let b = '{'; let s = \"}\\\"\"; /* { */ r#\"}\"#; b'\\''; } // {\nfn c();",
    );
    assert_eq!(functions(&code), [("a".to_owned(), 1, 1)], "{code}");
    let found: Vec<String> = imports("use crate::{a::{self, b::C}, d as e};\ncrate::f::g(1)", "crate")
        .into_iter()
        .map(|(_, path)| path)
        .collect();
    assert_eq!(found, ["a", "a::b::C", "d", "f::g"]);
    assert_eq!(words("unsafe_code is_unsafe unsafe {", "unsafe").collect::<Vec<_>>(), [22]);
    assert_eq!(blank("a // b\nc"), "a     \nc");
}
