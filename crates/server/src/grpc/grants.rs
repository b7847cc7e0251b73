use keyholder_broker::{Ask, Caller, Target};
use keyholder_catalog::Provider;
use keyholder_domain::{GrantId, GrantTarget, OrganizationId, Principal, ProviderId, Reason, WorkloadId};
use keyholder_proto::v1;
use keyholder_proto::v1::grant_service_server::GrantService;
use tonic::{Request, Response, Status};

use super::{Admitted, Services, admit, as_caller, note_request};
use crate::call::{Call, may_use, note};
use crate::convert::{self, AskFields, Reader, etag};
use crate::problem::Problem;

#[tonic::async_trait]
impl GrantService for Services {
    async fn create_grant(
        &self,
        request: Request<v1::CreateGrantRequest>,
    ) -> Result<Response<v1::CreateGrantResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let create = convert::create_grant(message).map_err(|problem| call.fail(problem))?;
        note_request(&call, create.idempotency.as_ref());
        match &create.target {
            GrantTarget::Connection(id) => note(&call.facts().connection_id, id),
            GrantTarget::Selector { provider_id, .. } => self.note_provider(&call, provider_id),
        }
        let made =
            as_caller!(call, organization_id, None, |caller| self.broker.create_grant(&caller, create).await);
        let grant = made.map_err(|error| call.broke(error))?;
        note(&call.facts().grant_id, &grant.id);
        Ok(Response::new(v1::CreateGrantResponse { grant: Some(convert::grant(grant, self.broker.now())) }))
    }

    async fn get_grant(
        &self,
        request: Request<v1::GetGrantRequest>,
    ) -> Result<Response<v1::GetGrantResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let id = read_id(&call, Reader::new(), &message.grant_id)?;
        let found =
            as_caller!(call, organization_id, None, |caller| self.broker.get_grant(&caller, id).await);
        let grant = found.map_err(|error| call.broke(error))?;
        Ok(Response::new(v1::GetGrantResponse { grant: Some(convert::grant(grant, self.broker.now())) }))
    }

    async fn list_grants(
        &self,
        request: Request<v1::ListGrantsRequest>,
    ) -> Result<Response<v1::ListGrantsResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let now = self.broker.now();
        let (filter, tokens, page) =
            convert::grant_filter(message, now).map_err(|problem| call.fail(problem))?;
        let found =
            as_caller!(call, organization_id, None, |caller| self.broker.list_grants(&caller, &filter).await);
        let found = found.map_err(|error| call.broke(error))?;
        let (found, next_page_token) = tokens.next(found, page.size, |last| last.id.to_string());
        let grants = found.into_iter().map(|grant| convert::grant(grant, now)).collect();
        Ok(Response::new(v1::ListGrantsResponse { grants, next_page_token }))
    }

    async fn revoke_grant(
        &self,
        request: Request<v1::RevokeGrantRequest>,
    ) -> Result<Response<v1::RevokeGrantResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let mut reader = Reader::new();
        let expected = etag(&mut reader, "etag", &message.etag);
        let id = read_id(&call, reader, &message.grant_id)?;
        let revoked = as_caller!(call, organization_id, None, |caller| self
            .broker
            .revoke_grant(&caller, id, expected)
            .await);
        let grant = revoked.map_err(|error| call.broke(error))?;
        Ok(Response::new(v1::RevokeGrantResponse { grant: Some(convert::grant(grant, self.broker.now())) }))
    }

    async fn check_access(
        &self,
        request: Request<v1::CheckAccessRequest>,
    ) -> Result<Response<v1::CheckAccessResponse>, Status> {
        use v1::check_access_request::Target;

        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let mut reader = Reader::new();
        let (connection_id, provider) = match &message.target {
            Some(Target::ConnectionId(id)) => (Some(id.as_str()), None),
            Some(Target::Provider(target)) => (None, Some(target)),
            None => (None, None),
        };
        let fields = AskFields {
            actor: &message.actor,
            connection_id,
            provider,
            scopes: &message.scopes,
            min_ttl: None,
            purpose: "",
        };
        let ask = convert::ask(&mut reader, &fields);
        let workload = reader.optional("workload", &message.workload, WorkloadId::parse);
        let ask = reader.finish(ask).map_err(|problem| call.fail(problem))?;
        self.note_ask(&call, &ask);
        let manages = call.is_manager().map_err(|problem| call.fail(problem))?;
        if !manages {
            call.check_actor(&ask.actor).map_err(|problem| call.fail(problem))?;
            if workload.as_ref().is_some_and(|named| named != call.peer().workload()) {
                return Err(call.fail(Problem::new(Reason::RoleMissing)));
            }
        }
        let judged = workload.as_ref().unwrap_or(call.peer().workload());
        let actor = (!manages).then_some(&ask.actor);
        let access = if judged == call.peer().workload() {
            as_caller!(call, organization_id, actor, |caller| self
                .broker
                .check_access(&caller, &ask, judged)
                .await)
        } else {
            let resolver = match call.resolver(judged, &organization_id, &ask.actor) {
                Ok(resolver) => resolver,
                Err(reason) => return Ok(Response::new(convert::no_access(reason))),
            };
            let may_use = |provider: &Provider| {
                call.may_use(actor, provider) && may_use(resolver, Some(&ask.actor), provider)
            };
            let caller = Caller {
                workload: call.peer().workload(),
                organization_id: &organization_id,
                may_use: &may_use,
            };
            self.broker.check_access(&caller, &ask, judged).await
        };
        let access = access.map_err(|error| call.broke(error))?;
        Ok(Response::new(convert::check_access_response(access)))
    }

    async fn list_access(
        &self,
        request: Request<v1::ListAccessRequest>,
    ) -> Result<Response<v1::ListAccessResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let (actor, workload, tokens, page) =
            convert::list_access(message).map_err(|problem| call.fail(problem))?;
        note(&call.facts().actor, &actor);
        let manages = call.is_manager().map_err(|problem| call.fail(problem))?;
        if !manages {
            call.check_actor(&actor).map_err(|problem| call.fail(problem))?;
            if workload.as_ref().is_some_and(|named| named != call.peer().workload()) {
                return Err(call.fail(Problem::new(Reason::RoleMissing)));
            }
        }
        let as_whom = (!manages).then_some(&actor);
        let judged = workload.as_ref().unwrap_or(call.peer().workload());
        let listed = if judged == call.peer().workload() {
            as_caller!(call, organization_id, as_whom, |caller| {
                self.broker.list_access(&caller, &actor, judged, page.after, page.size).await
            })
        } else {
            // What may not be resolved through it at all is nothing that can be used through it.
            let Ok(resolver) = call.resolver(judged, &organization_id, &actor) else {
                return Ok(Response::new(v1::ListAccessResponse::default()));
            };
            let may_use = |provider: &Provider| {
                call.may_use(as_whom, provider) && may_use(resolver, Some(&actor), provider)
            };
            let caller = Caller {
                workload: call.peer().workload(),
                organization_id: &organization_id,
                may_use: &may_use,
            };
            self.broker.list_access(&caller, &actor, judged, page.after, page.size).await
        };
        let (usable, more) = listed.map_err(|error| call.broke(error))?;
        let next_page_token = more.map(|last| tokens.encode(&last.to_string())).unwrap_or_default();
        let connections = usable.into_iter().map(convert::accessible).collect();
        Ok(Response::new(v1::ListAccessResponse { connections, next_page_token }))
    }

    async fn resolve_credential(
        &self,
        request: Request<v1::ResolveCredentialRequest>,
    ) -> Result<Response<v1::ResolveCredentialResponse>, Status> {
        let call = Call::whatever_its_role(request.extensions())?;
        let message = request.into_inner();
        let read =
            if call.has_role() { read_resolve(&message) } else { Err(Problem::new(Reason::RoleMissing)) };
        let (organization_id, mut ask) = match read {
            Ok(read) => read,
            // In boxes, here and below, so that a refusal does not make the future of all calls large.
            Err(problem) => return Err(Box::pin(self.refuse_unread(&call, &message, problem)).await),
        };
        ask.wait = call.patience();
        self.note_ask(&call, &ask);
        let allowed = call.check_organization(&organization_id).and_then(|()| call.check_actor(&ask.actor));
        if let Err(problem) = allowed {
            let provider_id = provider_of(&ask);
            let denied = call.deny(&self.broker, &organization_id, Some(&ask.actor), provider_id, problem);
            return Err(Box::pin(denied).await);
        }
        let released = as_caller!(call, organization_id, Some(&ask.actor), |caller| {
            self.broker.resolve(&self.lane, &caller, &ask).await
        });
        let released = released.map_err(|error| call.broke(error))?;
        note(&call.facts().connection_id, &released.connection_id);
        note(&call.facts().provider_id, &released.provider_id);
        if let Some(id) = released.grant_id {
            note(&call.facts().grant_id, &id);
        }
        self.metrics.released();
        Ok(Response::new(convert::resolve_response(released)))
    }

    async fn report_rejected(
        &self,
        request: Request<v1::ReportRejectedRequest>,
    ) -> Result<Response<v1::ReportRejectedResponse>, Status> {
        let Admitted { call, organization_id, message } = admit(request, |request| &request.organization_id)?;
        let rejected = convert::rejected(&message, call.patience()).map_err(|problem| call.fail(problem))?;
        note(&call.facts().actor, &rejected.actor);
        note(&call.facts().connection_id, &rejected.connection_id);
        call.check_actor(&rejected.actor).map_err(|problem| call.fail(problem))?;
        let reported = as_caller!(call, organization_id, Some(&rejected.actor), |caller| {
            self.broker.report_rejected(&caller, &rejected).await
        });
        let (connection, outcome) = reported.map_err(|error| call.broke(error))?;
        Ok(Response::new(v1::ReportRejectedResponse {
            outcome: convert::rejection_outcome(outcome).into(),
            generation: connection.generation.get(),
        }))
    }
}

