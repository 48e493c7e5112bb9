"""The server's interface for programs and people: OpenAPI for HTTP, AsyncAPI for the WebSockets."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from aiohttp import web

from streamser.events import EVENT_VERSION
from streamser.server.export import EXPORT_FORMATS, media_type
from streamser.server.protocol import MAX_STREAM_NAME

Json = dict[str, Any]

_REFUSALS = {
    400: "The request is not valid; the message names the error.",
    401: "The server needs a token, and the request has none or a wrong one.",
    403: "The Host or the Origin of the request is not this server's.",
    404: "There is nothing at this address, or no checkpoint of this name.",
    408: "The body stopped, or arrived too slowly.",
    413: "The body, or the audio in it, is larger than the limit of the server.",
    415: "The body is not a readable audio file.",
    422: "The audio is damaged, or the events do not fit the format.",
    501: "This server lacks a needed extra; the message names it.",
    503: "The server is busy, is being stopped or cannot do its work; try again later.",
}
_EVENT = {"$ref": "#/components/schemas/Event"}
_PROBLEM = {"schema": {"$ref": "#/components/schemas/Refusal"}}
_TOKEN: list[Json] = [{}, {"bearer": []}, {"query": []}]


def routes(version: str) -> list[web.RouteDef]:
    """/openapi.json and /asyncapi.json; they contain no secret."""

    async def openapi(_: web.Request) -> web.Response:
        return web.json_response(openapi_document(version))

    async def asyncapi(_: web.Request) -> web.Response:
        return web.json_response(asyncapi_document(version))

    return [web.get("/openapi.json", openapi), web.get("/asyncapi.json", asyncapi)]


@cache
def openapi_document(version: str) -> Json:
    """The HTTP addresses, as OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "streamser",
            "version": version,
            "summary": "Speech emotion recognition on your own machine.",
            "description": "Nothing leaves the machine, and no audio is stored unless the server was started with "
            "--record. The WebSockets are described in /asyncapi.json.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "This server."}],
        "paths": _paths(),
        "components": {
            "schemas": {**_shared_schemas(), **_own_schemas()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "Only if the server needs a token."},
                "query": {"type": "apiKey", "in": "query", "name": "token"},
            },
        },
    }


def _paths() -> Json:
    name: Json = {"type": "string", "minLength": 1, "maxLength": MAX_STREAM_NAME, "pattern": "^[!-~]+$"}
    return {
        "/v1/label": {
            "post": {
                "operationId": "label",
                "summary": "Recognize a whole audio file",
                "description": "WAV, FLAC, Ogg or MP3, with a sample rate from 4 to 192 kHz and up to 32 channels.",
                "security": _TOKEN,
                "parameters": [
                    _query("stream", "The stream's name in the events.", {**name, "default": "file"}),
                    _query("partials", "Whether to return partial results too.", {"type": "boolean", "default": False}),
                    _query("model", "The name of an installed checkpoint; without it, the server's own is used.", name),
                ],
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/octet-stream": {"schema": {}},
                        "multipart/form-data": {
                            "schema": {
                                "type": "object",
                                "properties": {"file": {"type": "string", "contentMediaType": "audio/wav"}},
                                "required": ["file"],
                            }
                        },
                    },
                },
                "responses": _responses("Labelled", 400, 401, 403, 404, 408, 413, 415, 422, 503),
            }
        },
        "/v1/export": {
            "post": {
                "operationId": "export",
                "summary": "Write events as a file for another program",
                "security": _TOKEN,
                "parameters": [
                    _query("format", "The format of the file.", {"enum": list(EXPORT_FORMATS)}, required=True)
                ],
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/x-ndjson": {"schema": {"type": "string", "description": "One event per line."}}
                    },
                },
                "responses": {
                    "200": {
                        "description": "The file.",
                        "content": {media_type(each): {} for each in EXPORT_FORMATS},
                    },
                    **_refusals(400, 401, 403, 408, 413, 422, 501, 503),
                },
            }
        },
        "/v1/models": {
            "get": {
                "operationId": "models",
                "summary": "The checkpoint in use, and all that a request can name",
                "security": _TOKEN,
                "responses": _responses("Models", 401, 403),
            }
        },
        "/v1/sample": {
            "get": {
                "operationId": "sample",
                "summary": "The recordings that come with streamser, as one WAV file",
                "security": _TOKEN,
                "responses": {
                    "200": {"description": "16 kHz, mono, 16 bit.", "content": {"audio/wav": {}}},
                    **_refusals(401, 403, 404),
                },
            }
        },
        "/healthz": {
            "get": {
                "operationId": "health",
                "summary": "Whether the server can do its work, and whether it stores audio",
                "responses": {
                    "200": _response("Health", "The server can do its work."),
                    "503": _response("Health", "The server cannot work; `problems` has the reasons."),
                    **_refusals(403),
                },
            }
        },
        "/livez": {
            "get": {
                "operationId": "live",
                "summary": "Whether the server must be restarted",
                "responses": {
                    "200": _response("Live", "No restart is needed."),
                    "503": _response("Live", "The inference worker has ended: restart the server."),
                    **_refusals(403),
                },
            }
        },
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "summary": "Counters for Prometheus",
                "security": _TOKEN,
                "responses": {
                    "200": {"description": "Prometheus text format 0.0.4.", "content": {"text/plain": {}}},
                    **_refusals(401, 403),
                },
            }
        },
    }


