//! A credential that passes the check of each field and still cannot go on a request.

use std::fs;

use keyholder_proto::v1;
use tonic::Code;

use crate::harness::{ACME, World, assert_refused, fields, openai, resolve_request};

/// Two fields in one URL: each may be 512 bytes, which percent-encoding can make three times as long, and the URL may
/// be 2,048.
const DEFINITION: &str = "\
id: two-part
name: Two parts
documentation_url: https://example.com/docs
facts_checked: 2026-11-22
auth_methods:
  - method: api_key
    title: Key
    fields:
      - name: api_key
        title: Key
        secret: true
      - name: part
        title: Part
    http:
      base_url: https://api.example.com/{credential.part}/{credential.api_key}
    no_test: It is not there.
";

fn world() -> World {
    World::start_with(|_, dir| {
        fs::create_dir(dir.join("providers")).unwrap();
        fs::write(dir.join("providers/two-part.yaml"), DEFINITION).unwrap();
        "[catalog]\ndirectory = \"providers\"\n".to_owned()
    })
}

fn create(part: &str, api_key: &str) -> v1::CreateConnectionRequest {
    let credentials = [("part", part), ("api_key", api_key)];
    v1::CreateConnectionRequest {
        provider_id: "two-part".into(),
        credentials: credentials.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..openai("user:ada", "")
    }
}

#[tokio::test]
async fn a_credential_that_cannot_go_on_a_request_is_refused_where_it_enters() {
    let world = world();
    let mut connections = world.connections();
    let long = "%".repeat(512);

    let refused = connections.create_connection(create(&long, &long)).await;
    let refused = assert_refused(refused, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(fields(&refused), ["credentials"]);
    assert!(!format!("{refused:?}").contains("%%%"), "the value is in the refusal");
    assert_eq!(world.sql("SELECT count(*) FROM connections"), "0");

    // Each of them is good by itself.
    connections.create_connection(create(&long, "key-1")).await.unwrap();
    let made = connections.create_connection(create("part", &long)).await.unwrap().into_inner();
    let made = made.connection.unwrap();
    let replace = v1::ReplaceCredentialsRequest {
        organization_id: ACME.into(),
        connection_id: made.connection_id.clone(),
        credentials: create(&long, &long).credentials,
        ..Default::default()
    };
    let refused = connections.replace_credentials(replace).await;
    let refused = assert_refused(refused, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(fields(&refused), ["credentials"]);

    let request = resolve_request("user:ada", &made.connection_id);
    let released = world.grants("gateway").resolve_credential(request).await.unwrap().into_inner();
    let url = format!("https://api.example.com/part/{}", "%25".repeat(512));
    assert_eq!((released.generation, released.http.unwrap().base_url), (1, url));
}
