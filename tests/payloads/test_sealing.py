"""An encrypted or signed payload can be read only for its own task and field; errors name the missing key."""

from __future__ import annotations

import base64
import copy
import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context

from rootcellar.errors import ConfigurationError, KeyMissing, RootcellarError, SealBroken, UnsealedRefused
from rootcellar.payloads import ARGS, RESULT, TRACEBACK, Codec, Compressor, codec_of, make_key
from rootcellar.payloads.encryption import Sealer
from rootcellar.payloads.keys import Keyring, read_keys
from rootcellar.records import Payload

OLD, NEW, OTHER = make_key("old"), make_key("new"), make_key("other")
SECRET = "the patient's name"


def sealer(encryption: str = "", signing: str = "", *, accept_unsealed: bool = False) -> Sealer:
    return Sealer(
        read_keys(encryption, "test") if encryption else None,
        read_keys(signing, "test") if signing else None,
        accept_unsealed=accept_unsealed,
    )


def codec(encryption: str = "", signing: str = "", *, accept_unsealed: bool = False, **options: Any) -> Codec:
    return Codec(sealer=sealer(encryption, signing, accept_unsealed=accept_unsealed), **options)


@pytest.fixture(params=["encrypted", "signed"])
def codec_with(request: pytest.FixtureRequest) -> Callable[..., Codec]:
    """Return a function that makes a codec which encrypts, or one which signs, with these keys."""
    kind = "encryption" if request.param == "encrypted" else "signing"
    return lambda keys, **options: codec(**{kind: keys}, **options)


@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml"])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_sealed_value_comes_back(codec_with: Callable[..., Codec], serializer: str, compression: str | None) -> None:
    content = {"json": "application/json", "msgpack": "application/x-msgpack", "yaml": "application/x-yaml"}
    one = codec_with(NEW, serializer=serializer, compressor=Compressor(compression), accept={content[serializer]})
    value = {"name": SECRET, "many": [1, None, "🧊"] * 50}
    stored = one.encode(value, task_id="a")
    assert stored.key_id
    assert one.decode(stored, task_id="a") == value


def test_encrypted_value_is_unreadable_and_differs_each_time() -> None:
    one = codec(NEW)
    first, second = (one.encode(SECRET, task_id="a") for _ in range(2))
    assert SECRET.encode() not in first.body
    assert first.body != second.body
    assert first.key_id == "aes-256-gcm:new"


def test_signed_value_can_be_read_without_keys() -> None:
    stored = codec(signing=NEW).encode({"name": SECRET}, task_id="a")
    assert stored.body == f'{{"name": "{SECRET}"}}'.encode()
    assert stored.key_id.startswith("hmac-sha256:new:")
    assert codec().decode(stored, task_id="a") == {"name": SECRET}, "without keys, nothing is verified"


def test_first_key_encrypts_and_all_keys_decrypt(codec_with: Callable[..., Codec]) -> None:
    stored = codec_with(OLD).encode(SECRET, task_id="a")
    both = codec_with(f"{NEW},{OLD}")
    assert both.decode(stored, task_id="a") == SECRET
    assert both.encode(1, task_id="a").key_id.split(":")[1] == "new"


def test_encryption_goes_before_signing() -> None:
    signed = codec(signing=OLD).encode(1, task_id="a")
    both = codec(encryption=NEW, signing=OLD)
    assert both.encode(1, task_id="a").key_id == "aes-256-gcm:new"
    assert both.decode(signed, task_id="a") == 1


def test_missing_key_is_named(codec_with: Callable[..., Codec]) -> None:
    stored = codec_with(OLD).encode(SECRET, task_id="a")
    with pytest.raises(KeyMissing, match=r"the result of task a is (encrypted|signed) under the key 'old'") as caught:
        codec_with(NEW).decode(stored, task_id="a")
    assert "the keys here are new" in str(caught.value)
    assert caught.value.key_id == "old"
    assert copy.copy(caught.value).key_id == "old", "a copy is made like a pickle"
    with pytest.raises(KeyMissing, match="and there are no keys here"):
        codec().decode(codec(OLD).encode(1, task_id="a"), task_id="a")


def test_other_key_with_the_same_id_is_refused(codec_with: Callable[..., Codec]) -> None:
    stored = codec_with(OLD).encode(SECRET, task_id="a")
    with pytest.raises(SealBroken):
        codec_with(make_key("old")).decode(stored, task_id="a")


