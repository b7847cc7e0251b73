use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use keyholder_broker::{BrokerError, Watched};
use keyholder_domain::{Connection, ConnectionId, Generation, OrganizationId, RevocationRunId, Text};
use keyholder_proto::v1;
use keyholder_proto::v1::connection_service_server::ConnectionService;
use tonic::{Request, Response, Status};

use super::{Admitted, Services, admit, admit_inside, as_caller, note_connection, note_request};
use crate::call::{Call, note};
use crate::convert::{self, Reader, etag};

/// Which connection a request is about, and at which version.
struct Named {
    id: ConnectionId,
    expected: Option<Generation>,
}

impl Named {
    fn read(call: &Call, mut reader: Reader, inside: &str, id: &str, expected: &str) -> Result<Self, Status> {
        let id = reader.required(&format!("{inside}connection_id"), id, ConnectionId::parse);
        let expected = etag(&mut reader, &format!("{inside}etag"), expected);
        let named =
            reader.finish(id.map(|id| Self { id, expected })).map_err(|problem| call.fail(problem))?;
        note(&call.facts().connection_id, &named.id);
        Ok(named)
    }
}

/// Where the fields of an update are.
const INSIDE: &str = "connection.";

/// The answer of a call that changed a connection, or why it did not.
fn answer(call: &Call, result: Result<Connection, BrokerError>) -> Result<Option<v1::Connection>, Status> {
    let connection = result.map_err(|error| call.broke(error))?;
    note_connection(call, &connection);
    Ok(Some(convert::connection(connection)))
}

impl Services {
    /// Connections on the wire, with how they stand with the refresher.
    async fn with_statuses(
        &self,
        call: &Call,
        organization_id: &OrganizationId,
        connections: Vec<Connection>,
    ) -> Result<Vec<v1::Connection>, Status> {
        let statuses = as_caller!(call, *organization_id, None, |caller| {
            self.broker.refresh_statuses(&caller, &connections).await
        });
        let mut statuses = statuses.map_err(|error| call.broke(error))?;
        let connections = connections.into_iter().map(|connection| {
            let status = statuses.remove(&connection.id);
            convert::connection_with(connection, status)
        });
        Ok(connections.collect())
    }
}

