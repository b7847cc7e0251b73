use keyholder_proto::v1;
use tonic::Code;

use super::{Fixture, Row, values};

pub(super) fn rows(fixture: &Fixture) -> Vec<Row> {
    let mut rows = Vec::new();
    let rpc = "ProviderService/GetProvider";
    for provider_id in [vec![String::new()], values::providers()].concat() {
        rows.push(Row::invalid(rpc, "provider_id", &v1::GetProviderRequest { provider_id }));
    }
    let unknown = v1::GetProviderRequest { provider_id: "nowhere".into() };
    rows.push(Row::refused(rpc, "provider_id", &unknown, (Code::NotFound, "PROVIDER_NOT_FOUND")));

    let rpc = "ProviderService/ListProviders";
    for page_size in values::PAGE_SIZES {
        let list = v1::ListProvidersRequest { page_size, ..Default::default() };
        rows.push(Row::invalid(rpc, "page_size", &list));
    }
    for page_token in [values::tokens(), fixture.pages[..3].to_vec(), fixture.pages[4..].to_vec()].concat() {
        let list = v1::ListProvidersRequest { page_token, ..Default::default() };
        rows.push(Row::invalid(rpc, "page_token", &list));
    }
    rows
}
