"""The main job by hand: connect, grant, resolve, revoke, refused."""

import unittest

from support.grpcurl import attempt, call

ORGANIZATION = {"organization_id": "by-grpcurl"}


class Flow(unittest.TestCase):
    def a_grant_releases_a_credential_until_it_is_revoked(self):
        connection_id, grant_id = self._connect_and_grant("sk-flow")
        resolve = {**ORGANIZATION, "actor": "agent:roadie", "connection_id": connection_id}
        released = call("GrantService/ResolveCredential", resolve, "gateway")
        self.assertEqual(released["credential"]["apiKey"]["apiKey"], "sk-flow")
        self.assertEqual(released["http"]["headers"], {"Authorization": "Bearer sk-flow"})
        self.assertEqual(released["grantId"], grant_id)

        revoked = call("GrantService/RevokeGrant", {**ORGANIZATION, "grant_id": grant_id})
        self.assertEqual(revoked["grant"]["state"], "GRANT_STATE_REVOKED")
        refused = attempt("GrantService/ResolveCredential", resolve, "gateway")
        self.assertIn("Code: PermissionDenied", refused.err)
        self.assertIn("Message: The actor's grant was revoked.", refused.err)

        audit = call("AuditService/ListAuditEvents", {**ORGANIZATION, "connection_id": connection_id}, "auditor")
        kinds = [event["kind"].removeprefix("AUDIT_EVENT_KIND_") for event in audit["auditEvents"]]
        self.assertEqual(
            kinds,
            ["CREDENTIAL_DENIED", "GRANT_REVOKED", "CREDENTIAL_RELEASED", "GRANT_CREATED", "CONNECTION_CREATED"],
        )
        self.assertEqual(audit["auditEvents"][0]["reason"], "GRANT_REVOKED")

    def the_reason_of_a_refusal_can_be_read_in_its_details(self):
        connection_id, grant_id = self._connect_and_grant("sk-reason")
        call("GrantService/RevokeGrant", {**ORGANIZATION, "grant_id": grant_id})
        resolve = {**ORGANIZATION, "actor": "agent:roadie", "connection_id": connection_id}
        refused = attempt("GrantService/ResolveCredential", resolve, "gateway")
        self.assertRegex(refused.err, r'"reason": ?"GRANT_REVOKED"')
        self.assertRegex(refused.err, r'"domain": ?"keyholder"')

    def the_fields_that_are_wrong_can_be_read_in_the_details(self):
        refused = attempt("ConnectionService/CreateConnection", {**ORGANIZATION, "owner": "nobody"})
        self.assertIn("Code: InvalidArgument", refused.err)
        self.assertRegex(refused.err, r'"field": ?"owner"')
        self.assertRegex(refused.err, r'"field": ?"provider_id"')

    def _connect_and_grant(self, key):
        account = {"owner": "user:ada", "provider_id": "openai", "credentials": {"api_key": key}}
        connected = call("ConnectionService/CreateConnection", {**ORGANIZATION, **account})
        connection_id = connected["connection"]["connectionId"]
        given = {"grantee": "agent:roadie", "connection_id": connection_id}
        granted = call("GrantService/CreateGrant", {**ORGANIZATION, **given})
        return connection_id, granted["grant"]["grantId"]
