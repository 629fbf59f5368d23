"""Write a policy for holm in Python. README.md beside this file shows one.

The types of the contract come from `wit_world`, which componentize-py makes of wit/policy.wit.
"""

import json
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any

from componentize_py_types import Err
from wit_world.exports.plugin import Experiment, Manifest
from wit_world.imports.facts import Fault, Input


class Hook(Enum):
    """A hook, under the contract's name for it."""

    KEY = "key"
    FEATURES = "features"
    ADMIT = "admit"
    ROUTE = "route"
    BATCH = "batch"
    PREFETCH = "prefetch"


TENANT = "holm:tenant"
"""The feature that names the tenant which a request's items are served for, instead of what the route says."""

TENANT_WEIGHT = "holm:tenant-weight"
"""The feature that says what the tenant counts for beside others, 1 to 1,000, instead of what the route gives it."""


def _words(kind: str, *arguments: object) -> Input:
    return Input(kind, [str(argument) for argument in arguments])


class input:
    """The inputs of hooks: the kinds of `input` in wit/policy.wit, each with its arguments."""

    method = _words("method")
    scheme = _words("scheme")
    authority = _words("authority")
    path = _words("path")
    query_all = _words("query-all")
    client_region = _words("client-region")
    node_region = _words("node-region")
    body_digest = _words("body-digest")
    body_length = _words("body-length")
    response_status = _words("response-status")
    response_length = _words("response-length")

    @staticmethod
    def query(name: str) -> Input:
        return _words("query", name)

    @staticmethod
    def header(name: str) -> Input:
        return _words("header", name)

    @staticmethod
    def cookie(name: str) -> Input:
        return _words("cookie", name)

    @staticmethod
    def client_prefix(bits: int) -> Input:
        return _words("client-prefix", bits)

    @staticmethod
    def body_json(pointer: str) -> Input:
        return _words("body-json", pointer)

    @staticmethod
    def body_prefix(length: int) -> Input:
        return _words("body-prefix", length)

    @staticmethod
    def body_tokens(pointer: str, encoding: str) -> Input:
        """The encoding is `cl100k-base` or `o200k-base`."""
        return _words("body-tokens", pointer, encoding)

    @staticmethod
    def feature(name: str) -> Input:
        return _words("feature", name)

    @staticmethod
    def arm(experiment: str) -> Input:
        return _words("arm", experiment)

    @staticmethod
    def response_header(name: str) -> Input:
        return _words("response-header", name)

    @staticmethod
    def fetch_us(step: int) -> Input:
        return _words("fetch-us", step)

    @staticmethod
    def clock(step: int) -> Input:
        return _words("clock", step)

    @staticmethod
    def pool_stats(pool: str) -> Input:
        return _words("pool-stats", pool)


def fault(code: int, detail: str) -> Err:
    """A policy's own error: `raise fault(7, "words")`."""
    return Err(Fault(code, detail))


class Table:
    """The operator's table, field by field. One that isn't taken is refused: a misspelt name is no silent default."""

    def __init__(self, fields: dict[str, Any]):
        self._fields = dict(fields)

    def take(self, name: str, absent: Any = None) -> Any:
        """Takes a field out, whatever it is."""
        return self._fields.pop(name, absent)

    def text(self, name: str, absent: Any = None) -> Any:
        return self._typed(name, absent, "a string", _is_text)

    def flag(self, name: str, absent: Any = None) -> Any:
        return self._typed(name, absent, "true or false", lambda value: isinstance(value, bool))

    def number(self, name: str, absent: Any = None) -> Any:
        return self._typed(name, absent, "a number", _is_number)

    def texts(self, name: str, absent: Any = None) -> Any:
        return self._typed(name, absent, "a list of strings", _are_texts)

    def finish(self) -> None:
        """Ends the reading; `Policy` does it for the whole table."""
        for name in self._fields:
            raise fault(1, f'unknown field "{name}"')

    def _typed(self, name: str, absent: Any, what: str, fits: Callable[[Any], bool]) -> Any:
        if name not in self._fields:
            return absent
        value = self._fields.pop(name)
        if not fits(value):
            raise fault(1, f'"{name}" isn\'t {what}')
        return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    # To Python, True is an int.
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def text(value: bytes | None) -> str:
    """A value as text: UTF-8, with U+FFFD for what isn't. A missing value is the empty text."""
    return (value or b"").decode("utf-8", "replace")


def slot(value: bytes | None) -> bytes:
    """A value as a part of a key, so that a missing one stays apart from an empty one."""
    return b"\0" if value is None else b"\1" + value


class Policy:
    """A policy: a class with this as its base, and a method for each hook under the contract's name for it.

    `plan` and `derive` are `key`, `extract` is `features`, `decide` is `admit`, `choose` is `route`, `classify` is
    `batch`, `suggest` is `prefetch`.
    """

    name: str
    version: str
    experiments: list[Experiment] = []

    def configure(self, table: Table) -> None:
        """Takes the operator's settings."""

    def reads(self) -> dict[Hook, list[Input]]:
        """Returns the inputs of each hook. Called after `configure`."""
        return {}


# The functions of each hook beside `reads`.
METHODS = {
    Hook.KEY: ("plan", "derive"),
    Hook.FEATURES: ("extract",),
    Hook.ADMIT: ("decide",),
    Hook.ROUTE: ("choose",),
    Hook.BATCH: ("classify",),
    Hook.PREFETCH: ("suggest",),
}


class _Plugin:
    """The functions of `plugin`."""

    def __init__(self, policy: Policy):
        self._policy = policy
        self.configure = _guarded(self._configured)

    def _configured(self, config: str) -> Manifest:
        policy = self._policy
        table = Table(json.loads(config))
        policy.configure(table)
        table.finish()
        return Manifest(policy.name, policy.version, policy.experiments)


class _Hook:
    """The functions of a hook."""

    def __init__(self, policy: Policy, hook: Hook):
        self._policy = policy
        self._hook = hook
        self.reads = _guarded(self._reads)
        for name in METHODS[hook]:
            setattr(self, name, _guarded(partial(self._call, name)))

    def _call(self, name: str, *values: Any) -> Any:
        return getattr(self._policy, name)(*values)

    def _reads(self) -> list[Input]:
        inputs = self._policy.reads().get(self._hook)
        if inputs is None:
            raise fault(1, "reads() has no list for it, which is empty if it reads nothing")
        return inputs


def exported(policy: Policy, *hooks: Hook) -> list[Callable[[], Any]]:
    """Returns what a module binds to the names of the interfaces that it exports, `Plugin` first and then these hooks:
    `Plugin, Key = exported(Mine(), Hook.KEY)`.

    componentize-py calls each name once; all of them are about the same policy, so they share what `configure` left.
    """
    made = [_Plugin(policy), *(_Hook(policy, hook) for hook in hooks)]
    return [partial(_itself, one) for one in made]


def _itself(made: Any) -> Any:
    return made


def _guarded(run: Callable[..., Any]) -> Callable[..., Any]:
    """Any other exception would end the instance without a word, so it becomes a fault that tells what and where."""

    def guarded(*values: Any) -> Any:
        try:
            return run(*values)
        except Err:
            raise
        except Exception as error:
            raise fault(0, f"{type(error).__name__}: {error} ({_where(error)})") from None

    return guarded


def _where(error: Exception) -> str:
    # The module `traceback` would read the source, and there are no files.
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return "?" if at is None else f"{at.tb_frame.f_code.co_filename.rpartition('/')[2]}:{at.tb_lineno}"