#[tonic::async_trait]
impl ConnectionService for Services {
    async fn create_connection(
        &self,
        request: Request<v1::CreateConnectionRequest>,
    ) -> Result<Response<v1::CreateConnectionResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let create = convert::create_connection(message).map_err(|problem| call.fail(problem))?;
        self.note_provider(&call, &create.provider_id);
        note_request(&call, create.idempotency.as_ref());
        let made = as_caller!(call, organization_id, None, |caller| {
            self.broker.create_connection(&caller, create).await
        });
        Ok(Response::new(v1::CreateConnectionResponse { connection: answer(&call, made)? }))
    }

    async fn start_authorization(
        &self,
        request: Request<v1::StartAuthorizationRequest>,
    ) -> Result<Response<v1::StartAuthorizationResponse>, Status> {
        self.start(request).await
    }

    async fn get_authorization(
        &self,
        request: Request<v1::GetAuthorizationRequest>,
    ) -> Result<Response<v1::GetAuthorizationResponse>, Status> {
        self.get(request).await
    }

    async fn complete_authorization(
        &self,
        request: Request<v1::CompleteAuthorizationRequest>,
    ) -> Result<Response<v1::CompleteAuthorizationResponse>, Status> {
        self.complete(request).await
    }

    async fn get_connection(
        &self,
        request: Request<v1::GetConnectionRequest>,
    ) -> Result<Response<v1::GetConnectionResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let named = Named::read(&call, Reader::new(), "", &message.connection_id, "")?;
        let found = as_caller!(call, organization_id, None, |caller| {
            self.broker.get_connection(&caller, named.id).await
        });
        let connection = found.map_err(|error| call.broke(error))?;
        note_connection(&call, &connection);
        let connections = self.with_statuses(&call, &organization_id, vec![connection]).await?;
        Ok(Response::new(v1::GetConnectionResponse { connection: connections.into_iter().next() }))
    }

    async fn list_connections(
        &self,
        request: Request<v1::ListConnectionsRequest>,
    ) -> Result<Response<v1::ListConnectionsResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let (filter, tokens, page) =
            convert::connection_filter(message).map_err(|problem| call.fail(problem))?;
        let found = as_caller!(call, organization_id, None, |caller| {
            self.broker.list_connections(&caller, &filter).await
        });
        let found = found.map_err(|error| call.broke(error))?;
        let (found, next_page_token) = tokens.next(found, page.size, |last| last.id.to_string());
        let connections = self.with_statuses(&call, &organization_id, found).await?;
        Ok(Response::new(v1::ListConnectionsResponse { connections, next_page_token }))
    }

    async fn update_connection(
        &self,
        request: Request<v1::UpdateConnectionRequest>,
    ) -> Result<Response<v1::UpdateConnectionResponse>, Status> {
        let request = request.map(|update| (update.connection.unwrap_or_default(), update.update_mask));
        let Admitted { call, organization_id, message: (connection, mask) } =
            admit_inside(INSIDE, request, |(connection, _)| &connection.organization_id)?;
        let mut reader = Reader::new();
        let update = convert::connection_update(&mut reader, &connection, mask.as_ref());
        let id = &connection.connection_id;
        let named = Named::read(&call, reader, INSIDE, id, &connection.etag)?;
        let updated = as_caller!(call, organization_id, None, |caller| {
            self.broker.update_connection(&caller, named.id, named.expected, update).await
        });
        let updated = updated.map_err(|error| error.inside(INSIDE));
        Ok(Response::new(v1::UpdateConnectionResponse { connection: answer(&call, updated)? }))
    }

    async fn replace_credentials(
        &self,
        request: Request<v1::ReplaceCredentialsRequest>,
    ) -> Result<Response<v1::ReplaceCredentialsResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let named = Named::read(&call, Reader::new(), "", &message.connection_id, &message.etag)?;
        let credentials = convert::secrets(message.credentials);
        let config = (!message.config.is_empty()).then_some(message.config);
        let replaced = as_caller!(call, organization_id, None, |caller| {
            self.broker.replace_credentials(&caller, named.id, named.expected, credentials, config).await
        });
        Ok(Response::new(v1::ReplaceCredentialsResponse { connection: answer(&call, replaced)? }))
    }

    async fn disable_connection(
        &self,
        request: Request<v1::DisableConnectionRequest>,
    ) -> Result<Response<v1::DisableConnectionResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let mut reader = Reader::new();
        let reason = reader.checked("reason", Text::parse(&message.reason)).unwrap_or_default();
        let named = Named::read(&call, reader, "", &message.connection_id, &message.etag)?;
        let disabled = as_caller!(call, organization_id, None, |caller| {
            self.broker.disable_connection(&caller, named.id, named.expected, reason).await
        });
        Ok(Response::new(v1::DisableConnectionResponse { connection: answer(&call, disabled)? }))
    }

    async fn enable_connection(
        &self,
        request: Request<v1::EnableConnectionRequest>,
    ) -> Result<Response<v1::EnableConnectionResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let named = Named::read(&call, Reader::new(), "", &message.connection_id, &message.etag)?;
        let enabled = as_caller!(call, organization_id, None, |caller| {
            self.broker.enable_connection(&caller, named.id, named.expected).await
        });
        Ok(Response::new(v1::EnableConnectionResponse { connection: answer(&call, enabled)? }))
    }

    async fn delete_connection(
        &self,
        request: Request<v1::DeleteConnectionRequest>,
    ) -> Result<Response<v1::DeleteConnectionResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let named = Named::read(&call, Reader::new(), "", &message.connection_id, &message.etag)?;
        let deleted = as_caller!(call, organization_id, None, |caller| {
            self.broker.delete_connection(&caller, named.id, named.expected).await
        });
        Ok(Response::new(v1::DeleteConnectionResponse { connection: answer(&call, deleted)? }))
    }

    async fn revoke_all(
        &self,
        request: Request<v1::RevokeAllRequest>,
    ) -> Result<Response<v1::RevokeAllResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let revoke = convert::revoke_all(message).map_err(|problem| call.fail(problem))?;
        note_request(&call, revoke.idempotency.as_ref());
        let run = as_caller!(call, organization_id, None, |caller| {
            self.broker.revoke_all(&caller, revoke).await
        });
        let run = convert::revocation_run(run.map_err(|error| call.broke(error))?);
        Ok(Response::new(v1::RevokeAllResponse { revocation_run: Some(run) }))
    }

    async fn get_revocation_run(
        &self,
        request: Request<v1::GetRevocationRunRequest>,
    ) -> Result<Response<v1::GetRevocationRunResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let mut reader = Reader::new();
        let id = reader.required("revocation_run_id", &message.revocation_run_id, RevocationRunId::parse);
        let id = reader.finish(id).map_err(|problem| call.fail(problem))?;
        let run = as_caller!(call, organization_id, None, |caller| {
            self.broker.get_revocation_run(&caller, id).await
        });
        let run = convert::revocation_run(run.map_err(|error| call.broke(error))?);
        Ok(Response::new(v1::GetRevocationRunResponse { revocation_run: Some(run) }))
    }

    async fn test_connection(
        &self,
        request: Request<v1::TestConnectionRequest>,
    ) -> Result<Response<v1::TestConnectionResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let named = Named::read(&call, Reader::new(), "", &message.connection_id, "")?;
        let tested = as_caller!(call, organization_id, None, |caller| {
            self.broker.test_connection(&caller, named.id).await
        });
        Ok(Response::new(v1::TestConnectionResponse { connection: answer(&call, tested)? }))
    }

    async fn refresh_connection(
        &self,
        request: Request<v1::RefreshConnectionRequest>,
    ) -> Result<Response<v1::RefreshConnectionResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let named = Named::read(&call, Reader::new(), "", &message.connection_id, "")?;
        let wait = call.patience();
        let refreshed = as_caller!(call, organization_id, None, |caller| {
            self.broker.refresh_connection(&caller, named.id, wait).await
        });
        let connection = refreshed.map_err(|error| call.broke(error))?;
        note_connection(&call, &connection);
        let connections = self.with_statuses(&call, &organization_id, vec![connection]).await?;
        Ok(Response::new(v1::RefreshConnectionResponse { connection: connections.into_iter().next() }))
    }

    type WatchConnectionsStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchConnectionsResponse, Status>> + Send>>;

    async fn watch_connections(
        &self,
        request: Request<v1::WatchConnectionsRequest>,
    ) -> Result<Response<Self::WatchConnectionsStream>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let (filter, place) =
            convert::change_filter(&message, &organization_id).map_err(|problem| call.fail(problem))?;
        let watch = as_caller!(call, organization_id, None, |caller| {
            self.broker.watch_connections(&caller, filter, place).await
        });
        let watch = watch.map_err(|error| call.broke(error))?;
        let mut draining = self.draining.clone();
        let certificate = call.peer().not_after() - self.broker.now();
        let certificate = Duration::try_from(certificate).unwrap_or_default();
        let messages = watch.map(move |watched| match watched {
            Ok(watched) => Ok(watch_response(&organization_id, watched)),
            Err(error) => Err(call.broke(error)),
        });
        let end = async move {
            tokio::select! {
                // An error means that the server is gone, which is the end of the stream too.
                _ = draining.wait_for(|draining| *draining) => {}
                // A stream must not outlive the certificate that it was opened with.
                () = tokio::time::sleep(certificate) => {}
            }
        };
        Ok(Response::new(Box::pin(messages.take_until(Box::pin(end)))))
    }
}

fn watch_response(organization_id: &OrganizationId, watched: Watched) -> v1::WatchConnectionsResponse {
    v1::WatchConnectionsResponse {
        connection: watched.connection.map(convert::connection),
        resume_token: convert::resume_token(organization_id, watched.place),
    }
}
