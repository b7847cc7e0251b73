use keyholder_proto::v1;
use prost_types::Timestamp;

use super::{Fixture, Row, values};
use crate::harness::ACME;

const RPC: &str = "AuditService/ListAuditEvents";

fn list() -> v1::ListAuditEventsRequest {
    v1::ListAuditEventsRequest { organization_id: ACME.into(), ..Default::default() }
}

pub(super) fn rows(fixture: &Fixture) -> Vec<Row> {
    type Request = v1::ListAuditEventsRequest;
    let mut rows = Vec::new();
    let mut add = |field, request: &Request| rows.push(Row::invalid(RPC, field, request));
    for organization_id in values::organizations() {
        add("organization_id", &Request { organization_id, ..list() });
    }
    for connection_id in values::connection_ids() {
        add("connection_id", &Request { connection_id, ..list() });
    }
    for grant_id in values::grant_ids() {
        add("grant_id", &Request { grant_id, ..list() });
    }
    for actor in values::principals() {
        add("actor", &Request { actor, ..list() });
    }
    for workload in [values::workloads(), vec!["spiffe://test.example/*".into()]].concat() {
        add("workload", &Request { workload, ..list() });
    }
    for kind in [0, 99, -1, i32::MAX] {
        add("kinds", &Request { kinds: vec![1, kind], ..list() });
    }
    for moment in values::moments() {
        add("start_time", &Request { start_time: Some(moment), ..list() });
        add("end_time", &Request { end_time: Some(moment), ..list() });
    }
    let moment = |seconds| Some(Timestamp { seconds, nanos: 0 });
    for (start_time, end_time) in [(moment(100), moment(100)), (moment(100), moment(99))] {
        add("end_time", &Request { start_time, end_time, ..list() });
    }
    for page_size in values::PAGE_SIZES {
        add("page_size", &Request { page_size, ..list() });
    }
    let [connections, grants, events, providers, access] = &fixture.pages;
    for page_token in
        [values::tokens(), [connections, grants, providers, access].map(Clone::clone).into()].concat()
    {
        add("page_token", &Request { page_token, ..list() });
    }
    add("page_token", &Request { page_token: events.clone(), actor: "user:ada".into(), ..list() });
    add("page_token", &Request { page_token: fixture.other_pages[2].clone(), ..list() });
    rows
}
