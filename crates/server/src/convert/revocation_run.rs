use keyholder_broker::{RevocationCounts, RevocationRun, RevokeAll};
use keyholder_domain::{ProviderId, WorkloadId};
use keyholder_proto::v1;

use super::reader::{Reader, idempotency};
use super::timestamp;
use crate::problem::Problem;

/// A run on the wire.
pub fn revocation_run((run, counts): (RevocationRun, RevocationCounts)) -> v1::RevocationRun {
    v1::RevocationRun {
        revocation_run_id: run.id.to_string(),
        organization_id: run.organization_id.to_string(),
        provider_id: run.provider_id.map(|id| id.to_string()).unwrap_or_default(),
        workload: run.workload.map(|workload| workload.to_string()).unwrap_or_default(),
        deleted: run.deleted,
        pending: counts.pending,
        revoked: counts.revoked,
        unsupported: counts.unsupported,
        failed: counts.failed,
        create_time: Some(timestamp(run.create_time)),
        done_time: run.done_time.map(timestamp),
    }
}

/// Reads a request to revoke many connections.
pub fn revoke_all(mut request: v1::RevokeAllRequest) -> Result<RevokeAll, Problem> {
    let mut reader = Reader::new();
    let request_id = std::mem::take(&mut request.request_id);
    let idempotency = idempotency(&mut reader, &request_id, &request);
    let provider_id = reader.optional("provider_id", &request.provider_id, ProviderId::parse);
    let workload = reader.optional("workload", &request.workload, WorkloadId::parse);
    reader.finish(Some(RevokeAll { provider_id, workload, idempotency }))
}
