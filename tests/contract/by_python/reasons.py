"""What an error says for machines: the messages of google.rpc in its details."""

import grpc
from keyholder.v1 import connection_service_pb2, grant_service_pb2, provider_service_pb2
from keyholder.v1 import provider_service_pb2_grpc

from support.case import Case
from support.client import fields

CreateConnection = connection_service_pb2.CreateConnectionRequest
UpdateConnection = connection_service_pb2.UpdateConnectionRequest


class Reasons(Case):
    organization = "reasons"

    def error_info_names_the_domain_and_the_reason(self):
        request = connection_service_pb2.GetConnectionRequest(
            organization_id=self.organization, connection_id="conn_" + "0" * 32
        )
        get = self.client.connections.GetConnection
        refusal = self.assert_refused(get, request, grpc.StatusCode.NOT_FOUND, "CONNECTION_NOT_FOUND")
        self.assertEqual(refusal.info.domain, "keyholder")
        self.assertEqual(refusal.message, "There is no such connection in this organization.")

    def what_does_not_change_by_waiting_has_no_retry_info(self):
        providers = provider_service_pb2_grpc.ProviderServiceStub(self.client.console)
        request = provider_service_pb2.GetProviderRequest(provider_id="no-such-provider")
        refusal = self.assert_refused(
            providers.GetProvider, request, grpc.StatusCode.NOT_FOUND, "PROVIDER_NOT_FOUND"
        )
        self.assertIsNone(refusal.retry)

    def bad_request_names_every_field_that_is_wrong_by_its_path(self):
        request = CreateConnection(
            organization_id=self.organization,
            owner="session:s_9",
            provider_id="Open AI",
            auth_method=99,
            display_name="two\nlines",
            account={"id": "a\0"},
            scopes=["a b"],
            labels={"A": "x"},
            request_id="a b",
        )
        self.assert_invalid(
            self.client.connections.CreateConnection,
            request,
            "owner",
            "provider_id",
            "auth_method",
            "display_name",
            "account.id",
            "scopes",
            "labels",
            "request_id",
        )

    def bad_request_names_the_fields_of_a_credential(self):
        request = CreateConnection(
            organization_id=self.organization,
            owner="user:ada",
            provider_id="openai",
            credentials={"sk_secret_name": "sk_secret_value"},
            config={"region": "eu"},
        )
        refusal = self.assert_invalid(
            self.client.connections.CreateConnection,
            request,
            "credentials.api_key",
            "credentials",
            "config",
        )
        # Either may be a secret: people paste into the wrong place.
        self.assertNotIn("sk_secret", str(refusal))

    def bad_request_names_the_organization_of_an_update_by_its_path(self):
        update = self.client.connections.UpdateConnection
        request = UpdateConnection(connection={}, update_mask={"paths": ["display_name"]})
        self.assert_invalid(update, request, "connection.organization_id")

    def bad_request_names_the_etag_of_an_update_by_its_path(self):
        self._assert_update_invalid("connection.etag", "display_name", etag="x")

    def bad_request_names_the_new_values_of_an_update_by_their_paths(self):
        self._assert_update_invalid("connection.display_name", "display_name", display_name="\n")
        self._assert_update_invalid("connection.labels", "labels", labels={"A": "x"})
        self._assert_update_invalid("connection.scopes", "scopes", scopes=["a b"])

    def bad_request_names_the_new_settings_of_an_update_by_their_paths(self):
        self._assert_update_invalid("connection.config", "config", config={"region": "eu"})

    def bad_request_names_what_is_wrong_with_a_target(self):
        request = grant_service_pb2.CreateGrantRequest(
            organization_id=self.organization, grantee="agent:roadie", selector={"owner": "nobody"}
        )
        create = self.client.grants.CreateGrant
        self.assert_invalid(create, request, "selector.owner", "selector.provider_id")
        request = self.client.resolve_request(provider={"owner": "nobody"})
        resolve = self.client.resolving.ResolveCredential
        self.assert_invalid(resolve, request, "provider.provider_id", "provider.owner")

    def precondition_failure_names_every_connection_that_could_be_meant(self):
        client = self.client
        made = [client.connect(f"sk-ambiguous-{number}", owner="user:bo") for number in range(2)]
        for connection in made:
            client.grant(connection.connection_id)
        request = client.resolve_request(provider={"provider_id": "openai", "owner": "user:bo"})
        refusal = self.assert_refused(
            client.resolving.ResolveCredential,
            request,
            grpc.StatusCode.FAILED_PRECONDITION,
            "AMBIGUOUS_CONNECTION",
        )
        violations = refusal.precondition.violations
        self.assertEqual({violation.type for violation in violations}, {"AMBIGUOUS_CONNECTION"})
        self.assertEqual(
            sorted(violation.subject for violation in violations),
            sorted(connection.connection_id for connection in made),
        )
        self.assertEqual(fields(refusal), [])

    def the_connection_that_stands_in_the_way_is_named(self):
        connection = self.client.connect("sk-twice")
        request = CreateConnection(
            organization_id=self.organization,
            owner="user:ada",
            provider_id="openai",
            credentials={"api_key": "sk-twice"},
        )
        create = self.client.connections.CreateConnection
        refusal = self.assert_refused(create, request, grpc.StatusCode.ALREADY_EXISTS, "CONNECTION_EXISTS")
        self.assertEqual(refusal.info.metadata, {"connection_id": connection.connection_id})

    def an_unknown_method_has_a_reason(self):
        nothing = self.client.console.unary_unary("/keyholder.v1.ConnectionService/NoSuchMethod")
        self.assert_refused(nothing, b"", grpc.StatusCode.UNIMPLEMENTED, "METHOD_UNKNOWN")

    def _assert_update_invalid(self, path, mask, **to):
        made = self.client.connect(f"sk-{path}")
        named = {"organization_id": self.organization, "connection_id": made.connection_id}
        request = UpdateConnection(connection={**named, **to}, update_mask={"paths": [mask]})
        self.assert_invalid(self.client.connections.UpdateConnection, request, path)
