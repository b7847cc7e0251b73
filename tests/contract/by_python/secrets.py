"""Which fields can hold a secret, as the descriptor tells every tool that prints messages."""

import importlib
import unittest

from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from support.client import channel
from support.stubs import PROTO

# Words that make a field's name one of a secret's.
SECRET_WORDS = ("credential", "secret", "password", "token", "api_key", "cookie", "header", "private")

# Fields whose names have such a word, and that hold no secret.
HARMLESS = {
    "keyholder.v1.Connection.credential_summary": "says that a field is there, never what it is",
    "keyholder.v1.OAuth2Credential.token_type": "Bearer, as a rule",
    "keyholder.v1.ProviderField.secret": "whether a form hides the field",
}

# Every field below these messages is a secret, or says how one is sent.
SECRET_MESSAGES = ("keyholder.v1.Credential", "keyholder.v1.HttpInjection")


class Secrets(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.files = [stub_of(file) for file in sorted(PROTO.rglob("*.proto"))]
        cls.messages = [message for file in cls.files for message in all_messages(file.message_types_by_name)]

    def every_field_of_a_released_credential_is_redacted(self):
        seen = set()
        for message in self.messages:
            if message.full_name in SECRET_MESSAGES:
                self._assert_redacted_below(message, seen)
        self.assertGreater(len(seen), 10)

    def every_field_that_is_named_like_a_secret_is_redacted(self):
        found = 0
        for message in self.messages:
            for field in message.fields:
                if holds_text(field) and is_secret_name(field):
                    self.assertTrue(is_redacted(field), f"{field.full_name} lacks debug_redact")
                    found += 1
        self.assertGreater(found, 5)

    def what_is_called_harmless_is_still_there(self):
        names = {field.full_name for message in self.messages for field in message.fields}
        self.assertLessEqual(set(HARMLESS), names)

    def the_running_server_says_the_same(self):
        with channel("console") as open_channel:
            served = ProtoReflectionDescriptorDatabase(open_channel)
            for file in self.files:
                ours = descriptor_pb2.FileDescriptorProto()
                file.CopyToProto(ours)
                theirs = served.FindFileByName(file.name)
                theirs.ClearField("source_code_info")
                for one in (ours, theirs):
                    for message in one.message_type:
                        strip_json_names(message)
                self.assertEqual(theirs, ours, file.name)

    def _assert_redacted_below(self, message, seen):
        for field in message.fields:
            if field.message_type and not is_map(field):
                self._assert_redacted_below(field.message_type, seen)
            elif field.full_name not in HARMLESS:
                self.assertTrue(is_redacted(field), f"{field.full_name} lacks debug_redact")
                seen.add(field.full_name)


def stub_of(file):
    name = str(file.relative_to(PROTO).with_suffix("")).replace("/", ".") + "_pb2"
    return importlib.import_module(name).DESCRIPTOR


def all_messages(named):
    for message in named.values():
        if not message.GetOptions().map_entry:
            yield message
            yield from all_messages(message.nested_types_by_name)


def is_map(field):
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def holds_text(field):
    return is_map(field) or field.type in (field.TYPE_STRING, field.TYPE_BYTES)


def is_secret_name(field):
    is_place = field.name in ("page_token", "next_page_token", "resume_token")
    named = any(word in field.name for word in SECRET_WORDS)
    return named and not is_place and field.full_name not in HARMLESS


def is_redacted(field):
    return field.GetOptions().debug_redact


def strip_json_names(message):
    """Compilers differ in whether they write these down."""
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        strip_json_names(nested)
