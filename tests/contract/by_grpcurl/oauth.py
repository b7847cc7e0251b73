"""OAuth by hand: a client is set, an owner is asked, what an agent may use is listed, everything is revoked."""

import json
import unittest

from support.grpcurl import attempt, call

ORGANIZATION = {"organization_id": "oauth-by-grpcurl"}
SECRET = "client-secret-by-grpcurl"


class OAuth(unittest.TestCase):
    def a_client_is_set_and_listed_without_its_secret_and_deleted(self):
        client = {"provider_id": "github", "client_id": "our-own", "client_secret": SECRET}
        answers = [call("OAuthClientService/SetOAuthClient", {**ORGANIZATION, **client})]
        self.assertEqual(answers[0]["oauthClient"]["secretCount"], 1)
        answers.append(call("OAuthClientService/ListOAuthClients", ORGANIZATION))
        self.assertEqual([one["clientId"] for one in answers[1]["oauthClients"]], ["our-own"])
        self.assertNotIn(SECRET, json.dumps(answers))
        which = {**ORGANIZATION, "provider_id": "github"}
        self.assertEqual(call("OAuthClientService/DeleteOAuthClient", which), {})
        gone = attempt("OAuthClientService/DeleteOAuthClient", which)
        self.assertIn("Code: FailedPrecondition", gone.err)
        self.assertRegex(gone.err, r'"reason": ?"OAUTH_CLIENT_MISSING"')

    def a_link_for_an_owner_is_made(self):
        client = {"provider_id": "gitlab", "client_id": "our-own", "client_secret": SECRET}
        call("OAuthClientService/SetOAuthClient", {**ORGANIZATION, **client})
        start = {"owner": "user:ada", "provider_id": "gitlab"}
        begun = call("ConnectionService/StartAuthorization", {**ORGANIZATION, **start})
        self.assertRegex(begun["authorizationUrl"], r"^https?://[^/]+/connect/[\w-]{43}$")
        authorization = begun["authorization"]
        self.assertEqual(authorization["state"], "AUTHORIZATION_STATE_PENDING")
        which = {"authorization_id": authorization["authorizationId"]}
        read = call("ConnectionService/GetAuthorization", {**ORGANIZATION, **which})
        self.assertEqual(read["authorization"], authorization)
        early = attempt("ConnectionService/CompleteAuthorization", {**ORGANIZATION, **which})
        self.assertRegex(early.err, r'"reason": ?"AUTHORIZATION_NOT_READY"')

    def without_a_client_no_link_is_made(self):
        start = {"owner": "user:ada", "provider_id": "slack"}
        refused = attempt("ConnectionService/StartAuthorization", {**ORGANIZATION, **start})
        self.assertRegex(refused.err, r'"reason": ?"OAUTH_CLIENT_MISSING"')
