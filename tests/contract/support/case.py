"""What the facts of a Python client have in common."""

import unittest

import grpc

from support.client import Client, fields, refused

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT


class Case(unittest.TestCase):
    """Facts about one organization, which no other case knows."""

    organization = None

    @classmethod
    def setUpClass(cls):
        cls.client = Client(cls.organization)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()

    def assert_refused(self, method, request, code, reason):
        """Asserts the code and the reason of a refusal, and returns it for more."""
        refusal = refused(method, request)
        found = (refusal.code, refusal.info and refusal.info.reason)
        self.assertEqual(found, (code, reason), refusal)
        return refusal

    def assert_invalid(self, method, request, *paths):
        """Asserts that these fields, and no others, are refused as invalid."""
        refusal = self.assert_refused(method, request, INVALID_ARGUMENT, "INVALID_FIELD")
        self.assertEqual(sorted(fields(refusal)), sorted(paths), refusal)
        return refusal
