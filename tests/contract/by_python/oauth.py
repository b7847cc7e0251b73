"""OAuth with generated stubs: clients, links, what an agent may use, and everything revoked in one go."""

import time

import grpc
from keyholder.v1 import connection_service_pb2, grant_service_pb2
from keyholder.v1 import oauth_client_service_pb2, oauth_client_service_pb2_grpc

from support.case import Case
from support.client import SECONDS

SECRET = "client-secret-by-python"


class OAuth(Case):
    organization = "oauth-by-python"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.clients = oauth_client_service_pb2_grpc.OAuthClientServiceStub(cls.client.console)

    def a_clients_secret_is_in_no_answer(self):
        answers = [self._set("github")]
        self.assertEqual(answers[0].oauth_client.secret_count, 1)
        answers.append(self._set("github", client_secret=SECRET + "-2", keep_previous_secret=True))
        self.assertEqual(answers[1].oauth_client.secret_count, 2)
        listing = oauth_client_service_pb2.ListOAuthClientsRequest(organization_id=self.organization)
        answers.append(self.clients.ListOAuthClients(listing, timeout=SECONDS))
        for answer in answers:
            self.assertNotIn(SECRET.encode(), answer.SerializeToString())

    def another_organization_has_none_of_it(self):
        self._set("github")
        listing = oauth_client_service_pb2.ListOAuthClientsRequest(organization_id="oauth-of-another")
        self.assertEqual(list(self.clients.ListOAuthClients(listing, timeout=SECONDS).oauth_clients), [])

    def a_link_is_made_once_for_a_request_id(self):
        self._set("gitlab")
        start = self.client.connections.StartAuthorization
        request = connection_service_pb2.StartAuthorizationRequest(
            organization_id=self.organization, owner="user:ada", provider_id="gitlab", request_id="link-1"
        )
        begun = start(request, timeout=SECONDS)
        self.assertIn("/connect/", begun.authorization_url)
        self.assertEqual(start(request, timeout=SECONDS), begun)
        request.owner = "user:bob"
        self.assert_refused(start, request, grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")

    def an_agent_is_told_what_it_may_use(self):
        connection = self.client.connect("sk-access", owner="user:access")
        grant = self.client.grant(connection.connection_id, grantee="agent:access")
        request = grant_service_pb2.ListAccessRequest(organization_id=self.organization, actor="agent:access")
        for grants in (self.client.grants, self.client.resolving):
            (told,) = grants.ListAccess(request, timeout=SECONDS).connections
            self.assertEqual((told.connection_id, told.grant_id), (connection.connection_id, grant.grant_id))
            self.assertEqual((told.provider_name, told.base_url), ("OpenAI", "https://api.openai.com/v1"))

    def everything_is_revoked_in_one_go(self):
        connection = self.client.connect("sk-revoked")
        request = connection_service_pb2.RevokeAllRequest(organization_id=self.organization, provider_id="openai")
        run = self.client.connections.RevokeAll(request, timeout=SECONDS).revocation_run
        which = connection_service_pb2.GetRevocationRunRequest(
            organization_id=self.organization, revocation_run_id=run.revocation_run_id
        )
        deadline = time.monotonic() + 6 * SECONDS
        while not run.HasField("done_time") and time.monotonic() < deadline:
            run = self.client.connections.GetRevocationRun(which, timeout=SECONDS).revocation_run
        self.assertTrue(run.HasField("done_time"), run)
        self.assertGreater(run.deleted, 0)
        read = connection_service_pb2.GetConnectionRequest(
            organization_id=self.organization, connection_id=connection.connection_id
        )
        state = self.client.connections.GetConnection(read, timeout=SECONDS).connection.state
        self.assertEqual(state, connection_service_pb2.CONNECTION_STATE_DELETED)

    def _set(self, provider_id, client_secret=SECRET, **more):
        request = oauth_client_service_pb2.SetOAuthClientRequest(
            organization_id=self.organization,
            provider_id=provider_id,
            client_id="our-own",
            client_secret=client_secret,
            **more,
        )
        return self.clients.SetOAuthClient(request, timeout=SECONDS)