HOSTILE: dict[str, Callable[[Payload], Payload]] = {
    "a flipped bit": lambda it: replace(it, body=it.body[:-1] + bytes([it.body[-1] ^ 1])),
    "a flipped bit at first": lambda it: replace(it, body=bytes([it.body[0] ^ 128]) + it.body[1:]),
    "cut short": lambda it: replace(it, body=it.body[:-3]),
    "cut to nothing": lambda it: replace(it, body=b""),
    "cut in the nonce": lambda it: replace(it, body=it.body[:5]),
    "something after it": lambda it: replace(it, body=it.body + b"\x00"),
    "another content type": lambda it: replace(it, content_type="application/x-python-serialize"),
    "another encoding": lambda it: replace(it, content_encoding="latin-1"),
    "a compression": lambda it: replace(it, compression="application/x-gzip"),
    "an unknown algorithm": lambda it: replace(it, key_id="rot13:new"),
    "an id without algorithm": lambda it: replace(it, key_id="new"),
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_altered_payload_is_refused(codec_with: Callable[..., Codec], hostile: str) -> None:
    one = codec_with(NEW)
    stored = one.encode({"name": SECRET}, task_id="a")
    with pytest.raises(SealBroken, match="the result of task a was altered") as caught:
        one.decode(HOSTILE[hostile](stored), task_id="a")
    assert SECRET not in str(caught.value)
    assert not caught.value.retryable


def test_payload_of_another_task_or_field_is_refused(codec_with: Callable[..., Codec]) -> None:
    one = codec_with(NEW)
    stored = one.encode(SECRET, task_id="a", field=RESULT)
    for task_id, field in (("b", RESULT), ("a", ARGS), ("", RESULT), ("aresult", "")):
        with pytest.raises(SealBroken):
            one.decode(stored, task_id=task_id, field=field)


def test_unsealed_value_is_refused_unless_it_is_allowed(codec_with: Callable[..., Codec]) -> None:
    plain = codec().encode(SECRET, task_id="a")
    for disguised in (plain, replace(plain, key_id="")):
        with pytest.raises(UnsealedRefused, match="neither encrypted nor signed") as caught:
            codec_with(NEW).decode(disguised, task_id="a")
    assert "ROOTCELLAR_ACCEPT_UNSEALED" in str(caught.value)
    assert codec_with(NEW, accept_unsealed=True).decode(plain, task_id="a") == SECRET


def test_payload_without_its_signature_is_refused() -> None:
    one = codec(signing=NEW)
    with pytest.raises(UnsealedRefused):
        one.decode(replace(one.encode(SECRET, task_id="a"), key_id=""), task_id="a")


def test_randomly_damaged_payload_is_refused(codec_with: Callable[..., Codec]) -> None:
    source = random.Random(7)
    one = codec_with(NEW)
    stored = one.encode({"name": SECRET}, task_id="a")
    for _ in range(2_000):
        body = bytearray(stored.body)
        for _ in range(source.randrange(1, 4)):
            body[source.randrange(len(body))] ^= 1 << source.randrange(8)
        if bytes(body) != stored.body:
            with pytest.raises(SealBroken):
                one.decode(replace(stored, body=bytes(body)), task_id="a")


TRACEBACKS = [
    "",
    "Traceback (most recent call last):\n  …🧊\x00\ud800",
    "rootcellar:unsealed:\nx",
    "rootcellar:",
    "a" * 10_000,
]


@pytest.mark.parametrize("text", TRACEBACKS, ids=lambda text: repr(text[:20]))
def test_sealed_text_comes_back(text: str) -> None:
    for one in (codec(), codec(NEW)):
        stored = one.encode_text(text, task_id="a")
        assert one.decode_text(stored, task_id="a") == text
    signing = codec(signing=NEW)
    stored = signing.encode_text(text, task_id="a")
    assert stored is not None
    assert stored.encode().decode() == stored, "a database accepts the text"
    found = signing.decode_text(stored, task_id="a")
    assert found == text.replace("\x00", "\\x00").replace("\ud800", "\\ud800")


def test_sealed_text_names_its_algorithm_and_key() -> None:
    encrypted = codec(NEW).encode_text(SECRET, task_id="a")
    assert re.fullmatch(r"rootcellar:aes-256-gcm:new:[\w+/]+=*", str(encrypted))
    signed = codec(signing=NEW).encode_text(SECRET, task_id="a")
    assert re.fullmatch(rf"rootcellar:hmac-sha256:new:[0-9a-f]{{64}}\n{SECRET}", str(signed))


def test_altered_text_is_refused(codec_with: Callable[..., Codec]) -> None:
    one = codec_with(NEW)
    stored = str(one.encode_text(SECRET, task_id="a"))
    for text in (
        stored[:-1],
        stored + "!",
        stored.replace("new", "new ", 1),
        "rootcellar:",
        stored[:40],
        stored + stored,
    ):
        with pytest.raises(SealBroken):
            one.decode_text(text, task_id="a")
    for task_id, field in (("b", TRACEBACK), ("a", RESULT)):
        with pytest.raises(SealBroken):
            one.decode_text(stored, task_id=task_id, field=field)
    for plain in ("Traceback", "rootcellar:unsealed:\nTraceback"):
        with pytest.raises(UnsealedRefused):
            one.decode_text(plain, task_id="a")


# -- keys


def test_key_is_read_in_every_form() -> None:
    raw = bytes(range(32))
    standard, urlsafe = base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()
    for text in (standard, urlsafe, standard.rstrip("="), f" {standard}\n"):
        (key,) = read_keys(text, "test")
        assert key.secret == raw
        assert re.fullmatch("[0-9a-f]{8}", key.key_id), "derived from the key"
    assert read_keys(f"b:{standard},\n a.1:{urlsafe}", "test").ids == ("b", "a.1")
    assert make_key() != make_key()


WRONG_KEYS = ["", " , ", "short", "id:short", f"bad id!:{'A' * 43}=", "A" * 42, f"{NEW},{NEW}", "new:" + "!" * 44]


@pytest.mark.parametrize("text", [*WRONG_KEYS, f"{NEW} hunter2"], ids=lambda text: f"{len(text)} characters")
def test_wrong_key_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_keys(text, "SOMEWHERE")
    assert "SOMEWHERE" in str(caught.value)
    for secret in ("short", "hunter2", NEW.partition(":")[2]):
        assert secret not in str(caught.value)


def test_repr_of_keys_hides_them() -> None:
    keys = read_keys(f"{NEW},{OLD}", "test")
    secrets = [text.partition(":")[2] for text in (NEW, OLD)]
    shown = f"{keys!r} {keys} {list(keys)!r} {sealer(NEW)!r} {codec(NEW).sealer}"
    assert "new" in shown
    for secret, key in zip(secrets, keys, strict=True):
        assert secret not in shown
        assert repr(key.secret) not in shown


# -- sources of keys


def test_keys_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("ROOTCELLAR_ENCRYPTION_KEYS", NEW)
    assert codec_of({}).encode(1, task_id="a").key_id == "aes-256-gcm:new"
    assert codec_of({"result_encryption_keys": OLD}).encode(1, task_id="a").key_id == "aes-256-gcm:old"
    monkeypatch.delenv("ROOTCELLAR_ENCRYPTION_KEYS")
    assert not codec_of({}).encode(1, task_id="a").key_id
    file = tmp_path / "keys.txt"
    file.write_text(f"{OTHER}\n{OLD}\n")
    monkeypatch.setenv("ROOTCELLAR_SIGNING_KEYS_FILE", str(file))
    assert codec_of({}).encode(1, task_id="a").key_id.startswith("hmac-sha256:other:")
    monkeypatch.setenv("ROOTCELLAR_SIGNING_KEYS_FILE", str(tmp_path / "nothing"))
    with pytest.raises(ConfigurationError, match="No such file") as caught:
        codec_of({})
    assert "ROOTCELLAR_SIGNING_KEYS_FILE" in str(caught.value)


@pytest.mark.parametrize("given", [NEW, [NEW, OLD], Keyring(read_keys(NEW, "test"))], ids=["text", "list", "keyring"])
def test_keys_are_read_from_the_configuration(given: Any) -> None:
    assert codec_of({"result_encryption_keys": given}).encode(1, task_id="a").key_id == "aes-256-gcm:new"


def test_keys_in_the_transport_options_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="must not be among the transport options") as caught:
        codec_of({"result_backend_transport_options": {"result_encryption_keys": NEW}})
    assert NEW not in str(caught.value)
    options = {"result_accept_unsealed": True, "result_redact": "pin"}
    codec = codec_of({"result_backend_transport_options": options, "result_encryption_keys": NEW})
    assert codec.decode(Codec().encode({"pin": 1}, task_id="a"), task_id="a") == {"pin": 1}


