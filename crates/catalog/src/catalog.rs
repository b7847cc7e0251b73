//! All definitions together: the built-in ones, and an operator's on top.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use include_dir::{Dir, include_dir};
use keyholder_domain::ProviderId;

use crate::compile::compile;
use crate::{Finding, Provider};

/// The built-in definitions.
pub(crate) static BUILTIN: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/providers");

/// The built-in providers. Compiled once: it takes a while without optimization, and they never change.
static BUILTIN_PROVIDERS: LazyLock<BTreeMap<ProviderId, Arc<Provider>>> = LazyLock::new(|| {
    let providers = BUILTIN.files().map(|file| {
        let text = file.contents_utf8().unwrap_or_default();
        let compiled = compile(file.path(), text);
        let provider = compiled.provider.expect("a test compiles every built-in definition");
        (provider.id.clone(), Arc::new(provider))
    });
    providers.collect()
});

/// The longest definition, in bytes.
const MAX_FILE_LEN: u64 = 256 * 1024;

/// Every provider that is known. A clone is cheap.
#[derive(Debug, Clone)]
pub struct Catalog {
    providers: BTreeMap<ProviderId, Arc<Provider>>,
}

/// Why a catalog cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The operator's directory, or a file in it, cannot be read.
    #[error("cannot read provider definitions from {}", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    /// The operator's definitions are not right; holds every finding.
    #[error("the provider definitions are not right:\n{0}")]
    Invalid(LintReport),
}

/// What linting a directory found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LintReport {
    /// How many definitions were read.
    pub files: usize,
    /// The built-in definitions that are replaced by the directory's.
    pub replaces: Vec<ProviderId>,
    /// Everything that is wrong, in the order of the files.
    pub findings: Vec<Finding>,
}

impl LintReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// One finding a line.
impl fmt::Display for LintReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.findings.iter().map(Finding::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl Catalog {
    /// The built-in providers.
    pub fn builtin() -> Self {
        Self { providers: BUILTIN_PROVIDERS.clone() }
    }

    /// The built-in providers and, if there is one, those of an operator's directory. A definition with a
    /// built-in's id takes its place. All or nothing: one wrong file, and nothing is loaded.
    pub fn load(operators: Option<&Path>) -> Result<Self, LoadError> {
        let mut catalog = Self::builtin();
        let Some(dir) = operators else { return Ok(catalog) };
        let loaded = read_dir(dir).map_err(|error| LoadError::Unreadable(dir.to_owned(), error))?;
        if !loaded.report.is_clean() {
            return Err(LoadError::Invalid(loaded.report));
        }
        catalog.providers.extend(loaded.providers.into_iter().map(|it| (it.id.clone(), Arc::new(it))));
        Ok(catalog)
    }

    /// The provider of an id.
    pub fn get(&self, id: &ProviderId) -> Option<&Provider> {
        self.providers.get(id).map(Arc::as_ref)
    }

    /// Every provider, in the order of the ids.
    pub fn iter(&self) -> impl Iterator<Item = &Provider> {
        self.providers.values().map(Arc::as_ref)
    }
}

/// Checks a directory of definitions, and reports everything that is wrong with it.
pub fn lint(dir: &Path) -> Result<LintReport, io::Error> {
    Ok(read_dir(dir)?.report)
}

#[derive(Default)]
struct Loaded {
    providers: Vec<Provider>,
    /// The ids that were claimed, and by which file.
    seen: BTreeMap<String, PathBuf>,
    report: LintReport,
}

/// Reads every `*.yaml` of a directory, in the order of their names. Names that begin with a dot are
/// passed over: mounted configuration keeps its bookkeeping under them.
fn read_dir(dir: &Path) -> Result<Loaded, io::Error> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with('.') && entry.path().is_file() {
            paths.push(entry.path());
        }
    }
    paths.sort();
    let mut loaded = Loaded::default();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("yaml") => loaded.read(&path)?,
            Some("yml") => loaded.refuse(&path, "is not read: name it .yaml"),
            _ => {}
        }
    }
    loaded.check_issuers();
    Ok(loaded)
}

impl Loaded {
    fn read(&mut self, path: &Path) -> Result<(), io::Error> {
        self.report.files += 1;
        if std::fs::metadata(path)?.len() > MAX_FILE_LEN {
            self.refuse(path, "is larger than 256 KiB");
            return Ok(());
        }
        let Ok(text) = String::from_utf8(std::fs::read(path)?) else {
            self.refuse(path, "is not UTF-8");
            return Ok(());
        };
        let compiled = compile(path, &text);
        if let Some(other) = compiled.id.and_then(|id| self.seen.insert(id, path.to_owned())) {
            self.refuse(path, &format!("has the same id as {}", other.display()));
        }
        match compiled.provider {
            Ok(provider) => self.keep(provider),
            Err(findings) => self.report.findings.extend(findings),
        }
        Ok(())
    }

    fn keep(&mut self, provider: Provider) {
        if BUILTIN.contains(format!("{}.yaml", provider.id)) {
            self.report.replaces.push(provider.id.clone());
        }
        self.providers.push(provider);
    }

    /// Two providers with one issuer could be taken for each other where an answer names only that (RFC 9207, section 4).
    fn check_issuers(&mut self) {
        let replaced = |id: &ProviderId| self.providers.iter().any(|loaded| loaded.id == *id);
        let mut seen: BTreeMap<String, ProviderId> = BUILTIN_PROVIDERS
            .values()
            .filter(|builtin| !replaced(&builtin.id))
            .filter_map(|builtin| Some((issuer_of(builtin)?, builtin.id.clone())))
            .collect();
        let mut twice = Vec::new();
        for provider in &self.providers {
            let Some(issuer) = issuer_of(provider) else { continue };
            if let Some(other) = seen.insert(issuer, provider.id.clone()) {
                let path = self.seen.get(provider.id.as_str()).cloned().unwrap_or_default();
                twice.push((path, format!("has the same issuer as the provider {other}")));
            }
        }
        for (path, sentence) in twice {
            self.refuse(&path, &sentence);
        }
    }

    fn refuse(&mut self, path: &Path, sentence: &str) {
        let sentence = sentence.to_owned();
        self.report.findings.push(Finding {
            file: path.to_owned(),
            line: None,
            place: String::new(),
            sentence,
        });
    }
}

/// A provider's issuer, filled in as far as it depends on no connection.
fn issuer_of(provider: &Provider) -> Option<String> {
    let issuer = provider.oauth2.as_ref()?.issuer.as_ref()?;
    let filled = provider.render_text(issuer, &|_| None, &|_| None).ok().flatten();
    Some(filled.map_or_else(|| issuer.as_str().to_owned(), |text| text.to_string()))
}

#[cfg(test)]
mod tests;
