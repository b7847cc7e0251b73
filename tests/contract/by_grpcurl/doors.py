"""Who gets in at all: nobody without a certificate of an authority that is trusted."""

import unittest

from support import world
from support.grpcurl import grpcurl, run, target

CHECK = "grpc.health.v1.Health/Check"

# grpcurl tries again until its time is over when a handshake is refused.
SECONDS = 1


class Doors(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.foreign = world.foreign_pki(world.current.folder / "foreign")

    def lets_a_known_workload_in(self):
        self.assertEqual(grpcurl(target(), CHECK).code, 0)

    def refuses_a_caller_without_a_certificate(self):
        before = refusals()
        self._assert_no_answer(grpcurl(target(), CHECK, workload=None, max_seconds=SECONDS))
        self.assertGreater(refusals(), before, "the server did not refuse it")

    def refuses_a_certificate_of_a_foreign_authority_for_the_same_name(self):
        for workload in ("operator", "gateway"):
            before = refusals()
            ran = grpcurl(target(), CHECK, workload=workload, pki=self.foreign, max_seconds=SECONDS)
            self._assert_no_answer(ran)
            self.assertGreater(refusals(), before, "the server did not refuse it")

    def refuses_a_caller_without_tls(self):
        self._assert_no_answer(run(["grpcurl", "-plaintext", "-max-time", str(SECONDS), target(), CHECK]))

    def a_caller_refuses_a_server_of_another_authority(self):
        ran = run(["grpcurl", "-max-time", str(SECONDS), "-cacert", self.foreign / "ca.pem", target(), CHECK])
        self._assert_no_answer(ran)
        self.assertIn("certificate signed by unknown authority", ran.err)

    def _assert_no_answer(self, ran):
        self.assertNotEqual(ran.code, 0, ran.out)
        self.assertEqual(ran.out, "")
        # Not even an error of gRPC: that would be an answer.
        self.assertNotIn("Code:", ran.err)


def refusals():
    """How many handshakes the server has refused so far."""
    return sum(line.get("message") == "workload refused" for line in world.current.log())
