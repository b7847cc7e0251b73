use keyholder_catalog::Provider;
use keyholder_domain::{ProviderId, Reason};
use keyholder_proto::v1;
use keyholder_proto::v1::provider_service_server::ProviderService;
use keyholder_proto::v1::{
    GetProviderRequest, GetProviderResponse, ListProvidersRequest, ListProvidersResponse,
};
use tonic::{Request, Response, Status};

use super::Services;
use crate::call::Call;
use crate::convert::{PageToken, Reader, provider};
use crate::problem::Problem;

#[tonic::async_trait]
impl ProviderService for Services {
    async fn list_providers(
        &self,
        request: Request<ListProvidersRequest>,
    ) -> Result<Response<ListProvidersResponse>, Status> {
        let call = Call::of(request.extensions())?;
        let request = request.into_inner();
        let tokens = PageToken::of("ListProviders", &ListProvidersRequest::default());
        let mut reader = Reader::new();
        let page = tokens
            .read(&mut reader, request.page_size, &request.page_token, |text| ProviderId::parse(text).ok());
        reader.finish(Some(())).map_err(|problem| call.fail(problem))?;
        let behind = |id: &ProviderId| page.after.as_ref().is_none_or(|after| id > after);
        let limit = usize::try_from(page.size + 1).unwrap_or_default();
        let found: Vec<_> =
            self.broker.catalog().iter().filter(|provider| behind(&provider.id)).take(limit).collect();
        let (found, next_page_token) = tokens.next(found, page.size, |last| last.id.to_string());
        Ok(Response::new(ListProvidersResponse {
            providers: found.into_iter().map(|found| self.provider(found)).collect(),
            next_page_token,
        }))
    }

    async fn get_provider(
        &self,
        request: Request<GetProviderRequest>,
    ) -> Result<Response<GetProviderResponse>, Status> {
        let call = Call::of(request.extensions())?;
        let mut reader = Reader::new();
        let id = reader.required("provider_id", &request.get_ref().provider_id, ProviderId::parse);
        let id = reader.finish(id).map_err(|problem| call.fail(problem))?;
        self.note_provider(&call, &id);
        match self.broker.catalog().get(&id) {
            Some(found) => Ok(Response::new(GetProviderResponse { provider: Some(self.provider(found)) })),
            None => Err(call.fail(Problem::new(Reason::ProviderNotFound))),
        }
    }
}

impl Services {
    fn provider(&self, found: &Provider) -> v1::Provider {
        provider(found, |method| self.broker.is_available(found, method))
    }
}
