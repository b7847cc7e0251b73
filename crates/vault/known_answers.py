"""Computes the known answers of the tests with Python's `cryptography` (pip install cryptography), so that
what is stored is shown to be readable by something other than what wrote it. Run it and compare."""

import base64
import hashlib
import hmac
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

DATA_KEY = bytes(range(32))
DATA_KEY_ID = b"dk_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b"
ENCRYPTION_KEY = bytes(range(255, 223, -1))
NONCE = bytes(range(100, 112))


def join(*parts):
    return b"".join(struct.pack(">Q", len(part)) + part for part in parts)


def derive(key, label, length):
    return HKDF(hashes.SHA256(), length, b"keyholder", label).derive(key)


def text(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def seal(key, key_id, associated, plaintext):
    return f"enc:v1:{key_id.decode()}:{text(NONCE + AESGCM(key).encrypt(NONCE, plaintext, associated))}"


def fingerprint(kind, label, data):
    key = derive(DATA_KEY, b"keyholder/fingerprint/v1", 32)
    return text(hmac.new(key, join(kind, label, data), hashlib.sha256).digest())


PLACE = join(
    b"keyholder/sealed/v1",
    DATA_KEY_ID,
    b"acme",
    b"conn_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b",
    b"credential",
    struct.pack(">q", 7),
)
CREDENTIAL = b"\x01" + join(b"password", b"hunter2", b"username", b"ada")
KEK_ID = b"kek-" + derive(ENCRYPTION_KEY, b"keyholder/kek-id/v1", 8).hex().encode()
WRAPPING = join(b"keyholder/wrapped-data-key/v1", KEK_ID, b"acme", DATA_KEY_ID)

print("key-encryption key    ", base64.b64encode(ENCRYPTION_KEY).decode())
print("its id                ", KEK_ID.decode())
print("sealed bytes          ", seal(DATA_KEY, DATA_KEY_ID, PLACE, b"correct horse battery staple"))
print("sealed credential     ", seal(DATA_KEY, DATA_KEY_ID, PLACE, CREDENTIAL))
print("wrapped data key      ", seal(ENCRYPTION_KEY, KEK_ID, WRAPPING, DATA_KEY))
print("credential fingerprint", fingerprint(b"credential", b"same", CREDENTIAL))
print("bytes fingerprint     ", fingerprint(b"bytes", b"same", CREDENTIAL))
