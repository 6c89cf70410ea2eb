"""Encrypts or signs payloads, and binds them to their task and field.

An encrypted body is a random nonce of 96 bits and the ciphertext of AES-256-GCM. A signed body is unchanged; its
signature is HMAC-SHA256. The task's id, the field and the content type are authenticated together with the body: a
payload that was moved to another task or field, or got another type, is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from dataclasses import replace
from typing import Any

from rootcellar.errors import KeyMissing, SealBroken, UnsealedRefused
from rootcellar.payloads.keys import Keyring
from rootcellar.records import ENCRYPTED, SIGNED, Payload
from rootcellar.support.imports import import_failure

_NONCE_BYTES = 12
#: the prefix of an encrypted or signed text
_TEXT_PREFIX = "rootcellar:"
_SEALED_TEXT = re.compile(r"rootcellar:(?:(aes-256-gcm:[^:\s]+):([A-Za-z0-9+/=]*)|(hmac-sha256:[^:\s]+:[0-9a-f]+)\n)")
_UNCHANGED = "rootcellar:unsealed:\n"


class Sealer:
    """Encrypts or signs ("seals") payloads, and decrypts or verifies ("opens") them. Without keys it changes nothing.

    Args:
        encryption: keys for encryption; the first one encrypts, all of them decrypt.
        signing: keys for signatures, used if there is no key for encryption; all of them verify.
        accept_unsealed: whether payloads that are neither encrypted nor signed may be read although there are keys.
    """

    def __init__(
        self, encryption: Keyring | None = None, signing: Keyring | None = None, *, accept_unsealed: bool = False
    ) -> None:
        self._encryption = encryption or Keyring()
        self._signing = signing or Keyring()
        self._ciphers = {key.key_id: _cipher(key.secret) for key in self._encryption}
        self._refusals = _refusals() if self._ciphers else ()
        self.is_on = bool(self._encryption or self._signing)
        self._accepts_unsealed = accept_unsealed or not self.is_on

    def __repr__(self) -> str:
        return f"<Sealer: encryption {self._encryption!r}, signing {self._signing!r}>"

    @property
    def accepts_unsealed(self) -> bool:
        """Whether payloads that are neither encrypted nor signed may be read."""
        return self._accepts_unsealed

    @property
    def writes_as(self) -> str:
        """The prefix of the ``key_id`` of new payloads; empty without keys."""
        if self._encryption:
            return ENCRYPTED + self._encryption.first.key_id
        return f"{SIGNED}{self._signing.first.key_id}:" if self._signing else ""

    def derived_key(self, purpose: bytes) -> bytes:
        """Return 32 bytes for another purpose, derived from the last key for encryption; empty without such a key.

        They stay the same when a new key is added, until the last key is removed.

        Args:
            purpose: the name of the purpose, at most 64 bytes.
        """
        *_, last = (None, *self._encryption)
        return b"" if last is None else hashlib.blake2b(purpose, key=last.secret, digest_size=32).digest()

    def seal(self, payload: Payload, task_id: str, field: str) -> Payload:
        """Return ``payload`` encrypted or signed for a field of a task."""
        if not self.is_on:
            return payload
        if self._encryption:
            key_id = self._encryption.first.key_id
            nonce = os.urandom(_NONCE_BYTES)
            sealed = self._ciphers[key_id].encrypt(nonce, payload.body, _bound(payload, task_id, field))
            return _with(payload, nonce + sealed, ENCRYPTED + key_id)
        key = self._signing.first
        return _with(payload, payload.body, f"{SIGNED}{key.key_id}:{_mac(key.secret, payload, task_id, field)}")

    def open(self, payload: Payload, task_id: str, field: str) -> Payload:
        """Return the payload that was passed to :meth:`seal` for the same field of the same task.

        Raises:
            KeyMissing: the key that encrypted or signed it is missing.
            SealBroken: it was altered, or encrypted or signed for another task or field.
            UnsealedRefused: it is neither encrypted nor signed.
        """
        if not payload.key_id:
            if self._accepts_unsealed:
                return payload
            raise UnsealedRefused(
                f"the {field} of task {task_id} is neither encrypted nor signed",
                where="ROOTCELLAR_ACCEPT_UNSEALED",
                remedy="if it is older than the keys, run `rootcellar rekey --unprotected`, or set this to true",
            )
        algorithm, _, rest = payload.key_id.partition(":")
        if algorithm + ":" == ENCRYPTED:
            return self._decrypted(payload, rest, task_id, field)
        if algorithm + ":" == SIGNED:
            return self._verified(payload, rest, task_id, field)
        raise _broken(task_id, field, f"its algorithm is {algorithm[:40]!a}, which is unknown")

    def seal_text(self, text: str, task_id: str, field: str) -> str:
        """Return a text for a column of text: encrypted or signed, or unchanged without keys."""
        if not self.is_on:
            return _UNCHANGED + text if text.startswith(_TEXT_PREFIX) else text
        if not self._encryption:
            # sign the text in the form in which a server returns it
            text = text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
        sealed = self.seal(_text_payload(_encoded(text)), task_id, field)
        if sealed.key_id.startswith(ENCRYPTED):
            return f"{_TEXT_PREFIX}{sealed.key_id}:{base64.b64encode(sealed.body).decode()}"
        return f"{_TEXT_PREFIX}{sealed.key_id}\n{text}"

    def open_text(self, text: str, task_id: str, field: str, *, accept_unsealed: bool = False) -> str:
        """Return the text that was passed to :meth:`seal_text`; with ``accept_unsealed`` also a plain one.

        Raises:
            PayloadError: for the same reasons as :meth:`open`.
        """
        is_unchanged = text.startswith(_UNCHANGED)
        payload = sealed_text(text, task_id, field)
        if payload.key_id or not accept_unsealed:
            payload = self.open(payload, task_id, field)
        opened = payload.body.decode("utf-8", "surrogatepass")
        return opened.removeprefix(_UNCHANGED) if is_unchanged else opened

    def _decrypted(self, payload: Payload, key_id: str, task_id: str, field: str) -> Payload:
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise _missing(f"the {field} of task {task_id} is encrypted", key_id, self._encryption, "ENCRYPTION")
        nonce, sealed = payload.body[:_NONCE_BYTES], payload.body[_NONCE_BYTES:]
        if len(nonce) < _NONCE_BYTES:
            raise _broken(task_id, field, f"it is too short to be encrypted by key {key_id}")
        try:
            body = cipher.decrypt(nonce, sealed, _bound(payload, task_id, field))
        except self._refusals:  # the library gives no reason
            raise _broken(task_id, field, f"key {key_id} does not decrypt it") from None
        return _with(payload, body, "")

    def _verified(self, payload: Payload, rest: str, task_id: str, field: str) -> Payload:
        key_id, _, mac = rest.partition(":")
        key = self._signing.get(key_id)
        if key is None:
            if self._accepts_unsealed:
                # without a key to verify, this process requires no signatures
                return _with(payload, payload.body, "")
            raise _missing(f"the {field} of task {task_id} is signed", key_id, self._signing, "SIGNING")
        if not hmac.compare_digest(_mac(key.secret, payload, task_id, field).encode(), mac.encode()):
            raise _broken(task_id, field, f"its signature is not from key {key_id}")
        return _with(payload, payload.body, "")


def sealed_text(text: str, task_id: str, field: str) -> Payload:
    """Return a stored text as a payload: encrypted, signed or plain.

    Raises:
        SealBroken: it has the prefix of an encrypted or signed text, but is not one.
    """
    if not text.startswith(_TEXT_PREFIX) or text.startswith(_UNCHANGED):
        return _text_payload(_encoded(text))
    found = _SEALED_TEXT.match(text)
    try:
        if found and found[1] and found.end() == len(text):
            return replace(_text_payload(base64.b64decode(found[2], validate=True)), key_id=found[1])
        if found and found[3]:
            return replace(_text_payload(_encoded(text[found.end() :])), key_id=found[3])
    except binascii.Error:
        pass
    raise _broken(task_id, field, "it has the prefix of an encrypted or signed text, but is not one")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text_payload(body: bytes) -> Payload:
    return Payload(body, "text/plain")


def _bound(payload: Payload, task_id: str, field: str) -> bytes:
    """Return the bytes that are authenticated with the body. The length of each part makes them unambiguous."""
    kind, encoding, packed = payload.content_type, payload.content_encoding, payload.compression
    lengths = f"{len(task_id)} {len(field)} {len(kind)} {len(encoding)} {len(packed)}"
    return f"rootcellar 1 {lengths} {task_id}{field}{kind}{encoding}{packed}".encode("utf-8", "surrogatepass")


def _with(payload: Payload, body: bytes, key_id: str) -> Payload:
    return Payload(body, payload.content_type, payload.content_encoding, payload.compression, key_id)


def _mac(secret: bytes, payload: Payload, task_id: str, field: str) -> str:
    bound = _bound(payload, task_id, field)
    return hmac.digest(secret, len(bound).to_bytes(4, "big") + bound + payload.body, "sha256").hex()


def _cipher(secret: bytes) -> Any:
    try:
        # the import is here, because only encryption needs this package
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as exc:
        raise import_failure(
            exc,
            ["cryptography"],
            "the Python package cryptography, which encryption needs,",
            where="ROOTCELLAR_ENCRYPTION_KEYS",
            install="pip install 'rootcellar[encryption]'",
        ) from exc
    return AESGCM(secret)


def _refusals() -> tuple[type[Exception], ...]:
    """Return the exceptions that a cipher raises for data that it did not encrypt."""
    from cryptography.exceptions import InvalidTag

    return InvalidTag, ValueError


def _missing(problem: str, key_id: str, known: Keyring, kind: str) -> KeyMissing:
    there = f"the keys here are {', '.join(known.ids)}" if known else "there are no keys here"
    return KeyMissing(
        f"{problem} under the key {key_id[:64]!a}, and {there}",
        where=f"ROOTCELLAR_{kind}_KEYS",
        remedy="add that key; all keys are used for reading, the first one for writing",
        key_id=key_id,
    )


def _broken(task_id: str, field: str, why: str) -> SealBroken:
    return SealBroken(
        f"the {field} of task {task_id} was altered, or stored for another task or field: {why}",
        remedy="restore the record from a backup, and find out who can write to the store",
    )
