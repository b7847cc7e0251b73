mod oauth2;

use keyholder_domain::Principal;

use super::*;
use crate::compile::compile;

const VALID: &str = "\
id: acme
name: Acme
documentation_url: https://acme.example/docs
facts_checked: 2026-01-31
base_url: https://api.acme.example
auth_methods:
  - method: api_key
    title: API key
    fields:
      - { name: api_key, title: API key, secret: true }
    http:
      headers: { X-Key: '{credential.api_key}' }
";

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn id(text: &str) -> ProviderId {
    ProviderId::parse(text).unwrap()
}

#[test]
fn every_built_in_definition_compiles() {
    for file in BUILTIN.files() {
        let compiled = compile(file.path(), file.contents_utf8().unwrap());
        assert!(compiled.provider.is_ok(), "{:#?}", compiled.provider);
    }
    assert_eq!(Catalog::builtin().iter().count(), BUILTIN.files().count());
}

#[test]
fn providers_come_in_the_order_of_their_ids() {
    let catalog = Catalog::builtin();
    let ids: Vec<&str> = catalog.iter().map(|provider| provider.id.as_str()).collect();
    assert!(ids.is_sorted(), "{ids:?}");
}

/// Where the page on providers is, and what it says.
fn page() -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/providers.md");
    let page = std::fs::read_to_string(&path).unwrap();
    (path, page)
}

/// The rows of the table that stands under a heading, which name a provider first.
fn rows<'a>(page: &'a str, heading: &str) -> Vec<&'a str> {
    let section = page.split(&format!("\n### {heading}\n")).nth(1).unwrap().split("\n#").next().unwrap();
    section.lines().filter(|line| line.starts_with("| `")).collect()
}

#[test]
fn the_example_of_the_documentation_is_right() {
    let (_, page) = page();
    let example = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let provider = compile(Path::new("acme-crm.yaml"), example).provider.unwrap();
    assert_eq!(provider.id.as_str(), "acme-crm");
}

#[test]
fn every_static_method_has_a_test_or_says_why_not() {
    for provider in Catalog::builtin().iter() {
        for method in provider.auth_methods.iter().filter(|method| method.method.is_static()) {
            let found = (method.test.is_some(), method.no_test.is_some());
            assert!(found.0 != found.1, "{} {}: {found:?}", provider.id, method.method);
        }
    }
}

#[test]
fn the_documentation_names_every_static_method_and_its_test() {
    let (_, page) = page();
    let rows = rows(&page, "What is typed in");
    let mut expected = 0;
    for provider in Catalog::builtin().iter() {
        for method in provider.auth_methods.iter().filter(|method| method.method.is_static()) {
            expected += 1;
            let begin = format!("| `{}` | {} | `{}` |", provider.id, provider.name, method.method);
            let row = rows.iter().find(|row| row.starts_with(&begin));
            let row = row.unwrap_or_else(|| panic!("docs/providers.md has no row {begin}"));
            let request = method.test.as_ref().map_or("none".to_owned(), |test| {
                format!("`{} {}`", test.http_method.as_str(), test.target.as_str())
            });
            assert!(row.starts_with(&format!("{begin} {request} |")), "{row} lacks {request}");
        }
    }
    assert_eq!(rows.len(), expected);
}

#[test]
fn the_documentation_lists_every_recipe() {
    let (path, page) = page();
    let catalog = Catalog::builtin();
    let expected: Vec<String> = catalog.iter().filter_map(oauth2::row).collect();
    let current = rows(&page, "What an OAuth server issues");
    if std::env::var_os("UPDATE_SCHEMA").is_some() && current != expected {
        std::fs::write(&path, page.replacen(&current.join("\n"), &expected.join("\n"), 1)).unwrap();
    } else {
        assert!(
            current == expected,
            "docs/providers.md is stale: UPDATE_SCHEMA=1 cargo test -p keyholder-catalog"
        );
    }
}

#[test]
fn only_what_moves_money_must_be_named_by_a_policy() {
    let (service, agent) =
        (Principal::parse("service:gateway").unwrap(), Principal::parse("agent:a").unwrap());
    let moves_money = ["coinbase", "gusto", "paypal", "square", "stripe", "stripe-connect"];
    for provider in Catalog::builtin().iter() {
        let open = !moves_money.contains(&provider.id.as_str());
        assert_eq!(provider.allows_service(&service), open, "{}", provider.id);
        assert_eq!(provider.allows_service(&agent), open, "{}", provider.id);
    }
}

#[test]
fn a_listed_service_is_allowed_and_no_other() {
    let text = format!("{VALID}services: ['service:gateway']\n");
    let provider = compile(Path::new("acme.yaml"), &text).provider.unwrap();
    assert!(provider.allows_service(&Principal::parse("service:gateway").unwrap()));
    assert!(!provider.allows_service(&Principal::parse("service:gateway-2").unwrap()));
    assert!(!provider.allows_service(&Principal::parse("agent:gateway").unwrap()));
}

