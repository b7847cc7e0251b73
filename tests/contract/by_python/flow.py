"""The main job with generated stubs: connect, grant, resolve, revoke, refused."""

import grpc
from keyholder.v1 import audit_service_pb2, connection_service_pb2, grant_service_pb2

from support.case import Case
from support.client import SECONDS


class Flow(Case):
    organization = "by-python"

    def a_grant_releases_a_credential_until_it_is_revoked(self):
        client = self.client
        connection = client.connect("sk-flow", display_name="Ada's account", labels={"team": "a"})
        self.assertEqual(connection.state, connection_service_pb2.CONNECTION_STATE_ACTIVE)
        self.assertEqual(connection.credential_summary, {"api_key": "configured...[REDACTED]"})
        wanted = {"connection_id": connection.connection_id}
        request = client.resolve_request(**wanted)
        resolve = client.resolving.ResolveCredential
        self.assert_refused(resolve, request, grpc.StatusCode.PERMISSION_DENIED, "GRANT_MISSING")

        grant = client.grant(connection.connection_id)
        self.assertEqual(grant.created_by, "spiffe://keyholder.dev/console")
        released = client.resolve(**wanted)
        self.assertEqual(released.credential.api_key.api_key, "sk-flow")
        self.assertEqual(released.http.headers, {"Authorization": "Bearer sk-flow"})
        self.assertEqual(released.http.base_url, "https://api.openai.com/v1")
        self.assertEqual((released.grant_id, released.generation), (grant.grant_id, 1))

        revoke = grant_service_pb2.RevokeGrantRequest(
            organization_id=self.organization, grant_id=grant.grant_id
        )
        revoked = client.grants.RevokeGrant(revoke, timeout=SECONDS).grant
        self.assertEqual(revoked.state, grant_service_pb2.GRANT_STATE_REVOKED)
        self.assert_refused(resolve, request, grpc.StatusCode.PERMISSION_DENIED, "GRANT_REVOKED")

        listing = audit_service_pb2.ListAuditEventsRequest(
            organization_id=self.organization, connection_id=connection.connection_id
        )
        events = client.audit.ListAuditEvents(listing, timeout=SECONDS).audit_events
        kind = audit_service_pb2.AuditEventKind.Name
        self.assertEqual(
            [kind(event.kind).removeprefix("AUDIT_EVENT_KIND_") for event in events],
            [
                "CREDENTIAL_DENIED",
                "GRANT_REVOKED",
                "CREDENTIAL_RELEASED",
                "GRANT_CREATED",
                "CREDENTIAL_DENIED",
                "CONNECTION_CREATED",
            ],
        )
        self.assertEqual(events[2].audit_event_id, released.audit_event_id)

    def whether_access_would_be_allowed_is_answered_without_releasing(self):
        client = self.client
        connection = client.connect("sk-check")
        request = grant_service_pb2.CheckAccessRequest(
            organization_id=self.organization,
            actor="agent:roadie",
            connection_id=connection.connection_id,
            workload="spiffe://keyholder.dev/gateway",
        )
        before = client.grants.CheckAccess(request, timeout=SECONDS)
        self.assertEqual((before.allowed, before.reason), (False, "GRANT_MISSING"))
        grant = client.grant(connection.connection_id)
        after = client.grants.CheckAccess(request, timeout=SECONDS)
        self.assertEqual((after.allowed, after.grant_id), (True, grant.grant_id))

    def a_manager_cannot_resolve(self):
        request = self.client.resolve_request(connection_id="conn_" + "0" * 32)
        resolve = self.client.grants.ResolveCredential
        self.assert_refused(resolve, request, grpc.StatusCode.PERMISSION_DENIED, "ROLE_MISSING")
