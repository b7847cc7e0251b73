"""What grpcurl learns by reflection alone, without the proto files. It asks through v1alpha."""

import re
import unittest

from support.grpcurl import grpcurl, target

SERVICES = [
    "keyholder.v1.AuditService",
    "keyholder.v1.ConnectionService",
    "keyholder.v1.GrantService",
    "keyholder.v1.OAuthClientService",
    "keyholder.v1.ProviderService",
]

# What OAuth brought.
OAUTH_METHODS = {
    "keyholder.v1.ConnectionService": [
        "StartAuthorization",
        "GetAuthorization",
        "CompleteAuthorization",
        "RevokeAll",
        "GetRevocationRun",
    ],
    "keyholder.v1.GrantService": ["ListAccess"],
    "keyholder.v1.OAuthClientService": ["SetOAuthClient", "ListOAuthClients", "DeleteOAuthClient"],
}


class Reflection(unittest.TestCase):
    def v1alpha_lists_every_service(self):
        listed = self._print("list").split()
        self.assertIn("grpc.reflection.v1alpha.ServerReflection", listed)
        self.assertEqual([name for name in listed if name.startswith("keyholder.")], SERVICES)

    def lists_the_methods_of_oauth(self):
        for service, methods in OAUTH_METHODS.items():
            listed = self._print("list", service).split()
            self.assertLessEqual({f"{service}.{method}" for method in methods}, set(listed))

    def describe_shows_the_comment_of_every_method(self):
        for service in SERVICES:
            self._assert_commented(service, r"  rpc ")

    def describe_shows_the_comment_of_every_field_of_every_request_and_answer(self):
        for service in SERVICES:
            for message in re.findall(r"\( (?:stream )?\.(\S+) \)", self._print("describe", service)):
                self._assert_commented(message, r"  .* = \d+;$")

    def describe_shows_what_a_field_is_for(self):
        self.assertIn(
            "  // At which provider.\n  string provider_id = 3;",
            self._print("describe", "keyholder.v1.CreateConnectionRequest"),
        )

    def _assert_commented(self, symbol, declaration):
        lines = self._print("describe", symbol).splitlines()
        declared = [number for number, line in enumerate(lines) if re.match(declaration, line)]
        for number in declared:
            self.assertRegex(lines[number - 1], r"^\s+// ", f"{symbol}: {lines[number]}")

    def _print(self, *words):
        ran = grpcurl(target(), *words)
        self.assertEqual(ran.code, 0, ran.err)
        return ran.out
