"""WatchConnections: everything as it is, then each change, and on from a token."""

import contextlib
import time

from keyholder.v1 import connection_service_pb2

from support.case import Case
from support.client import SECONDS

WatchConnections = connection_service_pb2.WatchConnectionsRequest
DELETED = connection_service_pb2.CONNECTION_STATE_DELETED


class Watch(Case):
    organization = "watch"

    def begins_with_every_connection_and_a_message_that_only_carries_a_token(self):
        made = [self.client.connect(f"sk-first-{number}", owner="user:first") for number in range(2)]
        with self._watch(owner="user:first") as stream:
            messages = [next(stream) for _ in range(3)]
        self.assertEqual([message.connection.connection_id for message in messages], ids(made) + [""])
        self.assertFalse(messages[2].HasField("connection"))
        self.assertTrue(all(message.resume_token for message in messages))

    def a_change_arrives_at_once(self):
        made = self.client.connect("sk-change", owner="user:change")
        with self._watch(owner="user:change") as stream:
            until_token(stream)
            started = time.monotonic()
            self._rename(made, "new name")
            message = next(stream)
            self.assertLess(time.monotonic() - started, 5, "the watcher only looked by itself")
        self.assertEqual(message.connection.connection_id, made.connection_id)
        self.assertEqual(message.connection.display_name, "new name")

    def goes_on_from_a_token_with_what_changed_since(self):
        made = [self.client.connect(f"sk-resume-{number}", owner="user:resume") for number in range(3)]
        with self._watch(owner="user:resume") as stream:
            token = until_token(stream).resume_token
        self._rename(made[1], "while nobody watched")
        late = self.client.connect("sk-resume-late", owner="user:resume")
        self._delete(made[0])
        with self._watch(owner="user:resume", resume_token=token) as stream:
            missed = [next(stream).connection for _ in range(3)]
            self.assertFalse(next(stream).HasField("connection"))
        self.assertEqual(ids(missed), ids([made[1], late, made[0]]))
        self.assertEqual(missed[0].display_name, "while nobody watched")
        self.assertEqual(missed[2].state, DELETED)

    def nothing_is_sent_twice_when_nothing_changed(self):
        self.client.connect("sk-quiet", owner="user:quiet")
        with self._watch(owner="user:quiet") as stream:
            token = until_token(stream).resume_token
        with self._watch(owner="user:quiet", resume_token=token) as stream:
            message = next(stream)
        self.assertFalse(message.HasField("connection"))
        self.assertEqual(message.resume_token, token)

    def sends_only_what_the_filter_lets_through(self):
        self.client.connect("sk-filter-other", owner="user:other")
        mine = self.client.connect("sk-filter-mine", owner="user:mine")
        with self._watch(owner="user:mine", provider_id="openai") as stream:
            self.assertEqual(next(stream).connection.connection_id, mine.connection_id)
            self.assertFalse(next(stream).HasField("connection"))

    def tells_nothing_of_another_organization(self):
        self.client.connect("sk-not-theirs")
        request = WatchConnections(organization_id="watch-another")
        with self._stream(request) as stream:
            self.assertFalse(next(stream).HasField("connection"))

    def a_token_of_another_feed_is_refused(self):
        with self._watch() as stream:
            token = next(stream).resume_token
        refused = WatchConnections(organization_id="watch-another", resume_token=token)
        self.assert_invalid(self._first, refused, "resume_token")
        nonsense = WatchConnections(organization_id=self.organization, resume_token="nonsense")
        self.assert_invalid(self._first, nonsense, "resume_token")

    def _watch(self, **request):
        return self._stream(WatchConnections(organization_id=self.organization, **request))

    @contextlib.contextmanager
    def _stream(self, request):
        stream = self.client.connections.WatchConnections(request, timeout=2 * SECONDS)
        try:
            yield stream
        finally:
            stream.cancel()

    def _first(self, request, timeout):
        return next(self.client.connections.WatchConnections(request, timeout=timeout))

    def _rename(self, connection, name):
        request = connection_service_pb2.UpdateConnectionRequest(
            connection={
                "organization_id": self.organization,
                "connection_id": connection.connection_id,
                "display_name": name,
            },
            update_mask={"paths": ["display_name"]},
        )
        self.client.connections.UpdateConnection(request, timeout=SECONDS)

    def _delete(self, connection):
        request = connection_service_pb2.DeleteConnectionRequest(
            organization_id=self.organization, connection_id=connection.connection_id
        )
        self.client.connections.DeleteConnection(request, timeout=SECONDS)


def until_token(stream):
    """Reads up to the message that ends the first pass."""
    return next(message for message in stream if not message.HasField("connection"))


def ids(connections):
    return [connection.connection_id for connection in connections]
