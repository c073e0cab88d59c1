"""The server: its routes, its API's description, and how it starts and stops."""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sim import __version__
from sim.inputs import catalogue
from sim.inputs.offers import catalogue as offers
from sim.page.render import HATCH, asset
from sim.serve.guard import Guard
from sim.serve.requests import BODIES
from sim.serve.workers import Busy, Workers

LIMIT_S = 5.0
_WAITING = 256
#: verbs that take longer, as they simulate hundreds of jobs or read a trace: a process of their own
_SEARCHES, _LONGER, _IN_LINE = ("size", "trace"), 12.0, 8
_RATE = 200.0  # requests a second, in the long run
_UNPACKED = 16 << 20  # of a body that is sent packed: a trace [B]
_OWN = ("live.css", "live.js", "machine.js", "tabs.js", "recorded.js", "fleet.js")
_OF_PAGES = ("page.css", "page.js")
_DEEP = "is nested too deeply"
_SUFFIX = {"css": "text/css", "js": "text/javascript"}


def application(
    token: str, hosts: list[str], workers: int = 1, limit_s: float = LIMIT_S
) -> Starlette:
    """The live page and its API.

    Parameters
    ----------
    token : str
        That a request must carry.
    hosts : list of str
        ``host:port`` that it is served under.
    workers : int
        Processes that simulate.
    limit_s : float
        Longest time of a request; a search has twelve times as long. [s]
    """
    pool = Workers(workers, limit_s, _WAITING)
    searches = Workers(1, _LONGER * limit_s, _IN_LINE)  # started by the first: no slider waits

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await pool.start()
        try:
            yield
        finally:
            await pool.stop()
            await searches.stop()

    async def ask(request: Request) -> Response:
        verb = request.path_params["verb"]
        if verb not in BODIES:
            return _fault(404, f"no such verb; there are {', '.join(BODIES)}")
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return _fault(415, "send application/json")
        try:
            text = _unpacked(await request.body(), request.headers.get("content-encoding"))
            body = json.loads(text)
        except Overlong:
            return _fault(413, f"more than {_UNPACKED >> 20} MiB when unpacked")
        except RecursionError:
            return _fault(400, _DEEP)
        except ValueError:
            return _fault(400, "is not JSON, plain or packed by gzip")
        if not isinstance(body, dict):
            return _fault(400, "is no JSON object")
        try:
            lane = searches if verb in _SEARCHES else pool
            status, found = await lane.ask(verb, body)
        except Busy:
            return _fault(503, "busy; ask again in a second")
        except RecursionError:  # on its way to the worker, which has not got it
            return _fault(400, _DEEP)
        return Response(found, status, media_type="application/json")

    return Starlette(
        routes=[
            Route("/", _page),
            Route("/assets/{name}", _asset),
            Route("/api/catalogue", _catalogue),
            Route("/api/openapi.json", _openapi),
            Route("/api/{verb}", ask, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, token=token, hosts=hosts, rate=_RATE)],
        exception_handlers={HTTPException: _nothing},
        lifespan=lifespan,
    )


class Overlong(Exception):
    """A body that unpacks to more than may be."""


def _unpacked(body: bytes, coding: str | None) -> bytes:
    """A body as it was before it was packed.

    Raises
    ------
    Overlong
        It would be longer than `_UNPACKED`.
    ValueError
        It is packed in another way, or broken.
    """
    if coding is None:
        return body
    if coding.strip().lower() != "gzip":
        raise ValueError(coding)
    packed = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        found = packed.decompress(body, _UNPACKED)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if packed.unconsumed_tail:
        raise Overlong
    if not packed.eof:
        message = "ends too early"
        raise ValueError(message)
    return found


async def _nothing(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _fault(status, "there is nothing here" if status == 404 else "is not to be had so")


def _fault(status: int, text: str) -> Response:
    return JSONResponse({"faults": [{"path": "", "message": text}]}, status)


async def _page(request: Request) -> Response:
    text = _own("live.html").replace("<!-- hatch -->", HATCH)
    return Response(text, media_type="text/html")


async def _asset(request: Request) -> Response:
    """One of a handful of names; nothing is looked for."""
    name = request.path_params["name"]
    if name not in (*_OWN, *_OF_PAGES):
        return _fault(404, "no such file")
    text = _own(name) if name in _OWN else asset(name)
    return Response(text, media_type=_SUFFIX[name.rpartition(".")[2]])


def _own(name: str) -> str:
    return (files("sim.serve") / "assets" / name).read_text(encoding="utf-8")


async def _catalogue(request: Request) -> Response:
    found = {kind: catalogue.names(kind) for kind in ("topologies", "workloads")}
    return JSONResponse(found | {"providers": sorted({row.provider for row in offers(None)})})


async def _openapi(request: Request) -> Response:
    return JSONResponse(openapi())


def openapi() -> dict[str, Any]:
    """The API as OpenAPI 3.1: a POST a verb, bodies as they are checked."""
    answers = {
        "200": {"description": "the verb's document, and parts of the page that show it"},
        "422": {"description": "faults of the input: path, message, line, column"},
        "503": {"description": "took too long, or too many wait"},
    }
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {
        "/api/catalogue": {"get": {"summary": "Shipped machines and jobs, and who rents.",
                                   "responses": {"200": {"description": "their names"}}}},
    }  # fmt: skip
    for verb, body in BODIES.items():
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[body.__name__] = schema
        content = {
            "application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}
        }
        paths[f"/api/{verb}"] = {
            "post": {
                "summary": (body.__doc__ or "").splitlines()[0],
                "requestBody": {"required": True, "content": content},
                "responses": answers,
            }
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "scaling-sim", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }
