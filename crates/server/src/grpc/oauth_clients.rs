use keyholder_domain::ProviderId;
use keyholder_proto::v1;
use keyholder_proto::v1::o_auth_client_service_server::OAuthClientService;
use tonic::{Request, Response, Status};

use super::{Admitted, Services, admit, as_caller};
use crate::convert::{self, Reader};

#[tonic::async_trait]
impl OAuthClientService for Services {
    async fn set_o_auth_client(
        &self,
        request: Request<v1::SetOAuthClientRequest>,
    ) -> Result<Response<v1::SetOAuthClientResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let set = convert::set_oauth_client(message).map_err(|problem| call.fail(problem))?;
        self.note_provider(&call, &set.provider_id);
        let set = as_caller!(call, organization_id, None, |caller| {
            self.broker.set_oauth_client(&caller, set).await
        });
        let client = set.map_err(|error| call.broke(error))?;
        Ok(Response::new(v1::SetOAuthClientResponse { oauth_client: Some(convert::oauth_client(client)) }))
    }

    async fn list_o_auth_clients(
        &self,
        request: Request<v1::ListOAuthClientsRequest>,
    ) -> Result<Response<v1::ListOAuthClientsResponse>, Status> {
        let Admitted { call, organization_id, .. } = admit(request, |request| &request.organization_id)?;
        let found = as_caller!(call, organization_id, None, |caller| {
            self.broker.list_oauth_clients(&caller).await
        });
        let found = found.map_err(|error| call.broke(error))?;
        let oauth_clients = found.into_iter().map(convert::oauth_client).collect();
        Ok(Response::new(v1::ListOAuthClientsResponse { oauth_clients }))
    }

    async fn delete_o_auth_client(
        &self,
        request: Request<v1::DeleteOAuthClientRequest>,
    ) -> Result<Response<v1::DeleteOAuthClientResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let mut reader = Reader::new();
        let id = reader.required("provider_id", &message.provider_id, ProviderId::parse);
        let id = reader.finish(id).map_err(|problem| call.fail(problem))?;
        self.note_provider(&call, &id);
        let deleted = as_caller!(call, organization_id, None, |caller| {
            self.broker.delete_oauth_client(&caller, &id).await
        });
        deleted.map_err(|error| call.broke(error))?;
        Ok(Response::new(v1::DeleteOAuthClientResponse {}))
    }
}