fn read_id(call: &Call, mut reader: Reader, id: &str) -> Result<GrantId, Status> {
    let id = reader.required("grant_id", id, GrantId::parse);
    let id = reader.finish(id).map_err(|problem| call.fail(problem))?;
    note(&call.facts().grant_id, &id);
    Ok(id)
}

/// Reads a resolve as a whole before anything of it is judged: its refusal goes to the audit.
fn read_resolve(message: &v1::ResolveCredentialRequest) -> Result<(OrganizationId, Ask), Problem> {
    use v1::resolve_credential_request::Target;

    let mut reader = Reader::new();
    let organization_id = reader.required("organization_id", &message.organization_id, OrganizationId::parse);
    let (connection_id, provider) = match &message.target {
        Some(Target::ConnectionId(id)) => (Some(id.as_str()), None),
        Some(Target::Provider(target)) => (None, Some(target)),
        None => (None, None),
    };
    let fields = AskFields {
        actor: &message.actor,
        connection_id,
        provider,
        scopes: &message.scopes,
        min_ttl: message.min_ttl,
        purpose: &message.purpose,
    };
    let ask = convert::ask(&mut reader, &fields);
    reader.finish(organization_id.zip(ask))
}

impl Services {
    /// Refuses a resolve for its caller's role or its fields. It goes to the audit of the organization that it names,
    /// if the caller may act for that one: any other's is not the caller's to write in.
    async fn refuse_unread(
        &self,
        call: &Call,
        message: &v1::ResolveCredentialRequest,
        problem: Problem,
    ) -> Status {
        use v1::resolve_credential_request::Target;

        let Ok(organization_id) = OrganizationId::parse(&message.organization_id) else {
            return call.fail(problem);
        };
        if call.check_organization(&organization_id).is_err() {
            return call.fail(problem);
        }
        let actor = Principal::parse(&message.actor).ok();
        if let Some(actor) = &actor {
            note(&call.facts().actor, actor);
        }
        let provider_id = match &message.target {
            Some(Target::Provider(target)) => ProviderId::parse(&target.provider_id).ok(),
            Some(Target::ConnectionId(_)) | None => None,
        };
        call.deny(&self.broker, &organization_id, actor.as_ref(), provider_id.as_ref(), problem).await
    }

    fn note_ask(&self, call: &Call, ask: &Ask) {
        note(&call.facts().actor, &ask.actor);
        match &ask.target {
            Target::Connection(id) => note(&call.facts().connection_id, id),
            Target::Provider { provider_id, .. } => self.note_provider(call, provider_id),
        }
    }
}

fn provider_of(ask: &Ask) -> Option<&ProviderId> {
    match &ask.target {
        Target::Connection(_) => None,
        Target::Provider { provider_id, .. } => Some(provider_id),
    }
}
