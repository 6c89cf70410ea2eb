"""Payloads encrypted or signed, bound to their task and field.

Encrypted: AES-256-GCM with a random nonce of 96 bits before the ciphertext. Signed: HMAC-SHA256, the body as it was.
What is authenticated beside the body is the task's id, the field, and how the body is to be decoded: a payload
that is moved to another task or field, or said to be of another type, is refused.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from dataclasses import replace
from typing import Any

from rootcellar.errors import KeyMissing, SealBroken, UnsealedRefused
from rootcellar.payloads.keys import Keyring
from rootcellar.records import ENCRYPTED, SIGNED, Payload
from rootcellar.support.imports import import_failure

_NONCE = 12
#: what begins a sealed text
_TEXT = "rootcellar:"
_SEALED_TEXT = re.compile(r"rootcellar:(?:(aes-256-gcm:[^:\s]+):([A-Za-z0-9+/=]*)|(hmac-sha256:[^:\s]+:[0-9a-f]+)\n)")
_UNCHANGED = "rootcellar:unsealed:\n"


class Sealing:
    """Encrypts or signs, opens and verifies. With no key it seals nothing and opens what is not sealed.

    Args:
        encryption: keys that encrypt; the first one writes.
        signing: keys that sign, where there is none that encrypts; all of them verify.
        accept_unsealed: whether what is neither encrypted nor signed may be read though there are keys.
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
        return f"<Sealing: encryption {self._encryption!r}, signing {self._signing!r}>"

    @property
    def accepts_unsealed(self) -> bool:
        """Whether what is neither encrypted nor signed may be read."""
        return self._accepts_unsealed

    @property
    def writes_as(self) -> str:
        """What the ``key_id`` of a new payload begins with; empty where nothing is sealed."""
        if self._encryption:
            return ENCRYPTED + self._encryption.first.key_id
        return f"{SIGNED}{self._signing.first.key_id}:" if self._signing else ""

    def seal(self, payload: Payload, task_id: str, field: str) -> Payload:
        """Return ``payload`` encrypted or signed for a field of a task."""
        if not self.is_on:
            return payload
        if self._encryption:
            key_id = self._encryption.first.key_id
            nonce = os.urandom(_NONCE)
            sealed = self._ciphers[key_id].encrypt(nonce, payload.body, _bound(payload, task_id, field))
            return _with(payload, nonce + sealed, ENCRYPTED + key_id)
        key = self._signing.first
        return _with(payload, payload.body, f"{SIGNED}{key.key_id}:{_mac(key.secret, payload, task_id, field)}")

    def open(self, payload: Payload, task_id: str, field: str) -> Payload:
        """Return what :meth:`seal` was given for the same field of the same task.

        Raises:
            KeyMissing: the key that sealed it is not here.
            SealBroken: it was sealed for another task or field, or altered.
            UnsealedRefused: it is not sealed.
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
        raise _broken(task_id, field, f"it is said to be sealed by {algorithm[:40]!a}")

    def seal_text(self, text: str, task_id: str, field: str) -> str:
        """Return a text as it lies in a column of text: sealed, or as it is."""
        if not self.is_on:
            return _UNCHANGED + text if text.startswith(_TEXT) else text
        if not self._encryption:
            # signed as a server will hand it back
            text = text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
        sealed = self.seal(_text_payload(_encoded(text)), task_id, field)
        if sealed.key_id.startswith(ENCRYPTED):
            return f"{_TEXT}{sealed.key_id}:{base64.b64encode(sealed.body).decode()}"
        return f"{_TEXT}{sealed.key_id}\n{text}"

    def open_text(self, text: str, task_id: str, field: str, *, accept_unsealed: bool = False) -> str:
        """Return the text that :meth:`seal_text` was given; with ``accept_unsealed`` also one that is not sealed.

        Raises:
            PayloadError: as :meth:`open` does.
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
        nonce, sealed = payload.body[:_NONCE], payload.body[_NONCE:]
        if len(nonce) < _NONCE:
            raise _broken(task_id, field, f"it is too short for anything that key {key_id} encrypted")
        try:
            body = cipher.decrypt(nonce, sealed, _bound(payload, task_id, field))
        except self._refusals:  # the library says no more than that it does not fit
            raise _broken(task_id, field, f"it does not open under key {key_id}") from None
        return _with(payload, body, "")

    def _verified(self, payload: Payload, rest: str, task_id: str, field: str) -> Payload:
        key_id, _, mac = rest.partition(":")
        key = self._signing.get(key_id)
        if key is None:
            if self._accepts_unsealed:
                # whoever has no key to verify with asked for no signatures
                return _with(payload, payload.body, "")
            raise _missing(f"the {field} of task {task_id} is signed", key_id, self._signing, "SIGNING")
        if not hmac.compare_digest(_mac(key.secret, payload, task_id, field).encode(), mac.encode()):
            raise _broken(task_id, field, f"its signature is not of key {key_id}")
        return _with(payload, payload.body, "")


def sealed_text(text: str, task_id: str, field: str) -> Payload:
    """Return a stored text as the payload that it is: sealed, or as it is.

    Raises:
        SealBroken: it begins as a sealed one and is none.
    """
    if not text.startswith(_TEXT) or text.startswith(_UNCHANGED):
        return _text_payload(_encoded(text))
    found = _SEALED_TEXT.match(text)
    try:
        if found and found[1] and found.end() == len(text):
            return replace(_text_payload(base64.b64decode(found[2], validate=True)), key_id=found[1])
        if found and found[3]:
            return replace(_text_payload(_encoded(text[found.end() :])), key_id=found[3])
    except binascii.Error:
        pass
    raise _broken(task_id, field, "it begins as a sealed text and is none")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text_payload(body: bytes) -> Payload:
    return Payload(body, "text/plain")


def _bound(payload: Payload, task_id: str, field: str) -> bytes:
    """Return what is authenticated beside the body, with the length of each part, so that none runs into the next."""
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
        # imported late: who does not encrypt need not have it
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
    """Return what a cipher raises of what it did not encrypt."""
    from cryptography.exceptions import InvalidTag

    return InvalidTag, ValueError


def _missing(what: str, key_id: str, known: Keyring, kind: str) -> KeyMissing:
    there = f"here are {', '.join(known.ids)}" if known else "here is none"
    return KeyMissing(
        f"{what} under the key {key_id[:64]!a}, and {there}",
        where=f"ROOTCELLAR_{kind}_KEYS",
        remedy="add that key; all of them read, the first one writes",
        key_id=key_id,
    )


def _broken(task_id: str, field: str, why: str) -> SealBroken:
    return SealBroken(
        f"the {field} of task {task_id} was altered, or stored for another task or field: {why}",
        remedy="restore the record from a backup, and find out who can write to the store",
    )
