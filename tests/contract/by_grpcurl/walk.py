"""The lines that `keyholder dev --walk` prints for a person to copy."""

import json
import re
import unittest

from support import grpcurl, world

# A command that ends with the first line that does not end in a backslash.
COMMAND = re.compile(r"^grpcurl (?:.*\\\n)*.*\n", re.MULTILINE)


def commands(printed):
    """The commands, just as they stand."""
    return COMMAND.findall(printed)


def run_in_order(printed):
    """Runs the printed commands and returns their answers; one that fails is a failed fact."""
    answers = []
    for command in commands(printed):
        ran = grpcurl.run(["bash", "-c", command])
        if ran.code != 0:
            raise AssertionError(f"{command}{ran.err}")
        answers.append(json.loads(ran.out))
    return answers


class Walk(unittest.TestCase):
    def prints_a_line_for_each_step(self):
        called = [command.split()[-1] for command in commands(world.current.printed())]
        self.assertEqual(
            called,
            [
                "keyholder.v1.GrantService/ResolveCredential",
                "keyholder.v1.GrantService/RevokeGrant",
                "keyholder.v1.ConnectionService/CreateConnection",
                "keyholder.v1.GrantService/CreateGrant",
                "keyholder.v1.GrantService/ResolveCredential",
                "keyholder.v1.AuditService/ListAuditEvents",
            ],
        )

    def every_printed_line_ends_by_itself(self):
        for command in commands(world.current.printed()):
            self.assertIn(" -max-time ", command)

    def every_printed_line_works_in_the_printed_order(self):
        answers = run_in_order(world.current.printed())
        self.assertRegex(answers[0]["http"]["headers"]["Authorization"], "^Bearer sk-demo-[0-9a-f]{8}$")
        self.assertEqual(answers[1]["grant"]["state"], "GRANT_STATE_REVOKED")
        self.assertRegex(answers[4]["http"]["headers"]["Authorization"], "^Bearer sk_test_")
        newest = answers[5]["auditEvents"][0]
        self.assertEqual(newest["auditEventId"], answers[4]["auditEventId"])
