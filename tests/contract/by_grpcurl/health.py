"""The standard health service."""

import json
import unittest

from by_grpcurl.reflection import SERVICES
from support.grpcurl import grpcurl, target


class Health(unittest.TestCase):
    def the_whole_is_serving(self):
        self._assert_serving("")

    def every_service_is_serving(self):
        for service in SERVICES:
            self._assert_serving(service)

    def any_workload_may_ask(self):
        for workload in ("operator", "console", "gateway", "auditor"):
            self._assert_serving("", workload)

    def an_unknown_service_is_not_found(self):
        self.assertIn("Code: NotFound", self._check("keyholder.v1.NoSuchService").err)

    def _assert_serving(self, service, workload="console"):
        ran = self._check(service, workload)
        self.assertEqual(ran.code, 0, f"{service}: {ran.err}")
        self.assertEqual(json.loads(ran.out), {"status": "SERVING"}, service)

    def _check(self, service, workload="console"):
        request = json.dumps({"service": service})
        return grpcurl("-d", request, target(), "grpc.health.v1.Health/Check", workload=workload)
