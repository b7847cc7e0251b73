//! Provider definitions: the built-in YAML files, their schema, loading, linting and templates.
//!
//! A provider is data, not code. A definition says which fields an owner must fill in, what their values
//! may look like, how the credential is put on a request, and which request proves it; this crate reads
//! definitions, refuses the ones that could not work or could leak, renders, and judges the answer to a
//! test. It speaks to no network, keeps no credential, and no error, log or `Debug` of it shows a value.
//!
//! The commonest change is a new provider: one file in `providers/`, named `<id>.yaml`, and its lines in
//! the tables of `docs/providers.md`. The tests then check everything that can be checked without the
//! provider. What comes out is used like this:
//!
//! ```
//! use keyholder_catalog::Catalog;
//! use keyholder_domain::{AuthMethod, ProviderId, TestClass};
//!
//! let catalog = Catalog::builtin();
//! let provider = catalog.get(&ProviderId::parse("openai")?).expect("a built-in provider");
//! let method = provider.method(AuthMethod::ApiKey).expect("a method of this provider");
//!
//! method.fields[0].check("sk-example")?;
//! let injection = method.render(provider, &|name| (name == "api_key").then_some("sk-example"), &|_| None)?;
//! assert_eq!(injection.headers[0].1.as_str(), "Bearer sk-example");
//!
//! let test = method.test.as_ref().expect("a test of this method");
//! assert_eq!(test.judge(200, br#"{"data": []}"#).class, TestClass::Good);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod catalog;
mod compile;
mod definition;
mod field;
mod findings;
mod https_url;
mod injection;
pub mod oauth2;
mod provider;
mod schema;
mod shape;
mod template;
mod test;
mod tree;

pub use catalog::{Catalog, LintReport, LoadError, lint};
pub use field::{Field, FieldProblem, Format, Pattern};
pub use findings::Finding;
pub use https_url::check_https_url;
pub use injection::{Basic, Http, Injection, Lookup, RenderError, UsernamePassword};
pub use provider::{Capability, FactsFrom, KnownScope, Method, Provider};
pub use schema::schema;
pub use template::Template;
pub use test::{HttpMethod, Test, TestOutcome, TestRequest, TestedAccount};
