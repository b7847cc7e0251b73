"""Bytes that are no message of the method's type: refused with the path of the field, where it is known."""

import grpc

from support.case import INVALID_ARGUMENT, Case
from support.client import SECONDS, fields, read_refusal

# No text in UTF-8.
BROKEN = b"\xff\xfe"

CREATE_CONNECTION = "/keyholder.v1.ConnectionService/CreateConnection"
UPDATE_CONNECTION = "/keyholder.v1.ConnectionService/UpdateConnection"
CREATE_GRANT = "/keyholder.v1.GrantService/CreateGrant"
RESOLVE = "/keyholder.v1.GrantService/ResolveCredential"


def field(number, value):
    """A field of the wire type LEN: a string, bytes or a message, shorter than 128 bytes."""
    return bytes([number << 3 | 2, len(value)]) + value


ORGANIZATION = field(1, b"malformed")


class Malformed(Case):
    organization = "malformed"

    def a_string_that_is_not_utf_8_is_named(self):
        self._assert_malformed(CREATE_CONNECTION, ORGANIZATION + field(2, BROKEN), "owner")

    def the_organization_too(self):
        self._assert_malformed(CREATE_CONNECTION, field(1, BROKEN), "organization_id")

    def a_string_in_a_list_is_named_by_the_list(self):
        self._assert_malformed(CREATE_CONNECTION, ORGANIZATION + field(9, BROKEN), "scopes")

    def a_key_or_value_of_a_map_is_named_by_the_map(self):
        self._assert_malformed(CREATE_CONNECTION, ORGANIZATION + field(5, field(1, BROKEN)), "credentials")
        entry = field(1, b"api_key") + field(2, BROKEN)
        self._assert_malformed(CREATE_CONNECTION, ORGANIZATION + field(5, entry), "credentials")

    def a_string_inside_a_message_is_named_from_the_outside_in(self):
        self._assert_malformed(CREATE_CONNECTION, ORGANIZATION + field(8, field(1, BROKEN)), "account.id")
        self._assert_malformed(UPDATE_CONNECTION, field(1, field(6, BROKEN)), "connection.display_name")
        self._assert_malformed(UPDATE_CONNECTION, field(2, field(1, BROKEN)), "update_mask.paths")

    def a_connection_id_in_a_target_is_named_as_it_was_sent(self):
        self._assert_malformed(CREATE_GRANT, ORGANIZATION + field(3, BROKEN), "connection_id")
        self._assert_malformed(RESOLVE, ORGANIZATION + field(3, BROKEN), "connection_id", self.client.gateway)

    def a_string_inside_a_target_is_named_as_it_was_sent(self):
        self._assert_malformed(CREATE_GRANT, ORGANIZATION + field(4, field(1, BROKEN)), "selector.owner")
        provider = ORGANIZATION + field(4, field(1, BROKEN))
        self._assert_malformed(RESOLVE, provider, "provider.provider_id", self.client.gateway)

    def a_number_where_a_string_belongs_is_named(self):
        self._assert_malformed(CREATE_CONNECTION, b"\x08\x01", "organization_id")

    def bytes_that_are_no_fields_name_none(self):
        self._assert_malformed(CREATE_CONNECTION, b"\xff\xff\xff\xff", None)

    def what_was_sent_is_not_repeated(self):
        sent = field(2, b"sk-secret-value" + BROKEN)
        refusal = self._assert_malformed(CREATE_CONNECTION, ORGANIZATION + sent, "owner")
        self.assertNotIn("sk-secret-value", str(refusal))

    def a_field_of_a_later_version_is_passed_over(self):
        get = self.client.console.unary_unary("/keyholder.v1.ProviderService/GetProvider")
        from_later = bytes([0xF8, 0x07, 0x01])  # field 127, a number
        self.assertIn(b"openai", get(field(1, b"openai") + from_later, timeout=SECONDS))

    def a_compressed_request_is_not_told_that_its_method_is_unknown(self):
        get = self.client.console.unary_unary("/keyholder.v1.ProviderService/GetProvider")
        reason = None
        try:
            get(field(1, b"openai"), timeout=SECONDS, compression=grpc.Compression.Gzip)
        except grpc.RpcError as error:
            reason = read_refusal(error).info.reason
        self.assertNotEqual(reason, "METHOD_UNKNOWN")

    def _assert_malformed(self, method, message, path, channel=None):
        call = (channel or self.client.console).unary_unary(method)
        refusal = self.assert_refused(call, message, INVALID_ARGUMENT, "REQUEST_MALFORMED")
        self.assertEqual(fields(refusal), [path] if path else [])
        return refusal