def test_app_with_keys_stores_nothing_readable(tmp_path: Any) -> None:
    app = Celery(
        "test", set_as_current=False, broker="memory://", backend=f"rootcellar+sqlite:///{tmp_path}/results.db"
    )
    app.conf.update(result_encryption_keys=NEW, result_extended=True)
    request = Context(
        id="a", task="bill", args=[SECRET], kwargs={"to": SECRET}, stamps={"x": SECRET}, stamped_headers=["x"]
    )
    try:
        raise ValueError(SECRET)
    except ValueError as exc:
        app.backend.store_result("a", exc, "FAILURE", traceback=f"Traceback: {SECRET}", request=request)
    app.backend.store_result("b", {"name": SECRET}, "SUCCESS", request=request)
    found = app.AsyncResult("a")
    assert (found.state, found.name, found.args, found.kwargs) == ("FAILURE", "bill", [SECRET], {"to": SECRET})
    assert found.result.args == (SECRET,)
    assert found.traceback == f"Traceback: {SECRET}"
    assert app.backend.get_task_meta("a")["x"] == SECRET
    assert app.AsyncResult("b").get(timeout=0) == {"name": SECRET}
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert SECRET.encode() not in kept
    assert b"ValueError" not in kept, "the exception is encrypted too"
    assert b"bill" in kept, "the name can be searched"
    for text in (repr(app.conf.humanize(with_defaults=False)), repr(app.backend)):
        assert NEW.partition(":")[2] not in text
    app.backend.store.put(replace(app.backend.store.get("b"), task_id="c"))
    with pytest.raises(RootcellarError, match="task c was altered"):
        app.AsyncResult("c").get(timeout=0)
    app.backend.store.close()
