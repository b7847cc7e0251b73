"""When Postgres is gone: nothing is released, and the caller is told when to try again. Comes last."""

import contextlib
import os
import signal

import grpc

from support import world
from support.case import Case


class DatabaseGone(Case):
    organization = "database-gone"

    def nothing_is_released_and_retry_info_says_when_to_try_again(self):
        connection = self.client.connect("sk-gone")
        self.client.grant(connection.connection_id)
        wanted = {"connection_id": connection.connection_id}
        self.assertEqual(self.client.resolve(**wanted).credential.api_key.api_key, "sk-gone")

        pid = world.current.postgres_pid()
        os.kill(pid, signal.SIGQUIT)
        # Postgres takes a moment to hear it; until then, calls succeed.
        with contextlib.suppress(grpc.RpcError):
            while True:
                self.client.resolve(**wanted)
        refusal = self.assert_refused(
            self.client.resolving.ResolveCredential,
            self.client.resolve_request(**wanted),
            grpc.StatusCode.UNAVAILABLE,
            "STORE_UNAVAILABLE",
        )
        self.assertEqual((refusal.retry.retry_delay.seconds, refusal.retry.retry_delay.nanos), (1, 0))
