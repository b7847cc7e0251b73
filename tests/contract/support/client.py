"""A Python client: channels as a workload, and what a refusal says."""

from collections import namedtuple

import grpc
from google.rpc import error_details_pb2, status_pb2
from keyholder.v1 import audit_service_pb2_grpc, connection_service_pb2, connection_service_pb2_grpc
from keyholder.v1 import grant_service_pb2, grant_service_pb2_grpc

from support import world

# A call that hangs is a failure like any other.
SECONDS = 10

DETAILS = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.PreconditionFailure,
    error_details_pb2.RetryInfo,
)

# The details are None where the error has none of that kind.
Refusal = namedtuple("Refusal", "code message info bad_request precondition retry")


def channel(workload):
    """An mTLS channel as a workload, such as "console"; use it in a `with`."""
    keyholder = world.current
    files = ("ca.pem", f"{workload}-key.pem", f"{workload}.pem")
    credentials = grpc.ssl_channel_credentials(*((keyholder.pki / file).read_bytes() for file in files))
    return grpc.secure_channel(f"localhost:{keyholder.address.rpartition(':')[2]}", credentials)


class Client:
    """Every service, as the workload that is meant to call it. Each test case has one, and an organization."""

    def __init__(self, organization):
        self.organization = organization
        self.console = channel("console")
        self.gateway = channel("gateway")
        self.auditor = channel("auditor")
        self.connections = connection_service_pb2_grpc.ConnectionServiceStub(self.console)
        self.grants = grant_service_pb2_grpc.GrantServiceStub(self.console)
        self.resolving = grant_service_pb2_grpc.GrantServiceStub(self.gateway)
        self.audit = audit_service_pb2_grpc.AuditServiceStub(self.auditor)

    def close(self):
        for one in (self.console, self.gateway, self.auditor):
            one.close()

    def connect(self, key, owner="user:ada", **more):
        """Connects an OpenAI account; each key once."""
        request = connection_service_pb2.CreateConnectionRequest(
            organization_id=self.organization,
            owner=owner,
            provider_id="openai",
            credentials={"api_key": key},
            **more,
        )
        return self.connections.CreateConnection(request, timeout=SECONDS).connection

    def grant(self, connection_id, grantee="agent:roadie", **more):
        request = grant_service_pb2.CreateGrantRequest(
            organization_id=self.organization, grantee=grantee, connection_id=connection_id, **more
        )
        return self.grants.CreateGrant(request, timeout=SECONDS).grant

    def resolve_request(self, **target):
        return grant_service_pb2.ResolveCredentialRequest(
            organization_id=self.organization, actor="agent:roadie", **target
        )

    def resolve(self, **target):
        return self.resolving.ResolveCredential(self.resolve_request(**target), timeout=SECONDS)


def refused(method, request):
    """Calls a method that must fail, and returns what it says about it."""
    try:
        answer = method(request, timeout=SECONDS)
    except grpc.RpcError as error:
        return read_refusal(error)
    raise AssertionError(f"was answered, not refused, with a {type(answer).__name__}")


def read_refusal(error):
    """Reads the details of an error, which must all be of kinds that we know."""
    trailers = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers.get("grpc-status-details-bin", b""))
    found = dict.fromkeys(DETAILS)
    for detail in status.details:
        kind = next(kind for kind in DETAILS if detail.Is(kind.DESCRIPTOR))
        found[kind] = kind.FromString(detail.value)
    return Refusal(error.code(), error.details(), *(found[kind] for kind in DETAILS))


def fields(refusal):
    """The paths of the fields that a refusal names."""
    return [violation.field for violation in refusal.bad_request.field_violations] if refusal.bad_request else []
