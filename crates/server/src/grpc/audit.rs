use keyholder_proto::v1::audit_service_server::AuditService;
use keyholder_proto::v1::{ListAuditEventsRequest, ListAuditEventsResponse};
use tonic::{Request, Response, Status};

use super::{Admitted, Services, admit, as_caller};
use crate::convert;

#[tonic::async_trait]
impl AuditService for Services {
    async fn list_audit_events(
        &self,
        request: Request<ListAuditEventsRequest>,
    ) -> Result<Response<ListAuditEventsResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let (filter, tokens, page) = convert::audit_filter(message).map_err(|problem| call.fail(problem))?;
        let found = as_caller!(call, organization_id, None, |caller| {
            self.broker.list_audit_events(&caller, &filter).await
        });
        let found = found.map_err(|error| call.broke(error))?;
        let (found, next_page_token) = tokens.next(found, page.size, |last| last.id.to_string());
        let audit_events = found.into_iter().map(convert::audit_event).collect();
        Ok(Response::new(ListAuditEventsResponse { audit_events, next_page_token }))
    }
}
