//! The one place that reads files of the host. A [`Tree`] is `/`, or a directory that holds a captured copy of it.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::seen::Seen;

/// Longest file that is read, bytes: those of `/proc` and `/sys` are short, and a wrong path must not fill the memory.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Files below a root.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// This host.
    pub fn host() -> Self {
        Self { root: PathBuf::from("/") }
    }

    /// A captured copy.
    #[cfg(test)]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn place(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A file's text without space around it. An empty file is hidden: that is how a masked one looks.
    pub fn text(&self, path: &str) -> Seen<String> {
        match self.read(path) {
            Ok(text) if text.trim().is_empty() => Seen::hidden(format!("{path} is empty")),
            Ok(text) => Seen::Value(text.trim().to_owned()),
            Err(error) => hidden(path, &error),
        }
    }

    fn read(&self, path: &str) -> io::Result<String> {
        let mut text = Vec::new();
        let file = fs::File::open(self.place(path))?;
        io::Read::read_to_end(&mut io::Read::take(file, FILE_BYTES_MAX), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// A file with one number.
    pub fn number(&self, path: &str) -> Seen<u64> {
        self.text(path).and_then(|text| match text.parse() {
            Ok(number) => Seen::Value(number),
            Err(_) => Seen::hidden(format!("{path} holds no number: {text}")),
        })
    }

    /// The names in a directory, sorted with numbers by value.
    pub fn names(&self, path: &str) -> Seen<Vec<String>> {
        let listed: io::Result<Vec<_>> = fs::read_dir(self.place(path))
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
        match listed {
            Ok(names) => {
                let mut names: Vec<_> =
                    names.into_iter().filter_map(|name| name.into_string().ok()).collect();
                names.sort_by_key(|name| (trailing_number(name), name.clone()));
                Seen::Value(names)
            }
            Err(error) => hidden(path, &error),
        }
    }

    /// The last name of what a symbolic link points at.
    pub fn link_name(&self, path: &str) -> Seen<String> {
        match fs::read_link(self.place(path)) {
            Ok(target) => match target.file_name().and_then(|name| name.to_str()) {
                Some(name) => Seen::Value(name.to_owned()),
                None => Seen::hidden(format!("{path} points at {}", target.display())),
            },
            Err(error) => hidden(path, &error),
        }
    }

    /// Whether something is there.
    pub fn has(&self, path: &str) -> bool {
        self.place(path).exists()
    }
}

fn hidden<T>(path: &str, error: &io::Error) -> Seen<T> {
    Seen::hidden(match error.kind() {
        io::ErrorKind::NotFound => format!("{path} is not there"),
        io::ErrorKind::PermissionDenied => format!("{path} may not be read"),
        _ => format!("{path}: {error}"),
    })
}

/// The number at the end of a name such as `rx-10`; names without one come first.
fn trailing_number(name: &str) -> Option<u64> {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    name[name.len() - digits..].parse().ok()
}
