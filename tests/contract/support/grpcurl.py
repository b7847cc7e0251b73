"""Runs grpcurl, the way a person at a shell would."""

import json
import subprocess
from collections import namedtuple

from support import world

# A call that hangs is a failure like any other.
MAX_SECONDS = 5

Ran = namedtuple("Ran", "code out err")


def grpcurl(*arguments, workload="console", pki=None, max_seconds=MAX_SECONDS):
    """Runs grpcurl as a workload; `workload=None` shows no certificate, `pki` is whose certificate it is."""
    keyholder = world.current
    certificate = []
    if workload is not None:
        pki = pki or keyholder.pki
        certificate = ["-cert", pki / f"{workload}.pem", "-key", pki / f"{workload}-key.pem"]
    options = ["-max-time", str(max_seconds), "-cacert", keyholder.pki / "ca.pem", *certificate]
    return run(["grpcurl", *options, *arguments])


def call(method, request, workload="console"):
    """Calls a method with a request in JSON, and returns the answer; any error is a failed fact."""
    ran = attempt(method, request, workload)
    if ran.code != 0:
        raise AssertionError(f"{method} failed: {ran.err}")
    return json.loads(ran.out)


def attempt(method, request, workload="console"):
    """Calls a method that may be refused."""
    return grpcurl("-d", json.dumps(request), target(), f"keyholder.v1.{method}", workload=workload)


def target():
    """Where Keyholder listens, by the name that is in its certificate."""
    return f"localhost:{world.current.address.rpartition(':')[2]}"


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return Ran(done.returncode, done.stdout, done.stderr)
