//! Authorizations: the part of the connection service that asks owners for consent.

use keyholder_domain::{Authorization, AuthorizationId};
use keyholder_proto::v1;
use tonic::{Request, Response, Status};

use super::{Admitted, Services, admit, as_caller, note_request};
use crate::call::{Call, note};
use crate::convert::{self, Reader};

fn read_id(call: &Call, id: &str) -> Result<AuthorizationId, Status> {
    let mut reader = Reader::new();
    let id = reader.required("authorization_id", id, AuthorizationId::parse);
    reader.finish(id).map_err(|problem| call.fail(problem))
}

fn note_authorization(call: &Call, authorization: &Authorization) {
    note(&call.facts().provider_id, &authorization.provider_id);
    if let Some(id) = authorization.connection_id {
        note(&call.facts().connection_id, &id);
    }
}

impl Services {
    pub(super) async fn start(
        &self,
        request: Request<v1::StartAuthorizationRequest>,
    ) -> Result<Response<v1::StartAuthorizationResponse>, Status> {
        use keyholder_vault::ExposeSecret as _;

        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let start = convert::start_authorization(message).map_err(|problem| call.fail(problem))?;
        note_request(&call, start.idempotency.as_ref());
        if let Some(id) = &start.provider_id {
            self.note_provider(&call, id);
        }
        let started = as_caller!(call, organization_id, None, |caller| {
            self.broker.start_authorization(&caller, start).await
        });
        let started = started.map_err(|error| call.broke(error))?;
        note_authorization(&call, &started.authorization);
        let url = started.authorization_url.map(|url| url.expose_secret().to_owned());
        Ok(Response::new(v1::StartAuthorizationResponse {
            authorization: Some(convert::authorization(started.authorization)),
            authorization_url: url.unwrap_or_default(),
        }))
    }

    pub(super) async fn get(
        &self,
        request: Request<v1::GetAuthorizationRequest>,
    ) -> Result<Response<v1::GetAuthorizationResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let id = read_id(&call, &message.authorization_id)?;
        let found = as_caller!(call, organization_id, None, |caller| {
            self.broker.get_authorization(&caller, id).await
        });
        let found = found.map_err(|error| call.broke(error))?;
        note_authorization(&call, &found);
        Ok(Response::new(v1::GetAuthorizationResponse { authorization: Some(convert::authorization(found)) }))
    }

    pub(super) async fn complete(
        &self,
        request: Request<v1::CompleteAuthorizationRequest>,
    ) -> Result<Response<v1::CompleteAuthorizationResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let id = read_id(&call, &message.authorization_id)?;
        let completion = convert::completion(message);
        let completed = as_caller!(call, organization_id, None, |caller| {
            self.broker.complete_authorization(&caller, id, completion).await
        });
        let completed = completed.map_err(|error| call.broke(error))?;
        note_authorization(&call, &completed);
        Ok(Response::new(v1::CompleteAuthorizationResponse {
            authorization: Some(convert::authorization(completed)),
        }))
    }
}
