"""Objects of an application's own classes: dataclasses, attrs, pydantic models and enums.

A stored object contains the name of its class, and anybody who can write to the store can choose this name. So there
are these rules. Only a class of exactly the stored kind is called. It must be in a module that is loaded already, or
that the settings allow. It is searched in the modules' ``__dict__``, which runs no code. And its constructor gets
values for the declared fields only.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rootcellar.errors import TypeRefused
from rootcellar.payloads.typed.unstorable import Unstorable
from rootcellar.support.interruptions import raise_interruption

_REGISTER = "give it to rootcellar.register_type"


class Classes:
    """Finds the classes of stored objects.

    Args:
        modules: the modules and packages whose classes are allowed, and which are imported if needed; ``None``
            allows every module that is loaded already, and imports none.
    """

    def __init__(self, modules: Iterable[str] | None = None) -> None:
        self._modules = None if modules is None else tuple(modules)

    def find(self, kind: str, name: Any) -> type:
        """Return the class of the name ``name``, such as ``shop.models:Order``.

        Raises:
            TypeRefused: it does not exist, is of another kind, or is not allowed.
        """
        module_name, _, qualified = name.partition(":") if isinstance(name, str) else ("", "", "")
        found: Any = self._module(module_name, name)
        for part in qualified.split("."):
            # getattr is not used, because the search must not run code
            space = found.__dict__ if found is not None and isinstance(found, (type, type(sys))) else {}
            found = space.get(part)
        if not isinstance(found, type) or not KINDS[kind].is_one(found):
            raise TypeRefused(
                f"a stored result names {_shown(name)}, which is no {KINDS[kind].title} here",
                remedy="check whether the class was renamed or moved; if it never existed, the row was manipulated",
            )
        return found

    def _module(self, module_name: str, name: Any) -> Any:
        if self._modules is not None and not any(
            module_name == allowed or module_name.startswith(f"{allowed}.") for allowed in self._modules
        ):
            raise TypeRefused(
                f"a stored result names {_shown(name)}, whose module is not allowed",
                where="result_type_modules",
                remedy="add its module there if you trust it",
            )
        if module_name in sys.modules:
            return sys.modules[module_name]
        if self._modules is None:
            raise TypeRefused(
                f"a stored result names {_shown(name)}, whose module is not loaded",
                where="result_type_modules",
                remedy="import its module before you read the result, or name it in result_type_modules",
            )
        try:
            return importlib.import_module(module_name)
        except Exception as exc:  # a module's own code may raise any exception
            raise_interruption(exc)
            raise TypeRefused(
                f"a stored result names {_shown(name)}, whose module cannot be imported: {exc!r}",
                remedy="install or repair the module",
            ) from exc


class Kind(ABC):
    """A kind of class."""

    title: str

    @abstractmethod
    def is_one(self, cls: type) -> bool:
        """Return True if ``cls`` itself is of this kind, not only one of its bases."""

    def check(self, cls: type) -> None:  # noqa: B027 - most kinds have nothing to refuse
        """Raise :class:`Unstorable` if objects of ``cls`` could not be created again from their stored form."""


class FieldsKind(Kind):
    """A kind of class whose objects are stored as fields."""

    @abstractmethod
    def fields(self, value: Any) -> dict[str, Any]:
        """Return the values of the fields."""

    @abstractmethod
    def make(self, cls: Any, fields: Mapping[str, Any]) -> Any:
        """Return an object of ``cls``."""


class _Dataclass(FieldsKind):
    title = "dataclass"

    def is_one(self, cls: type) -> bool:
        return "__dataclass_fields__" in cls.__dict__

    def check(self, cls: type) -> None:
        _check_constructor(cls, {field.name for field in dataclasses.fields(cls) if field.init})

    def fields(self, value: Any) -> dict[str, Any]:
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}

    def make(self, cls: Any, fields: Mapping[str, Any]) -> Any:
        return _make(
            cls, fields, {field.name: (field.name if field.init else None) for field in dataclasses.fields(cls)}
        )


class _Attrs(FieldsKind):
    title = "attrs class"

    def is_one(self, cls: type) -> bool:
        return "__attrs_attrs__" in cls.__dict__

    def check(self, cls: Any) -> None:
        _check_constructor(cls, {_alias(field) for field in cls.__attrs_attrs__ if field.init})

    def fields(self, value: Any) -> dict[str, Any]:
        return {field.name: getattr(value, field.name) for field in type(value).__attrs_attrs__}

    def make(self, cls: Any, fields: Mapping[str, Any]) -> Any:
        return _make(
            cls, fields, {field.name: (_alias(field) if field.init else None) for field in cls.__attrs_attrs__}
        )


class _Pydantic(FieldsKind):
    title = "pydantic model"

    def is_one(self, cls: type) -> bool:
        pydantic = sys.modules.get("pydantic")
        is_model = pydantic is not None and issubclass(cls, pydantic.BaseModel) and cls is not pydantic.BaseModel
        return is_model and hasattr(cls, "model_fields")

    def fields(self, value: Any) -> dict[str, Any]:
        own = {name: value.__dict__[name] for name in type(value).model_fields if name in value.__dict__}
        return {**own, **(value.__pydantic_extra__ or {})}

    def make(self, cls: Any, fields: Mapping[str, Any]) -> Any:
        if cls.model_config.get("extra") != "allow":
            _refuse_unknown(cls, fields, cls.model_fields)
        given = {_pydantic_alias(cls, name): value for name, value in fields.items()}
        if cls.__pydantic_root_model__:
            return cls.model_validate(fields["root"])
        return cls.model_validate(given)


class _Enum(Kind):
    title = "enum"

    def is_one(self, cls: type) -> bool:
        return issubclass(cls, enum.Enum)


WITH_FIELDS: dict[str, FieldsKind] = {"dataclass": _Dataclass(), "attrs": _Attrs(), "pydantic": _Pydantic()}
KINDS: dict[str, Kind] = {**WITH_FIELDS, "enum": _Enum()}


def kind_of(cls: type) -> str | None:
    """Return the name of the kind of ``cls``, or ``None`` if it is of no kind.

    Raises:
        Unstorable: it is of a kind, but could not be found or created again.
    """
    name = next((name for name, kind in KINDS.items() if kind.is_one(cls)), None)
    if name is None:
        return None
    try:
        found = Classes().find(name, class_name(cls))
    except TypeRefused:
        found = None
    if found is not cls:
        raise Unstorable(
            f"is a {cls.__module__}.{cls.__qualname__}, which no reader could find by that name",
            f"move the class to the top of its module, or {_REGISTER}",
        )
    KINDS[name].check(cls)
    return name


def class_name(cls: type) -> str:
    """Return the stored name of a class."""
    return f"{cls.__module__}:{cls.__qualname__}"


def _make(cls: Any, fields: Mapping[str, Any], arguments: Mapping[str, str | None]) -> Any:
    """Call ``cls`` with the fields that its constructor accepts, and set the other fields."""
    _refuse_unknown(cls, fields, arguments)
    taken = {argument: fields[name] for name, argument in arguments.items() if argument and name in fields}
    made = cls(**taken)
    for name, argument in arguments.items():
        if argument is None and name in fields:
            object.__setattr__(made, name, fields[name])
    return made


def _refuse_unknown(cls: type, fields: Mapping[str, Any], known: Iterable[str]) -> None:
    unknown = sorted(set(fields).difference(known))
    if unknown:
        raise TypeRefused(
            f"a stored {class_name(cls)} has fields that the class does not have: {', '.join(map(repr, unknown[:5]))}",
            remedy="add the field to the class again, or read the row as plain JSON",
        )


def _check_constructor(cls: type, arguments: set[str]) -> None:
    """Refuse a class whose constructor has other parameters than its fields, such as an ``InitVar``."""
    parameters = inspect.signature(cls).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    by_name = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if by_name - arguments or (arguments - by_name and not takes_any):
        raise Unstorable(
            f"is a {cls.__module__}.{cls.__qualname__}, whose constructor takes other arguments than its fields",
            _REGISTER,
        )


def _alias(field: Any) -> str:
    # attrs before 22.2 has no alias
    return str(getattr(field, "alias", None) or field.name.lstrip("_"))


def _pydantic_alias(cls: Any, name: str) -> str:
    """Return the name of a field in a model's constructor."""
    field = cls.model_fields.get(name)
    if field is None or cls.model_config.get("populate_by_name") or cls.model_config.get("validate_by_name"):
        return name
    alias = field.validation_alias or field.alias
    if alias is None or isinstance(alias, str):
        return alias or name
    choices: Callable[[], list[list[Any]]] = getattr(alias, "convert_to_aliases", lambda: [])
    return next((path[0] for path in choices() if len(path) == 1), name)


def _shown(name: Any) -> str:
    return repr(name)[:100]