#[test]
fn an_operator_adds_and_replaces_definitions() {
    let openai = VALID.replace("id: acme", "id: openai");
    let dir = directory(&[
        ("acme.yaml", VALID),
        ("openai.yaml", &openai),
        ("README.md", "not a definition"),
        ("..data.yaml", "neither is this"),
    ]);
    let catalog = Catalog::load(Some(dir.path())).unwrap();
    assert_eq!(catalog.get(&id("acme")).unwrap().name, "Acme");
    assert_eq!(catalog.get(&id("openai")).unwrap().name, "Acme");
    assert_eq!(catalog.get(&id("openrouter")).unwrap().name, "OpenRouter");

    let report = lint(dir.path()).unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.files, report.replaces), (2, vec![id("openai")]));
}

#[test]
fn one_wrong_file_and_nothing_is_loaded() {
    let wrong = VALID.replace("id: acme", "id: other");
    let dir = directory(&[("acme.yaml", VALID), ("other.yaml", &wrong.replace("name: Acme\n", ""))]);
    let error = Catalog::load(Some(dir.path())).unwrap_err();
    assert!(matches!(&error, LoadError::Invalid(report) if report.findings.len() == 1), "{error}");
    assert!(error.to_string().contains("other.yaml:1: lacks the key name"), "{error}");
}

#[test]
fn a_directory_that_is_not_there_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    assert!(matches!(Catalog::load(Some(&missing)), Err(LoadError::Unreadable(path, _)) if path == missing));
    assert!(lint(&missing).is_err());
}

#[test]
fn two_files_cannot_have_the_same_id() {
    let dir = directory(&[("acme.yaml", VALID), ("bacme.yaml", VALID)]);
    let report = lint(dir.path()).unwrap().to_string();
    assert!(report.contains("has the same id as"), "{report}");
    assert!(report.contains("must be the file's name without .yaml"), "{report}");
}

#[test]
fn files_that_would_be_passed_over_by_mistake_are_findings() {
    let dir = directory(&[("acme.yml", VALID)]);
    assert!(lint(dir.path()).unwrap().to_string().contains("name it .yaml"));
    let large = format!("{VALID}#{}", "x".repeat(256 * 1024));
    let dir = directory(&[("acme.yaml", &large)]);
    assert!(lint(dir.path()).unwrap().to_string().contains("256 KiB"));
}

#[test]
fn lint_reports_the_findings_of_every_file() {
    let dir = directory(&[("a.yaml", "id: [\n"), ("b.yaml", VALID), ("c.yaml", "id: c\n")]);
    let report = lint(dir.path()).unwrap();
    for name in ["a.yaml", "b.yaml", "c.yaml"] {
        assert!(report.findings.iter().any(|finding| finding.file.ends_with(name)), "{report}");
    }
}

/// A definition with an OAuth server of some issuer.
fn with_issuer(id: &str, issuer: &str) -> String {
    format!(
        "id: {id}\nname: Acme\ndocumentation_url: https://acme.example/docs\nfacts_checked: 2026-01-31\n\
         config:\n  - {{ name: region, title: Region, default: eu }}\n  - {{ name: tenant, title: Tenant, format: host_label }}\n\
         auth_methods:\n  - {{ method: oauth2_code, title: Sign in, no_test: Nothing can be asked. }}\n\
         oauth2:\n  client_authentication: basic\n  issuer: {issuer}\n\
         \x20 authorize: {{ url: 'https://{{config.tenant}}.acme.example/{{config.region}}/authorize' }}\n\
         \x20 token: {{ url: 'https://acme.example/token' }}\n"
    )
}

#[test]
fn c15_two_providers_never_have_the_same_issuer() {
    let load = |first: &str, second: &str| {
        let (one, two) = (with_issuer("one", first), with_issuer("two", second));
        let dir = directory(&[("one.yaml", &one), ("two.yaml", &two)]);
        let report = lint(dir.path()).unwrap();
        assert_eq!(Catalog::load(Some(dir.path())).is_ok(), report.is_clean(), "both judge alike");
        report.to_string()
    };
    assert_eq!(load("https://acme.example/1", "https://acme.example/2"), "");
    assert_eq!(load("https://acme.example", "https://acme.example/"), "", "compared byte for byte");
    for (first, second) in [
        ("https://acme.example", "https://acme.example"),
        ("'https://acme.example/{config.region}'", "https://acme.example/eu"),
        ("'https://{config.tenant}.acme.example'", "'https://{config.tenant}.acme.example'"),
    ] {
        let report = load(first, second);
        assert!(report.contains("two.yaml: has the same issuer as the provider one"), "{report}");
    }
}

#[test]
fn c15_no_definition_takes_the_issuer_of_a_built_in_one_unless_it_takes_its_place() {
    let google = issuer_of(Catalog::builtin().get(&id("google")).unwrap()).unwrap();
    let other = with_issuer("other", &google);
    let dir = directory(&[("other.yaml", &other)]);
    let report = lint(dir.path()).unwrap().to_string();
    assert!(report.contains("other.yaml: has the same issuer as the provider google"), "{report}");
    assert!(matches!(Catalog::load(Some(dir.path())), Err(LoadError::Invalid(_))));
    let own = with_issuer("google", &google);
    let dir = directory(&[("google.yaml", &own)]);
    assert!(lint(dir.path()).unwrap().is_clean());
}
