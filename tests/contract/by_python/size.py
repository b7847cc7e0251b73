"""How large a request may be: 2 MiB."""

from keyholder.v1 import connection_service_pb2

from support.case import INVALID_ARGUMENT, Case

MIB = 1024 * 1024


class Size(Case):
    organization = "size"

    def refuses_a_request_of_10_mib(self):
        self._assert_too_large(10 * MIB)

    def refuses_a_request_just_above_2_mib(self):
        self._assert_too_large(2 * MIB)

    def reads_a_request_just_below_2_mib(self):
        request = self._request(2 * MIB - 200)
        self.assert_invalid(self.client.connections.CreateConnection, request, "display_name")

    def the_channel_is_good_for_more_calls(self):
        self._assert_too_large(10 * MIB)
        self.assertTrue(self.client.connect("sk-after-too-large").connection_id)

    def _assert_too_large(self, size):
        create = self.client.connections.CreateConnection
        refusal = self.assert_refused(create, self._request(size), INVALID_ARGUMENT, "REQUEST_TOO_LARGE")
        self.assertEqual(refusal.message, "The request is larger than 2 MiB.")

    def _request(self, size):
        return connection_service_pb2.CreateConnectionRequest(
            organization_id=self.organization,
            owner="user:ada",
            provider_id="openai",
            credentials={"api_key": "sk-size"},
            display_name="x" * size,
        )