def _query(name: str, description: str, schema: Json, *, required: bool = False) -> Json:
    return {"name": name, "in": "query", "required": required, "description": description, "schema": schema}


def _response(schema: str, description: str) -> Json:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


def _refusals(*statuses: int) -> Json:
    return {
        str(status): {"description": _REFUSALS[status], "content": {"application/json": _PROBLEM}}
        for status in statuses
    }


def _responses(schema: str, *statuses: int) -> Json:
    return {"200": _response(schema, "The response."), **_refusals(*statuses)}


def _own_schemas() -> Json:
    text, number, labels = {"type": "string"}, {"type": "number"}, {"type": "array", "items": {"type": "string"}}
    described = {
        "v": {"const": EVENT_VERSION},
        "model": text,
        "labels": labels,
        "colours": {"type": "object", "additionalProperties": text},
        "threshold": number,
        "recording": {"type": "boolean"},
    }
    segment = {
        "utterance": {"type": "integer"},
        "start_s": number,
        "end_s": number,
        "label": text,
        "confidence": number,
        "uncertain": {"type": "boolean"},
        "scores": {"type": "object", "additionalProperties": number},
    }
    optional = {"type": ["string", "null"]}
    return {
        "Refusal": _object({"error": _object({"code": text, "message": text})}),
        "Labelled": _object(
            {
                **described,
                "stream": text,
                "duration_s": number,
                "elapsed_s": number,
                "warnings": labels,
                "segments": {"type": "array", "items": _object(segment)},
                "events": {"type": "array", "items": _EVENT},
            }
        ),
        "Models": _object(
            {
                "v": {"const": EVENT_VERSION},
                "current": _object({**described, "name": text, "variant": optional, "licence": optional}),
                "models": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"name": text, "labels": labels, "licence": optional, "error": text},
                        "required": ["name"],
                    },
                },
            }
        ),
        "Health": _object(
            {
                "status": {"enum": ["ok", "draining", "failing"]},
                "live": {"type": "boolean"},
                "ready": {"type": "boolean"},
                "problems": labels,
                "version": text,
                "model": text,
                "clients": {"type": "integer"},
                "microphone": {"type": "boolean"},
                "recording": {"type": "boolean"},
                "uptime_s": number,
            }
        ),
        "Live": _object({"live": {"type": "boolean"}}),
    }


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


@cache
def _shared_schemas() -> Json:
    """The two JSON Schemas of the package as components: events, and the other messages of the WebSockets."""
    package = files("streamser")
    event = json.loads(package.joinpath("event_schema.json").read_text(encoding="utf-8"))
    message = json.loads(package.joinpath("server").joinpath("message_schema.json").read_text(encoding="utf-8"))
    found: Json = {"Event": {"description": event["description"], "oneOf": event["oneOf"]}}
    found |= {f"event.{name}": schema for name, schema in event["$defs"].items()}
    messages = {f"message.{name}": schema for name, schema in message["$defs"].items()}
    shared: Json = {**_moved(found, "event"), **_moved(messages, "message")}
    return shared


def _moved(value: Any, prefix: str) -> Any:
    """The same schema with references to the components instead of $defs."""
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            kept = {key: other for key, other in value.items() if key != "$ref"}
            target = reference.replace("#/$defs/", f"#/components/schemas/{prefix}.")
            return {**kept, "$ref": target.replace("urn:streamser:event:1", "#/components/schemas/Event")}
        return {key: _moved(each, prefix) for key, each in value.items()}
    return [_moved(each, prefix) for each in value] if isinstance(value, list) else value


@cache
def asyncapi_document(version: str) -> Json:
    """The WebSockets, as AsyncAPI 3.0."""
    received = ("ready", "event", "status", "error")

    def message(name: str) -> Json:
        schema = "Event" if name == "event" else f"message.{name}"
        return {"name": name, "contentType": "application/json", "payload": {"$ref": f"#/components/schemas/{schema}"}}

    audio = {
        "name": "sound",
        "contentType": "application/octet-stream",
        "summary": "16-bit signed little-endian samples, channels interleaved, whole frames.",
        "payload": {"type": "string", "format": "binary"},
    }
    sent = [name.removeprefix("message.") for name in _shared_schemas() if name.startswith("message.")]
    sent = [name for name in sent if name not in received]
    messages = {**{name: message(name) for name in (*sent, *received)}, "sound": audio}
    stream = [*sent, "sound", *received]
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "streamser", "version": version, "description": "HTTP is described in /openapi.json."},
        "channels": {
            "stream": {
                "address": "/ws/stream",
                "description": "Send hello, then audio; receive ready and events. Send end, then read until the close.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in stream},
            },
            "microphone": {
                "address": "/ws/events",
                "description": "Events of the server's own microphone.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in ("hello", *received)},
            },
        },
        "operations": {
            "sendSound": _operation("receive", "stream", [*sent, "sound"]),
            "getEvents": _operation("send", "stream", received),
            "getMicrophoneEvents": _operation("send", "microphone", received),
        },
        "components": {"messages": messages, "schemas": _shared_schemas()},
    }


def _operation(action: str, channel: str, names: list[str] | tuple[str, ...]) -> Json:
    """One operation, described from the server's side: it receives the messages of clients."""
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names],
    }
