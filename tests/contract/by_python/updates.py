"""Changes: only what the mask names, and only what was read before."""

import grpc
from keyholder.v1 import connection_service_pb2, grant_service_pb2

from support.case import Case
from support.client import SECONDS

FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
UpdateConnection = connection_service_pb2.UpdateConnectionRequest


class Updates(Case):
    organization = "updates"

    def changes_only_what_the_mask_names(self):
        made = self.client.connect("sk-mask", display_name="before", labels={"team": "a"}, scopes=["one"])
        changed = self._update(made, ["display_name"], display_name="after", labels={"team": "b"}, scopes=["two"])
        self.assertEqual(
            (changed.display_name, changed.labels, changed.scopes), ("after", {"team": "a"}, ["one"])
        )
        self.assertEqual(changed.generation, made.generation + 1)
        self.assertNotEqual(changed.etag, made.etag)

    def a_map_or_a_list_is_replaced_as_a_whole(self):
        made = self.client.connect("sk-whole", labels={"team": "a", "site": "x"}, scopes=["one", "two"])
        changed = self._update(made, ["labels", "scopes"], labels={"team": "b"}, scopes=["three"])
        self.assertEqual((changed.labels, changed.scopes), ({"team": "b"}, ["three"]))
        emptied = self._update(changed, ["labels"])
        self.assertEqual(emptied.labels, {})

    def refuses_a_mask_that_names_nothing_or_what_cannot_change(self):
        made = self.client.connect("sk-bad-mask")
        update = self.client.connections.UpdateConnection
        for paths in ([], ["owner"], ["credentials"], ["display_name", "state"], ["*"], ["labels.team"]):
            self.assert_invalid(update, self._request(made, paths), "update_mask")
        self.assertEqual(self._get(made).generation, made.generation)

    def a_stale_etag_is_refused_and_nothing_changes(self):
        made = self.client.connect("sk-etag", display_name="first")
        current = self._update(made, ["display_name"], display_name="second", etag=made.etag)
        stale = self._request(made, ["display_name"], display_name="third", etag=made.etag)
        update = self.client.connections.UpdateConnection
        self.assert_refused(update, stale, FAILED_PRECONDITION, "ETAG_MISMATCH")
        self.assertEqual(self._get(made), current)

    def every_change_of_a_connection_checks_its_etag(self):
        made = self.client.connect("sk-every-etag")
        self._update(made, ["display_name"], display_name="newer")
        named = {"organization_id": self.organization, "connection_id": made.connection_id, "etag": made.etag}
        connections = self.client.connections
        for method, request in (
            (connections.ReplaceCredentials, connection_service_pb2.ReplaceCredentialsRequest(**named)),
            (connections.DisableConnection, connection_service_pb2.DisableConnectionRequest(**named)),
            (connections.EnableConnection, connection_service_pb2.EnableConnectionRequest(**named)),
            (connections.DeleteConnection, connection_service_pb2.DeleteConnectionRequest(**named)),
        ):
            self.assert_refused(method, request, FAILED_PRECONDITION, "ETAG_MISMATCH")

    def a_revoke_checks_the_etag_of_the_grant(self):
        grant = self.client.grant(self.client.connect("sk-revoke").connection_id)
        request = grant_service_pb2.RevokeGrantRequest(
            organization_id=self.organization, grant_id=grant.grant_id, etag="g7"
        )
        revoke = self.client.grants.RevokeGrant
        self.assert_refused(revoke, request, FAILED_PRECONDITION, "ETAG_MISMATCH")
        request.etag = grant.etag
        self.assertNotEqual(revoke(request, timeout=SECONDS).grant.etag, grant.etag)

    def what_is_no_etag_is_refused_as_a_field(self):
        made = self.client.connect("sk-no-etag")
        for etag in ("1", "g", "g0", "g-1", "g99999999999999999999"):
            request = connection_service_pb2.DeleteConnectionRequest(
                organization_id=self.organization, connection_id=made.connection_id, etag=etag
            )
            self.assert_invalid(self.client.connections.DeleteConnection, request, "etag")

    def a_deleted_connection_cannot_be_updated(self):
        made = self.client.connect("sk-deleted")
        named = {"organization_id": self.organization, "connection_id": made.connection_id}
        delete = self.client.connections.DeleteConnection
        deleted = delete(connection_service_pb2.DeleteConnectionRequest(**named), timeout=SECONDS).connection
        self.assertEqual(deleted.state, connection_service_pb2.CONNECTION_STATE_DELETED)
        request = self._request(made, ["display_name"])
        update = self.client.connections.UpdateConnection
        self.assert_refused(update, request, FAILED_PRECONDITION, "CONNECTION_DELETED")

    def _request(self, connection, paths, **to):
        named = {"organization_id": self.organization, "connection_id": connection.connection_id}
        return UpdateConnection(connection={**named, **to}, update_mask={"paths": paths})

    def _update(self, connection, paths, **to):
        request = self._request(connection, paths, **to)
        return self.client.connections.UpdateConnection(request, timeout=SECONDS).connection

    def _get(self, connection):
        request = connection_service_pb2.GetConnectionRequest(
            organization_id=self.organization, connection_id=connection.connection_id
        )
        return self.client.connections.GetConnection(request, timeout=SECONDS).connection
