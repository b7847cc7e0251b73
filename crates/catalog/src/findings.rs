//! What is wrong with a definition, and where.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::tree::{Place, Tree};

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1, if the parser gives it.
    pub line: Option<u64>,
    /// The place in the document, such as `auth_methods[0].fields[1].pattern`; empty for the whole file.
    pub place: String,
    /// What is wrong.
    pub sentence: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.place.is_empty() {
            write!(f, ": {}", self.place)?;
        }
        write!(f, ": {}", self.sentence)
    }
}

/// Collects the findings of one file.
#[derive(Debug)]
pub(crate) struct Findings {
    file: PathBuf,
    tree: Option<Tree>,
    found: Vec<Finding>,
}

impl Findings {
    pub(crate) fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), tree: None, found: Vec::new() }
    }

    /// From now on, findings get their lines from this document.
    pub(crate) fn locate_in(&mut self, tree: Tree) {
        self.tree = Some(tree);
    }

    pub(crate) fn add(&mut self, place: &Place, sentence: impl Into<String>) {
        let line = self.tree.as_ref().map(|tree| tree.line_of(place));
        self.push(line, place.to_string(), sentence.into());
    }

    pub(crate) fn add_for_file(&mut self, line: Option<u64>, sentence: impl Into<String>) {
        self.push(line, String::new(), sentence.into());
    }

    fn push(&mut self, line: Option<u64>, place: String, sentence: String) {
        self.found.push(Finding { file: self.file.clone(), line, place, sentence });
    }

    /// The value, or a finding in its place.
    pub(crate) fn accept<T, E: fmt::Display>(&mut self, place: &Place, result: Result<T, E>) -> Option<T> {
        result.map_err(|sentence| self.add(place, sentence.to_string())).ok()
    }

    pub(crate) fn into_vec(self) -> Vec<Finding> {
        self.found
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }
}
