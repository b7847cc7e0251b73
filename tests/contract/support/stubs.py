"""Python stubs, made from proto/ as any caller would make them."""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
PROTO = PROJECT / "proto"
GOOGLE_RPC = PROJECT / "tests" / "contract" / "protos"


def generate(folder):
    """Generates the stubs into a folder and puts it in front of the import path."""
    folder.mkdir()
    for root in (PROTO, GOOGLE_RPC):
        files = sorted(root.rglob("*.proto"))
        into = [f"--proto_path={root}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *into, *files], check=True)
    sys.path.insert(0, str(folder))
