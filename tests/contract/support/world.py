"""A private Keyholder: `keyholder dev --walk` in a folder of its own, on ports that were free."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

START_SECONDS = 120
STOP_SECONDS = 45

# The one that the facts are about; `run` puts it here.
current = None


class World:
    """A running `keyholder dev`, and what it keeps."""

    def __init__(self, process, folder):
        self.process = process
        self.folder = folder
        self.pki = folder / "pki"
        self.address = None
        self.exit_code = None

    def printed(self):
        """What it has printed so far, its walk above all."""
        return output_of(self.folder).read_text()

    def log(self):
        """The lines of its log."""
        file = self.folder / "keyholder.log"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines if line.startswith("{")]

    def print_complaints(self):
        """Prints what the log has to say beyond the everyday."""
        for line in self.log():
            if line.get("level") in ("WARN", "ERROR"):
                print(f"log   {json.dumps(line)}")

    def postgres_pid(self):
        """The server process of its Postgres, if it runs."""
        file = self.folder / "postgres" / "cluster" / "postmaster.pid"
        return int(file.read_text().split()[0]) if file.exists() else None

    def stop(self):
        """Stops it as an operator would; if that is of no use, kills it and its Postgres."""
        self.process.terminate()
        try:
            self.exit_code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass  # the exit code that is missing says so
        finally:
            if self.exit_code != 0:
                self._kill()

    def _kill(self):
        self.process.kill()
        self.process.wait()
        pid = self.postgres_pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT)


@contextlib.contextmanager
def running(folder):
    """Starts a Keyholder and waits for the end of its walk; stops it when the block is left, however that is."""
    world = launch(folder)
    try:
        wait_for_walk(world)
        yield world
    finally:
        world.stop()


def launch(folder):
    folder.mkdir(exist_ok=True)
    environment = clean_environment()
    for port in ("GRPC", "ADMIN", "WEB"):
        environment[f"KEYHOLDER_{port}__LISTEN"] = "127.0.0.1:0"
    environment["KEYHOLDER_LOG__FORMAT"] = "json"
    with output_of(folder).open("w") as output:
        process = subprocess.Popen(
            [binary(), "dev", "--dir", folder, "--walk"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for us; we stop it then
        )
    return World(process, folder)


def wait_for_walk(world):
    """Waits until it serves and its walk is done."""
    deadline = time.monotonic() + START_SECONDS
    while "Serving gRPC on" not in world.printed():
        if world.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"keyholder did not start:\n{world.printed()}")
        time.sleep(0.05)
    # The log goes on over several starts; the last one counts.
    world.address = [line["grpc"] for line in world.log() if line.get("message") == "listening"][-1]


def foreign_pki(folder):
    """The certificates of another authority for the same names: another `keyholder dev`, which makes them first
    and then does not start, because it is shown a folder without Postgres."""
    (folder / "empty").mkdir(parents=True)
    environment = clean_environment()
    environment["KEYHOLDER_PG_BIN"] = str(folder / "empty")
    subprocess.run([binary(), "dev", "--dir", folder], env=environment, capture_output=True, timeout=60)
    return folder / "pki"


def clean_environment():
    """Our environment without what would change the server under test."""
    kept = ("KEYHOLDER_PG_BIN",)
    return {
        key: value
        for key, value in os.environ.items()
        if key in kept or not (key.startswith("KEYHOLDER_") or key == "DATABASE_URL")
    }


def output_of(folder):
    return folder / "printed.txt"


def binary():
    path = Path(os.environ.get("KEYHOLDER_BIN", ""))
    if not path.is_file():
        sys.exit("contract: KEYHOLDER_BIN must name the binary under test")
    return path
