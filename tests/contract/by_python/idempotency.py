"""A request that is sent again with the same request_id is done once."""

import grpc
from keyholder.v1 import connection_service_pb2, grant_service_pb2

from support.case import Case
from support.client import SECONDS

ALREADY_EXISTS = grpc.StatusCode.ALREADY_EXISTS


class Idempotency(Case):
    organization = "idempotency"

    def the_same_create_again_gets_the_connection_it_made(self):
        create = self.client.connections.CreateConnection
        first = create(self._connect("sk-same", "again"), timeout=SECONDS).connection
        second = create(self._connect("sk-same", "again"), timeout=SECONDS).connection
        self.assertEqual(second, first)
        listing = connection_service_pb2.ListConnectionsRequest(
            organization_id=self.organization, owner="user:again"
        )
        listed = self.client.connections.ListConnections(listing, timeout=SECONDS).connections
        self.assertEqual([one.connection_id for one in listed], [first.connection_id])

    def another_create_with_the_same_id_is_refused(self):
        create = self.client.connections.CreateConnection
        create(self._connect("sk-one", "reused"), timeout=SECONDS)
        self.assert_refused(create, self._connect("sk-other", "reused"), ALREADY_EXISTS, "REQUEST_ID_REUSED")

    def without_an_id_the_same_create_again_is_refused(self):
        create = self.client.connections.CreateConnection
        create(self._connect("sk-no-id", ""), timeout=SECONDS)
        self.assert_refused(create, self._connect("sk-no-id", ""), ALREADY_EXISTS, "CONNECTION_EXISTS")

    def the_same_grant_again_gets_the_grant_it_made(self):
        connection = self.client.connect("sk-grants")
        request = grant_service_pb2.CreateGrantRequest(
            organization_id=self.organization,
            grantee="agent:roadie",
            connection_id=connection.connection_id,
            request_id="grant-1",
        )
        create = self.client.grants.CreateGrant
        first = create(request, timeout=SECONDS).grant
        self.assertEqual(create(request, timeout=SECONDS).grant, first)
        request.grantee = "agent:other"
        self.assert_refused(create, request, ALREADY_EXISTS, "REQUEST_ID_REUSED")

    def _connect(self, key, request_id):
        return connection_service_pb2.CreateConnectionRequest(
            organization_id=self.organization,
            owner=f"user:{request_id or 'nobody'}",
            provider_id="openai",
            credentials={"api_key": key},
            request_id=request_id,
        )
