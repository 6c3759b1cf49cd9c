"""The application of ``app=``: its overrides, its lifespan, and the request that its providers get.

The caller imports it to plan; each worker imports it again, by its name, when a lifespan is entered.
"""

from __future__ import annotations

import importlib
import inspect
import operator
from collections import ChainMap
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AsyncExitStack
from contextvars import ContextVar
from typing import Any, NoReturn

from starlette.requests import Request

from poolinject.errors import PlanError, PoolInjectError
from poolinject.markers import Depends, Provider

OF_THE_APP = ("app", "scope", "state")  # what a request has without a client that sent it
ONLY_SENT = frozenset(name for name in dir(Request) if not name.startswith("_")) - {
    *OF_THE_APP,
    *dir(Mapping),
}
_starting: ContextVar[str | None] = ContextVar("_starting", default=None)  # whose lifespan is being entered here


class Application:
    """An application by its name, imported in this process, and the providers that stand for it in plans.

    Attributes:
        lifespan: Enters the lifespan; to be shared, with lifetime ``pool``.
        request: Makes a request of the application; another one for each item, as for each call of a route.

    Raises:
        ValueError, TypeError: If the name does not lead to an application.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._app = load_application(name)
        self.lifespan = Depends(Lifespan(name), lifetime="pool")
        self.request = Depends(RequestProvider(self.lifespan))

    @property
    def module(self) -> str:
        """The name of the module that it is in."""
        return self.name.partition(":")[0]

    def overrides_below(self, given: Mapping[Provider, Provider]) -> Mapping[Provider, Provider]:
        """Give the ``dependency_overrides`` with those that were *given* over them, both as they are when read."""
        return _Overrides(given, self._app)

    def refuse_in_lifespan(self, path: tuple[str, ...]) -> None:
        """Refuse to plan what enters the lifespan in code that the same lifespan runs: it would never end.

        Raises:
            PlanError: If this is such code.
        """
        if _starting.get() == self.name:
            raise PlanError(
                path,
                f"the lifespan of {self.name} uses a pool or resolver with app={self.name!r}, which would enter it "
                "again, without end",
                "Use it after the start-up of the application, and leave out warm=",
            )


class _Overrides(Mapping[Provider, Provider]):
    def __init__(self, given: Mapping[Provider, Provider], app: Any) -> None:
        self._given, self._app = given, app

    def _now(self) -> Mapping[Provider, Provider]:
        return ChainMap(self._given, getattr(self._app, "dependency_overrides", {}))  # type: ignore[arg-type]

    def __getitem__(self, provider: Provider) -> Provider:
        return self._now()[provider]

    def __iter__(self) -> Iterator[Provider]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())


class Lifespan:
    """The provider that enters the lifespan of an application, and gives what its requests are made of."""

    def __init__(self, application: str) -> None:
        self.application = application
        self.__qualname__ = f"lifespan of {application}"  # the name in errors and plans

    async def __call__(self) -> AsyncGenerator[dict[str, Any]]:
        """Run the start-up, and after the ``yield`` the shutdown."""
        app = load_application(self.application)
        async with AsyncExitStack() as stack:
            token = _starting.set(self.application)
            try:
                state = await stack.enter_async_context(app.router.lifespan_context(app))
            finally:
                _starting.reset(token)
            yield {"type": "http", "app": app, "state": dict(state or {})}


class RequestProvider:
    """The provider that makes requests of an application, each with a copy of what the lifespan yielded."""

    def __init__(self, lifespan: Depends) -> None:
        self._lifespan = lifespan
        self.__qualname__ = "Request"

    @property
    def __signature__(self) -> inspect.Signature:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return inspect.Signature([inspect.Parameter("lifespan", kind, default=self._lifespan)])

    def __call__(self, lifespan: Mapping[str, Any]) -> Request:
        """Make one."""
        return PoolRequest(_Scope(lifespan, state=lifespan["state"].copy()))


class PoolRequest(Request):
    """A request that nobody sent: it has ``app`` and ``state``, and refuses what only a client could give."""

    def __getattribute__(self, name: str) -> Any:
        if name in ONLY_SENT:
            _refuse(f"request.{name}")
        return super().__getattribute__(name)


class _Scope(dict[str, Any]):
    def __missing__(self, key: str) -> NoReturn:
        _refuse(f"request.scope[{key!r}]")


def _refuse(what: str) -> NoReturn:
    message = (
        f"{what}: there is no web request in a pool; a Request there only leads to the application: request.app and "
        "request.state. Override the provider that needs more"
    )
    raise PoolInjectError(message)


def load_application(name: Any) -> Any:
    """Import an application by its name, ``"package.module:attribute"``.

    Raises:
        ValueError, TypeError: If the name does not lead to one; the text says what to change.
    """
    if not isinstance(name, str):
        message = f"app must be a name, 'package.module:attribute', which each worker imports, not {name!r}"
        raise TypeError(message)
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        message = f"app={name!r} must be 'package.module:attribute', as uvicorn takes it"
        raise ValueError(message)
    try:
        imported = importlib.import_module(module)
    except Exception as error:
        message = (
            f"app={name!r}: importing {module} raised {type(error).__name__}: {error}. Make 'import {module}' work, "
            "for example with its directory in PYTHONPATH"
        )
        raise ValueError(message) from error
    try:
        app = operator.attrgetter(attribute)(imported)
    except AttributeError:
        message = (
            f"app={name!r}: module {module} has no attribute {attribute!r}. Name the variable that holds the "
            "application; while its module is still being imported it may not be there yet"
        )
        raise ValueError(message) from None
    if not (hasattr(app, "state") and hasattr(getattr(app, "router", None), "lifespan_context")):
        message = (
            f"app={name!r} is a {type(app).__name__}, not a FastAPI or Starlette application. Name the application "
            "itself, not what makes it or is wrapped around it"
        )
        raise TypeError(message)
    return app
