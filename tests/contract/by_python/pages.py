"""Lists come in pages."""

from keyholder.v1 import audit_service_pb2, connection_service_pb2, grant_service_pb2, provider_service_pb2
from keyholder.v1 import provider_service_pb2_grpc

from support.case import Case
from support.client import SECONDS

ListConnections = connection_service_pb2.ListConnectionsRequest


class Pages(Case):
    organization = "pages"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.made = [cls.client.connect(f"sk-page-{number}").connection_id for number in range(5)]
        cls.granted = [cls.client.grant(connection_id).grant_id for connection_id in cls.made]

    def connections_come_oldest_first_each_once(self):
        pages = self._pages(self.client.connections.ListConnections, ListConnections, "connections")
        self.assertEqual([[one.connection_id for one in page] for page in pages], pairs(self.made))

    def grants_come_oldest_first_each_once(self):
        pages = self._pages(self.client.grants.ListGrants, grant_service_pb2.ListGrantsRequest, "grants")
        self.assertEqual([[one.grant_id for one in page] for page in pages], pairs(self.granted))

    def audit_events_come_newest_first_each_once(self):
        request = audit_service_pb2.ListAuditEventsRequest
        pages = self._pages(self.client.audit.ListAuditEvents, request, "audit_events")
        self.assertEqual([len(page) for page in pages], [2] * 5)
        events = [event.audit_event_id for page in pages for event in page]
        self.assertEqual(events, sorted(set(events), reverse=True))

    def providers_come_in_the_order_of_their_ids(self):
        providers = provider_service_pb2_grpc.ProviderServiceStub(self.client.console)
        everything = provider_service_pb2.ListProvidersRequest(page_size=500)
        whole = [it.provider_id for it in providers.ListProviders(everything, timeout=SECONDS).providers]
        self.assertEqual(whole, sorted(whole))
        found, token = [], ""
        while True:
            request = provider_service_pb2.ListProvidersRequest(page_size=10, page_token=token)
            answer = providers.ListProviders(request, timeout=SECONDS)
            found += [it.provider_id for it in answer.providers]
            token = answer.next_page_token
            if not token:
                break
        self.assertEqual(found, whole)

    def a_token_is_good_for_the_same_list_only(self):
        first = self._list(page_size=2)
        self.assertTrue(first.next_page_token)
        listing = self.client.connections.ListConnections
        for other in (
            {"organization_id": self.organization, "owner": "user:ada"},
            {"organization_id": "pages-of-another"},
        ):
            request = ListConnections(**other, page_size=2, page_token=first.next_page_token)
            self.assert_invalid(listing, request, "page_token")
        grants = grant_service_pb2.ListGrantsRequest(
            organization_id=self.organization, page_token=first.next_page_token
        )
        self.assert_invalid(self.client.grants.ListGrants, grants, "page_token")

    def a_token_that_was_not_given_out_is_refused(self):
        for token in ("nonsense", "!", "A" * 5000):
            request = ListConnections(organization_id=self.organization, page_token=token)
            self.assert_invalid(self.client.connections.ListConnections, request, "page_token")

    def a_page_has_at_most_500(self):
        for size in (-1, 501):
            request = ListConnections(organization_id=self.organization, page_size=size)
            self.assert_invalid(self.client.connections.ListConnections, request, "page_size")
        self.assertEqual(len(self._list(page_size=500).connections), 5)

    def what_is_made_between_two_pages_comes_at_the_end(self):
        organization = "pages-growing"
        client = type(self.client)(organization)
        self.addCleanup(client.close)
        before = [client.connect(f"sk-{number}").connection_id for number in range(2)]
        listing = client.connections.ListConnections
        first = listing(ListConnections(organization_id=organization, page_size=1), timeout=SECONDS)
        late = client.connect("sk-late").connection_id
        request = ListConnections(
            organization_id=organization, page_size=1, page_token=first.next_page_token
        )
        second = listing(request, timeout=SECONDS)
        request.page_token = second.next_page_token
        third = listing(request, timeout=SECONDS)
        found = [page.connections[0].connection_id for page in (first, second, third)]
        self.assertEqual(found, [*before, late])
        self.assertEqual(third.next_page_token, "")

    def _list(self, **page):
        request = ListConnections(organization_id=self.organization, **page)
        return self.client.connections.ListConnections(request, timeout=SECONDS)

    def _pages(self, method, request, items):
        pages, token = [], ""
        while True:
            asked = request(organization_id=self.organization, page_size=2, page_token=token)
            answer = method(asked, timeout=SECONDS)
            pages.append(list(getattr(answer, items)))
            token = answer.next_page_token
            if not token:
                return pages


def pairs(items):
    return [items[start : start + 2] for start in range(0, len(items), 2)]
