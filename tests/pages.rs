//! The pages that people read: what they point to is there.

use std::fs;
use std::path::{Path, PathBuf};

use crate::workspace::root;

/// The Markdown pages of the top folder and of `docs/`.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut folders = vec![root().join("docs")];
    let tops = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    pages.extend(tops);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { pages.push(path) }
        }
    }
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages
}

/// What a page points to: the part in brackets of each `[text](target)`, without its `#anchor`.
fn targets(page: &str) -> Vec<&str> {
    let ends = page.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    ends.map(|(target, _)| target.split('#').next().unwrap_or(target)).collect()
}

fn is_there(target: &str, folder: &Path) -> bool {
    target.is_empty() || target.starts_with("https://") || folder.join(target).exists()
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    assert!(pages.iter().any(|page| page.ends_with("README.md")), "nothing was read");
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let dead: Vec<_> =
            targets(&text).into_iter().filter(|target| !is_there(target, page.parent().unwrap())).collect();
        assert!(dead.is_empty(), "{}: {dead:?}", page.display());
    }
}

#[test]
fn finds_a_dead_link() {
    let page = "See [one](README.md#top), [two](no/such.md) and [three](https://example.com).";
    assert_eq!(targets(page), ["README.md", "no/such.md", "https://example.com"]);
    assert!(is_there("README.md", &root()) && !is_there("no/such.md", &root()));
}
