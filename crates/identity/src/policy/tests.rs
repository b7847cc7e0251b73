use figment::Figment;
use figment::providers::{Format as _, Toml};

use super::*;

#[derive(Deserialize)]
struct File {
    workload: Policy,
}

fn read(toml: &str) -> Result<Policy, String> {
    Figment::from(Toml::string(toml))
        .extract::<File>()
        .map(|file| file.workload)
        .map_err(|error| error.to_string())
}

fn workload(fields: &str) -> Result<Workload, String> {
    read(&format!("[[workload]]\n{fields}")).map(|policy| policy.workloads()[0].clone())
}

const GATEWAY: &str = r#"
    id = "spiffe://keyholder.dev/gateway"
    roles = ["resolver", "manager"]
    organizations = ["acme"]
    providers = ["openai", "github"]
    actors = ["service:ai-gateway", "agent:*"]
"#;

fn principal(text: &str) -> Principal {
    Principal::parse(text).unwrap()
}

#[test]
fn reads_what_a_workload_may_do() {
    let gateway = workload(GATEWAY).unwrap();
    assert_eq!(gateway.id().to_string(), "spiffe://keyholder.dev/gateway");
    assert_eq!(gateway.roles().collect::<Vec<_>>(), [Role::Manager, Role::Resolver]);
    assert!(gateway.has_role(Role::Resolver) && !gateway.has_role(Role::Operator));
    assert!(gateway.allows_organization(&OrganizationId::parse("acme").unwrap()));
    assert!(!gateway.allows_organization(&OrganizationId::parse("other").unwrap()));
    let listed = ["openai", "github"].map(|id| ProviderId::parse(id).unwrap()).into();
    assert_eq!(*gateway.providers(), ProviderRule::Only(listed));
}

#[test]
fn actors_are_exact_or_of_a_whole_type() {
    let gateway = workload(GATEWAY).unwrap();
    for (actor, allowed) in [
        ("service:ai-gateway", true),
        ("service:ai-gateway2", false),
        ("agent:roadie", true),
        ("agent:anybody", true),
        ("user:roadie", false),
    ] {
        assert_eq!(gateway.allows_actor(&principal(actor)), allowed, "{actor}");
    }
}

#[test]
fn a_star_alone_means_all() {
    let all = workload("id = 'dns:a.example'\nroles = ['resolver']\norganizations = ['*']\nproviders = ['*']\nactors = ['*']")
        .unwrap();
    assert!(all.allows_organization(&OrganizationId::parse("any").unwrap()));
    assert_eq!((all.providers(), all.actors()), (&ProviderRule::Any, &ActorRule::Any));
    assert!(all.allows_actor(&principal("user:u_42")));
}

#[test]
fn left_out_providers_are_a_matter_of_their_definitions() {
    let console = workload("id = 'spiffe://td/console'\nroles = ['manager']\norganizations = ['*']").unwrap();
    assert_eq!(*console.providers(), ProviderRule::ByDefinition);
    assert!(!console.allows_actor(&principal("user:u_42")));
}

#[test]
fn finds_a_workload_by_its_exact_identity() {
    let policy = read(&format!(
        "[[workload]]\n{GATEWAY}\n[[workload]]\nid = 'dns:a.example'\nroles = ['auditor']\norganizations = ['*']"
    ))
    .unwrap();
    let find = |id| policy.find(&WorkloadId::parse(id).unwrap()).map(|found| found.id().to_string());
    for id in ["spiffe://keyholder.dev/gateway", "dns:a.example"] {
        assert_eq!(find(id).as_deref(), Some(id));
    }
    for id in ["spiffe://keyholder.dev/gateway/b", "spiffe://other/gateway", "dns:b.example"] {
        assert_eq!(find(id), None);
    }
    assert_eq!(policy.dns_names().collect::<Vec<_>>(), ["a.example"]);
    assert!(Policy::default().find(&WorkloadId::parse("dns:a.example").unwrap()).is_none());
}

#[test]
fn an_error_names_the_entry_the_field_and_the_value() {
    let error =
        read(&format!("[[workload]]\n{GATEWAY}\n[[workload]]\nid = 'dns:a.example'\nroles = ['manger']"));
    let error = error.unwrap_err();
    for part in ["workload 2", "dns:a.example", "roles", "\"manger\""] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn refuses_what_contradicts_itself() {
    let base = "id = 'spiffe://td/a'\n";
    for (fields, field) in [
        ("organizations = ['*']", "roles"),
        ("roles = []\norganizations = ['*']", "roles"),
        ("roles = ['manager', 'manager']\norganizations = ['*']", "roles"),
        ("roles = ['*']\norganizations = ['*']", "roles"),
        ("roles = ['manager']", "organizations"),
        ("roles = ['manager']\norganizations = []", "organizations"),
        ("roles = ['manager']\norganizations = ['acme', '*']", "organizations"),
        ("roles = ['manager']\norganizations = ['Acme']", "organizations"),
        ("roles = ['manager']\norganizations = ['*']\nproviders = []", "providers"),
        ("roles = ['manager']\norganizations = ['*']\nproviders = ['a', '*']", "providers"),
        ("roles = ['manager']\norganizations = ['*']\nactors = ['agent:*']", "actors"),
        ("roles = ['resolver']\norganizations = ['*']", "actors"),
        ("roles = ['resolver']\norganizations = ['*']\nactors = ['robot:*']", "actors"),
        ("roles = ['resolver']\norganizations = ['*']\nactors = ['agent:r*']", "actors"),
        ("roles = ['resolver']\norganizations = ['*']\nactors = ['*', 'agent:*']", "actors"),
        ("roles = ['resolver']\norganizations = ['*']\nactors = ['agent:a', 'agent:a']", "actors"),
    ] {
        let error = workload(&format!("{base}{fields}")).unwrap_err();
        assert!(error.contains(&format!("workload 1 (\"spiffe://td/a\"): {field}: ")), "{fields}: {error}");
    }
}

#[test]
fn refuses_unknown_fields_patterns_and_the_same_workload_twice() {
    assert!(workload(&format!("{GATEWAY}\nrole = 'manager'")).unwrap_err().contains("role"));
    let pattern = workload("id = 'spiffe://td/ns/*'\nroles = ['manager']\norganizations = ['*']");
    assert!(pattern.unwrap_err().contains("id: "));
    let twice = read(&format!("[[workload]]\n{GATEWAY}\n[[workload]]\n{GATEWAY}")).unwrap_err();
    assert!(twice.contains("workload 2") && twice.contains("workload 1"), "{twice}");
}
